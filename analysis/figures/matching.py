"""Figs. 1 and 4: which anchors an object is matched with, by hand and learned, on the image itself.

What it is: drawing a frame of matches (see `analysis.bags` for its columns). What it is not: making one.

    figure1(matches, image)     # one image, last step in the frame: assignment by IoU above, learned below
    figure4(matches, image)     # one object, every step in the frame: learned on the left, by IoU on the right

Rows of FreeAnchor are drawn where the frame holds several detectors. `image` is [H, W, 3] uint8, the anchors and boxes
lie in its pixels.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.bags.matches import MatchesError, anchor_centres, anchors_of_ratio, chosen_anchor
from analysis.figures.images import View, draw_box, show_image, view_around
from analysis.figures.style import FAINT_INK, FREEANCHOR, INK, new_figure, say_not_run, styled

GT_COLOUR, ASSIGNED_COLOUR, LEARNED_COLOUR, PART_COLOUR = "#18B548", "#2E86DE", "#E8380D", "#0B6FD6"
# White to dark red, but never so pale that an unlikely anchor vanishes.
LIKELIHOOD_MAP = LinearSegmentedColormap.from_list(
    "likelihood", ["#FFF4EC", "#FCBBA1", "#FB6A4A", "#CB181D", "#67000D"]
)
_PANEL_INCHES = 2.05  # width of a panel of Fig. 4
_LEAST_OPACITY = 0.05  # of an anchor of no weight: the bag as a whole should show


@styled
def figure1(matches: pd.DataFrame, image: UInt8[np.ndarray, "H W 3"]) -> Figure:
    """Fig. 1: the anchors that IoU assigns, all equal (top), and the bag by learned weight, the chosen thick (bottom).

    One object or several of one image; of several steps the last. The opacity of an anchor is its weight over the
    largest in its bag. Says *not run* for an empty frame.
    """
    rows = _learned_rows(matches)
    if rows.empty:
        return _not_run()
    rows = rows[rows.step == rows.step.max()]
    chosen, assigned = chosen_anchor(rows), rows[rows.assigned.astype(bool)]
    view = view_around(_corners(rows, pd.concat([assigned, chosen])), image.shape, margin=0.04)
    figure = new_figure(3.7, 2 * 3.4 * view.height / view.width + 1.0)
    by_hand, learned = figure.subplots(2, 1)
    for axes in (by_hand, learned):
        show_image(axes, image, view, fade=0.2)
    _draw_assigned(by_hand, assigned)
    _draw_bag(learned, rows, chosen)
    for axes in (by_hand, learned):
        _draw_objects(axes, rows)
    by_hand.set_title(f"By hand: {len(assigned)} anchors, all alike" if len(assigned) > 1 else "By hand: 1 anchor")
    learned.set_title(f"FreeAnchor: 1 of a bag of {_bag_size(rows)}")
    _legend_below(figure, rows)
    return figure


@styled
def figure4(
    matches: pd.DataFrame, image: UInt8[np.ndarray, "H W 3"], *, likelihood: str = "confidence", count: int = 16
) -> Figure:
    """Fig. 4: one object's square anchors as dots, darker where likelier to be matched; a row for each step.

    Shown are the `count` anchors of ratio 1:1 of highest IoU in the bag; where it has none (the box is far from square)
    those of its commonest ratio. The figure states which. Left, learned: `likelihood` is "confidence"
    (classification times localization) or "weight" (the share in Mean-max). Right, by hand: IoU, with a ring around the
    anchors that the rule assigns; it does not change with training. Both colour scales hold for all rows. Anchors that
    share a centre (octaves, levels) are set around it. Raises `MatchesError` where the frame holds several objects.
    """
    rows = _learned_rows(matches)
    if rows.empty or rows[likelihood].isna().all():
        return _not_run()
    _require_one_object(rows)
    ratio = shown_ratio(rows)
    anchors = anchors_of_ratio(rows, ratio, count)
    steps = sorted(rows.step.unique())
    view = view_around(np.concatenate([_corners(rows, rows.iloc[:0]), anchor_centres(anchors)]), image.shape)
    figure = new_figure(4.9, (_PANEL_INCHES * view.height / view.width + 0.13) * len(steps) + 1.6)
    panels = figure.subplots(len(steps), 2, squeeze=False)
    scales = Normalize(0, _top(anchors[likelihood])), Normalize(0, _top(anchors.iou))
    for (learned, by_hand), step in zip(panels, steps, strict=True):
        own = anchors[anchors.step == step]
        for axes, metric, scale in ((learned, likelihood, scales[0]), (by_hand, "iou", scales[1])):
            show_image(axes, image, view, fade=0.42)
            _draw_objects(axes, own)
            _draw_dots(axes, own, metric, scale, view)
        learned.set_ylabel(_stage(step, own), fontsize=10)
    panels[0, 0].set_title("Learned", fontsize=11)
    panels[0, 1].set_title("By hand", fontsize=11)
    names = {"confidence": "confidence of the anchor", "weight": "share in Mean-max"}
    _add_scale(figure, panels[:, 0], scales[0], names[likelihood])
    _add_scale(figure, panels[:, 1], scales[1], "IoU with the object")
    figure.suptitle(_selection(anchors, rows, ratio), fontsize=9.5, color=FAINT_INK)
    _legend_below(figure, rows, marks_assigned=bool(anchors.assigned.any()))
    return figure


def shown_ratio(matches: pd.DataFrame) -> float:
    """The ratio (h/w) of the anchors that Fig. 4 shows: 1, or the commonest of the bag where no anchor has ratio 1."""
    ratios = matches.ratio.to_numpy(dtype=np.float64)
    if np.isclose(ratios, 1.0).any():
        return 1.0
    values, counts = np.unique(ratios, return_counts=True)
    return float(values[counts.argmax()])


def dot_places(centres: Float[np.ndarray, "A 2"], radius: float) -> Float[np.ndarray, "A 2"]:
    """Where to draw anchors' dots: at their centres, or spread evenly around a centre that several share."""
    places = centres.astype(np.float64, copy=True)
    _, group = np.unique(np.round(centres, 3), axis=0, return_inverse=True)
    for number in np.unique(group.ravel()):
        members = np.flatnonzero(group.ravel() == number)
        if len(members) > 1:
            angles = -np.pi / 2 + 2 * np.pi * np.arange(len(members)) / len(members)
            places[members] += radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return places


def dot_diameter(centres: Float[np.ndarray, "A 2"], points_a_pixel: float) -> float:
    """Diameter of a dot in points: such that neighbouring centres stay apart, between 5 and 9."""
    distinct = np.unique(np.round(centres, 3), axis=0)
    gaps = np.hypot(*(distinct[:, None] - distinct[None]).transpose(2, 0, 1))
    nearest = float(gaps[gaps > 0].min(initial=np.inf))
    return float(np.clip(0.55 * nearest * points_a_pixel, 5.0, 9.0))


def _learned_rows(matches: pd.DataFrame) -> pd.DataFrame:
    """FreeAnchor's rows, or all where the frame does not hold FreeAnchor."""
    own = matches[matches.detector == FREEANCHOR]
    return own if len(own) else matches


def _not_run() -> Figure:
    figure = new_figure(4.6, 2.6)
    say_not_run(figure.subplots())
    return figure


def _require_one_object(rows: pd.DataFrame) -> None:
    objects = rows[["run", "image_id", "annotation_id"]].drop_duplicates()
    if len(objects) > 1:
        raise MatchesError(
            f"figure4 shows one object of one run, the frame of matches holds {len(objects)}; select one annotation_id"
        )


def _corners(rows: pd.DataFrame, anchors: pd.DataFrame) -> Float[np.ndarray, "P 2"]:
    """Corners of all objects, and of the anchors given."""
    boxes = np.concatenate([_gt_boxes(rows), anchors[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64)])
    return boxes.reshape(-1, 2)


def _gt_boxes(rows: pd.DataFrame) -> Float[np.ndarray, "G 4"]:
    return rows[["gt_x1", "gt_y1", "gt_x2", "gt_y2"]].drop_duplicates().to_numpy(dtype=np.float64)


def _bag_size(rows: pd.DataFrame) -> int:
    return int(rows.groupby(["run", "step", "image_id", "annotation_id"], dropna=False).size().max())


def _draw_objects(axes: Axes, rows: pd.DataFrame) -> None:
    """Boxes of the objects, and the parts that tell their class where known."""
    for box in _gt_boxes(rows):
        draw_box(axes, tuple(box), color=GT_COLOUR, linewidth=2.2, zorder=3, has_halo=True)
    parts = rows[["part_x", "part_y"]].dropna().drop_duplicates()
    axes.plot(parts.part_x, parts.part_y, linestyle="none", zorder=6, **_PART_LOOK)


_PART_LOOK: dict[str, Any] = {
    "marker": "X", "markersize": 9, "markerfacecolor": PART_COLOUR, "markeredgecolor": "white", "markeredgewidth": 1.2,
}  # fmt: skip


def _draw_assigned(axes: Axes, assigned: pd.DataFrame) -> None:
    """What IoU assigns, every anchor alike; thinner, without halo, where there are many."""
    look: dict[str, Any] = (
        {"linewidth": 1.6, "has_halo": True} if len(assigned) <= 12 else {"linewidth": 1.1, "alpha": 0.7}
    )
    for box in assigned[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64):
        draw_box(axes, tuple(box), color=ASSIGNED_COLOUR, **look)
    _draw_centres(axes, anchor_centres(assigned), ASSIGNED_COLOUR, 26)


def _draw_bag(axes: Axes, rows: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """All anchors of the bags, opaque by weight, and the chosen ones thick."""
    largest = rows.groupby(["run", "image_id", "annotation_id"], dropna=False).weight.transform("max")
    opacities = np.maximum((rows.weight / largest).to_numpy(dtype=np.float64), _LEAST_OPACITY)
    for box, opacity in zip(rows[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64), opacities, strict=True):
        draw_box(axes, tuple(box), color=LEARNED_COLOUR, linewidth=1.1, alpha=float(opacity))
    x, y = anchor_centres(rows).T
    axes.scatter(x, y, s=14, color=LEARNED_COLOUR, alpha=opacities, linewidth=0, zorder=4)
    for box in chosen[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64):
        draw_box(axes, tuple(box), color=LEARNED_COLOUR, linewidth=3.0, zorder=4, has_halo=True)
    _draw_centres(axes, anchor_centres(chosen), LEARNED_COLOUR, 60)


def _draw_centres(axes: Axes, centres: Float[np.ndarray, "A 2"], colour: str, size: float) -> None:
    x, y = centres.T
    axes.scatter(x, y, s=size, color=colour, edgecolor="white", linewidth=0.9, zorder=5)


def _draw_dots(axes: Axes, anchors: pd.DataFrame, metric: str, scale: Normalize, view: View) -> None:
    """One dot an anchor, the likeliest on top; a dark ring around those that the rule assigns, for `iou`."""
    ordered = anchors.sort_values(metric, kind="stable")
    centres = anchor_centres(ordered)
    diameter = dot_diameter(centres, points_a_pixel=72 * _PANEL_INCHES / view.width)
    places = dot_places(centres, radius=0.6 * diameter * view.width / (72 * _PANEL_INCHES))
    is_ringed = ordered.assigned.to_numpy(dtype=bool) & (metric == "iou")
    axes.scatter(
        places[:, 0], places[:, 1], c=ordered[metric].to_numpy(dtype=np.float64), cmap=LIKELIHOOD_MAP, norm=scale,
        s=diameter**2,
        edgecolor=np.where(is_ringed, INK, "#8A2A20"), linewidth=np.where(is_ringed, 1.5, 0.5), zorder=5,
    )  # fmt: skip


def _top(values: pd.Series) -> float:
    """The end of a colour scale: the largest value, rounded up to a tenth."""
    largest = float(values.max())
    return max(np.ceil(largest * 10 - 1e-9) / 10, 0.1)


def _stage(step: int, rows: pd.DataFrame) -> str:
    share = step / float(rows.num_steps.iloc[0])
    return f"step {int(step):,}\n({share:.0%})"


def _selection(anchors: pd.DataFrame, rows: pd.DataFrame, ratio: float) -> str:
    """Which anchors are shown, in words; ratios as width to height."""
    shape = f"{1 / ratio:g}:1" if ratio <= 1 else f"1:{ratio:g}"
    return f"the {_bag_size(anchors)} of {_bag_size(rows)} anchors of shape {shape} nearest by IoU"


def _add_scale(figure: Figure, panels: np.ndarray, scale: Normalize, label: str) -> None:
    """A colour bar below a column of panels."""
    top = float(scale.vmax or 1.0)
    bar = figure.colorbar(
        ScalarMappable(scale, LIKELIHOOD_MAP), ax=list(panels), location="bottom", shrink=0.82, aspect=20, pad=0.02
    )
    bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:g}", f"{top:g}"])
    bar.set_label(label, fontsize=10)
    bar.outline.set_linewidth(0.5)


def _legend_below(figure: Figure, rows: pd.DataFrame, *, marks_assigned: bool = False) -> None:
    """What the marks mean."""
    handles = [Line2D([], [], color=GT_COLOUR, linewidth=2.2, label="object")]
    if rows.part_x.notna().any():
        handles.append(Line2D([], [], linestyle="none", label="part that tells its class", **_PART_LOOK))
    if marks_assigned:
        ring: dict[str, Any] = {
            "marker": "o",
            "markersize": 8,
            "markerfacecolor": "none",
            "markeredgecolor": INK,
            "markeredgewidth": 2,
        }
        handles.append(Line2D([], [], linestyle="none", label="assigned", **ring))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2, handletextpad=0.5)
