"""Which anchors an object is matched with, by hand and learned, on the image itself: Figs. 1 and 4, and heatmaps.

    figure1(matches, image)             # one image, last step in the frame: assignment by IoU above, learned below
    figure4(matches, image)             # one object, every step in the frame: learned on the left, by IoU on the right
    match_heatmaps(matches, image)      # one object, a row of panels per level: confidence, IoU, cls, loc
    match_heatmaps(matches, image, labels=["step 70", "step 350"])  # of several detectors or steps: confidence of each

`matches` is a frame as `analysis.bags.matches` has it; the first two draw FreeAnchor's rows where it holds several
detectors. `image` is [H, W, 3] uint8, the anchors and boxes lie in its pixels.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.bags import matches as bags
from analysis.bags.matches import MatchesError, anchor_centres, chosen_anchor
from analysis.figures import images
from analysis.figures.images import ASSIGNED_COLOUR, GT_COLOUR, LEARNED_COLOUR, LIKELIHOOD_MAP, View, draw_box
from analysis.figures.lettering import shortened
from analysis.figures.style import FAINT_INK, INK, new_figure, not_run_figure, one_detector, styled

HEATMAP_COLUMNS = ("stride_x", "stride_y")  # width and height of a cell of the anchor's level, in pixels of the image
METRIC_TITLES = {
    "confidence": "Learned: confidence",
    "iou": "By hand: IoU",
    "cls_prob": "Class score",
    "loc_prob": "Localization",
}
_NUM_DOTS = 16  # as in the paper's Fig. 4
_PANEL_INCHES = 2.05  # width of a panel of Fig. 4
_HEATMAP_INCHES = 2.15  # width of a panel of heatmaps
_TITLE_LETTERS = 23  # a line that such a panel has room for
_CELL_OPACITY = 0.82  # the object should still show through
_PART_LOOK: dict[str, Any] = {
    "marker": "X", "markerfacecolor": images.PART_COLOUR, "markeredgecolor": "white", "linestyle": "none",
}  # fmt: skip
_PART_IN_FIGURES: dict[str, Any] = {"markersize": 9, "markeredgewidth": 1.2}
_PART_IN_HEATMAPS: dict[str, Any] = {"markersize": 8, "markeredgewidth": 1.1}


@dataclass(frozen=True, kw_only=True)
class _Column:
    """What one column of heatmaps shows: a metric of one detector's bag."""

    title: str
    metric: str
    rows: pd.DataFrame
    is_reference: bool = False  # stands beside several detectors, for none of them: no chosen anchor is shown


@styled
def figure1(matches: pd.DataFrame, image: UInt8[np.ndarray, "H W 3"]) -> Figure:
    """Fig. 1: the anchors that IoU assigns, all equal (top), and the bag by learned weight, the chosen thick (bottom).

    One object or several of one image; of several steps the last. The opacity of an anchor is its weight over the
    largest in its bag. Says *not run* for an empty frame.
    """
    rows = one_detector(matches)
    if rows.empty:
        return not_run_figure()
    rows = rows[rows.step == rows.step.max()]
    chosen, assigned = chosen_anchor(rows), rows[rows.assigned.astype(bool)]
    view = images.view_around(_corners(rows, pd.concat([assigned, chosen])), image.shape, margin=0.04)
    figure = new_figure(3.7, 2 * 3.4 * view.height / view.width + 1.0)
    by_hand, learned = figure.subplots(2, 1)
    for axes in (by_hand, learned):
        images.show_image(axes, image, view, fade=0.2)
    _draw_assigned(by_hand, assigned)
    images.draw_bag(learned, rows, widths=(1.1, 3.0), sizes=(14, 60), rim=0.9, zorder=2)
    for axes in (by_hand, learned):
        _draw_objects(axes, rows)
    by_hand.set_title(f"By hand: {len(assigned)} anchors, all alike" if len(assigned) > 1 else "By hand: 1 anchor")
    learned.set_title(f"{rows.detector.iloc[0]}: 1 of a bag of {_bag_size(rows)}")
    _legend_below(figure, rows)
    return figure


@styled
def figure4(matches: pd.DataFrame, image: UInt8[np.ndarray, "H W 3"]) -> Figure:
    """Fig. 4: one object's square anchors as dots, darker where matching is likelier; a row per step.

    Shown are the 16 anchors of ratio 1:1 of highest IoU in the bag; where it has none (the box is far from square)
    those of its commonest ratio. The figure states which. Left, learned: confidence (classification times
    localization). Right, by hand: IoU, with a ring around the anchors that the rule assigns; it does not change with
    training. Both colour scales hold for all rows. Anchors that share a centre (octaves, levels) are set around it.
    Raises `MatchesError` where the frame holds several objects.
    """
    rows = one_detector(matches)
    if rows.empty or rows.confidence.isna().all():
        return not_run_figure()
    objects = rows[["run", "image_id", "annotation_id"]].drop_duplicates()
    if len(objects) > 1:
        raise MatchesError(
            f"figure4 shows one object of one run, the frame of matches holds {len(objects)}; select one annotation_id"
        )
    ratio = shown_ratio(rows)
    anchors = bags.anchors_of_ratio(rows, ratio, _NUM_DOTS)
    steps = sorted(rows.step.unique())
    view = images.view_around(np.concatenate([_corners(rows, rows.iloc[:0]), anchor_centres(anchors)]), image.shape)
    figure = new_figure(4.9, (_PANEL_INCHES * view.height / view.width + 0.13) * len(steps) + 1.6)
    panels = figure.subplots(len(steps), 2, squeeze=False)
    scales = _scale(anchors.confidence), _scale(anchors.iou)
    for (learned, by_hand), step in zip(panels, steps, strict=True):
        own = anchors[anchors.step == step]
        for axes, metric, scale in ((learned, "confidence", scales[0]), (by_hand, "iou", scales[1])):
            images.show_image(axes, image, view, fade=0.42)
            _draw_objects(axes, own)
            _draw_dots(axes, own, metric, scale, view)
        learned.set_ylabel(_stage(step, own), fontsize=10)
    panels[0, 0].set_title("Learned", fontsize=11)
    panels[0, 1].set_title("By hand", fontsize=11)
    labels = "confidence of the anchor", "IoU with the object"
    for column, scale, label in zip(panels.T, scales, labels, strict=True):
        _add_scale(figure, column, scale, aspect=20).set_label(label, fontsize=10)
    figure.suptitle(_selection(anchors, rows, ratio), fontsize=9.5, color=FAINT_INK)
    _legend_below(figure, rows, marks_assigned=bool(anchors.assigned.any()))
    return figure


@styled
def match_heatmaps(
    matches: pd.DataFrame, image: UInt8[np.ndarray, "H W 3"], labels: Sequence[str] | None = None
) -> Figure:
    """One object's bag on the image, a row of panels for each level that it touches.

    One detector: columns for confidence (classification times localization), IoU, class score and localization, each
    with its own colour scale. Several: confidence of each under its label on one scale, then IoU, that of the last
    detector's bag. Outlined are the object, the anchor of greatest confidence and that of highest IoU, each in the
    panels of its own level. Raises `MatchesError` for several objects, or where the columns `HEATMAP_COLUMNS` are
    missing. Says *not run* for an empty frame.
    """
    _check_heatmaps(matches)
    if matches.empty:
        return not_run_figure()
    stages = [rows for _, rows in matches.groupby(["run", "step"], sort=False, dropna=False)]
    columns = _columns_of_one(stages[0]) if len(stages) == 1 else _columns_of_several(stages, labels)
    levels = sorted(matches.level.unique())
    view = _heatmap_view(matches, image)
    panel_height = _HEATMAP_INCHES * view.height / view.width
    num_lines = max(column.title.count("\n") for column in columns) + (2 if matches.part_x.notna().any() else 1)
    figure = new_figure(
        _HEATMAP_INCHES * len(columns) + 0.5, (panel_height + 0.1) * len(levels) + 1.25 + 0.19 * num_lines
    )
    panels = figure.subplots(len(levels), len(columns), squeeze=False)
    for number, column in enumerate(columns):
        scale = _scale(pd.concat([other.rows[column.metric] for other in columns if other.metric == column.metric]))
        for axes, level in zip(panels[:, number], levels, strict=True):
            _draw_level(axes, column, int(level), scale, image, view)
        panels[0, number].set_title(column.title, fontsize=10)
        label = "IoU with the object" if column.metric == "iou" else "probability"
        _add_scale(figure, panels[:, number], scale, aspect=18).set_label(label, fontsize=9, color=FAINT_INK)
    for axes, level in zip(panels[:, 0], levels, strict=True):
        axes.set_ylabel(_level_label(matches, int(level)), fontsize=10)
    figure.suptitle(_headline(stages), fontsize=10.5)
    _heatmap_legend(figure, matches)
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


def cell_values(rows: pd.DataFrame, metric: str) -> tuple[Float[np.ndarray, "C 4"], Float[np.ndarray, " C"]]:
    """Cells of the anchors in `rows` as xyxy boxes in pixels, and in each the greatest value of its anchors."""
    centres = anchor_centres(rows)
    cells, place = np.unique(np.round(centres, 3), axis=0, return_inverse=True)
    values = np.full(len(cells), -np.inf)
    np.maximum.at(values, place.ravel(), rows[metric].to_numpy(dtype=np.float64))
    half = np.zeros_like(cells)
    half[place.ravel()] = rows[list(HEATMAP_COLUMNS)].to_numpy(dtype=np.float64) / 2
    return np.hstack([cells - half, cells + half]), values


def _corners(rows: pd.DataFrame, anchors: pd.DataFrame) -> Float[np.ndarray, "P 2"]:
    """Corners of all objects, and of the anchors given."""
    return np.concatenate([images.gt_boxes_of(rows), images.boxes_of(anchors)]).reshape(-1, 2)


def _bag_size(rows: pd.DataFrame) -> int:
    return int(rows.groupby(["run", "step", "image_id", "annotation_id"], dropna=False).size().max())


def _draw_objects(axes: Axes, rows: pd.DataFrame) -> None:
    """Boxes of the objects, and their discriminative parts where known."""
    for box in images.gt_boxes_of(rows):
        draw_box(axes, box, color=GT_COLOUR, linewidth=2.2, zorder=3, has_halo=True)
    parts = rows[["part_x", "part_y"]].dropna().drop_duplicates()
    axes.plot(parts.part_x, parts.part_y, zorder=6, **_PART_LOOK, **_PART_IN_FIGURES)


def _draw_assigned(axes: Axes, assigned: pd.DataFrame) -> None:
    """What IoU assigns, every anchor alike; thinner, without halo, where there are many."""
    look: dict[str, Any] = (
        {"linewidth": 1.6, "has_halo": True} if len(assigned) <= 12 else {"linewidth": 1.1, "alpha": 0.7}
    )
    for box in images.boxes_of(assigned):
        draw_box(axes, box, color=ASSIGNED_COLOUR, **look)
    x, y = anchor_centres(assigned).T
    axes.scatter(x, y, s=26, color=ASSIGNED_COLOUR, edgecolor="white", linewidth=0.9, zorder=5)


def _draw_dots(axes: Axes, anchors: pd.DataFrame, metric: str, scale: Normalize, view: View) -> None:
    """One dot per anchor, the best-scoring on top; a dark ring around those that the rule assigns, for `iou`."""
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


def _scale(values: pd.Series) -> Normalize:
    """From 0 to the largest value, rounded up to a tenth."""
    return Normalize(0, max(np.ceil(float(values.max()) * 10 - 1e-9) / 10, 0.1))


def _stage(step: int, rows: pd.DataFrame) -> str:
    share = step / float(rows.num_steps.iloc[0])
    return f"step {int(step):,}\n({share:.0%})"


def _selection(anchors: pd.DataFrame, rows: pd.DataFrame, ratio: float) -> str:
    """Which anchors are shown, in words; ratios as width to height."""
    shape = f"{1 / ratio:g}:1" if ratio <= 1 else f"1:{ratio:g}"
    return f"the {_bag_size(anchors)} of {_bag_size(rows)} anchors of shape {shape} nearest by IoU"


def _add_scale(figure: Figure, panels: np.ndarray, scale: Normalize, aspect: int) -> Colorbar:
    top = float(scale.vmax or 1.0)
    bar = figure.colorbar(
        ScalarMappable(scale, LIKELIHOOD_MAP), ax=list(panels), location="bottom", shrink=0.82, aspect=aspect, pad=0.02
    )
    bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:g}", f"{top:g}"])
    bar.outline.set_linewidth(0.5)
    return bar


def _legend_below(figure: Figure, rows: pd.DataFrame, *, marks_assigned: bool = False) -> None:
    handles = [Line2D([], [], color=GT_COLOUR, linewidth=2.2, label="object")]
    if rows.part_x.notna().any():
        handles.append(_part_mark(_PART_IN_FIGURES))
    if marks_assigned:
        ring: dict[str, Any] = {"marker": "o", "markersize": 8, "markerfacecolor": "none", "markeredgecolor": INK}
        handles.append(Line2D([], [], linestyle="none", label="assigned", markeredgewidth=2, **ring))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, columnspacing=1.2, handletextpad=0.5)


def _part_mark(size: dict[str, Any]) -> Line2D:
    return Line2D([], [], label="discriminative part", **_PART_LOOK, **size)


def _columns_of_one(rows: pd.DataFrame) -> list[_Column]:
    return [_Column(title=title, metric=metric, rows=rows) for metric, title in METRIC_TITLES.items()]


def _columns_of_several(stages: list[pd.DataFrame], labels: Sequence[str] | None) -> list[_Column]:
    """Confidence of each, entropy and effective anchors of its bag under its name, then IoU."""
    names = labels or [f"{rows.detector.iloc[0]}, step {rows.step.iloc[0]:g}" for rows in stages]
    columns = []
    for name, rows in zip(names, stages, strict=True):
        summary = bags.summarize_bags(rows).iloc[0]
        concentration = f"{summary.entropy:.2f} nats, {summary.effective_anchors:.1f} effective"
        title = f"{textwrap.fill(name, _TITLE_LETTERS)}\n{concentration}"
        columns.append(_Column(title=title, metric="confidence", rows=rows))
    return [*columns, _Column(title=f"{METRIC_TITLES['iou']}\n ", metric="iou", rows=stages[-1], is_reference=True)]


def _draw_level(axes: Axes, column: _Column, level: int, scale: Normalize, image: np.ndarray, view: View) -> None:
    images.show_image(axes, image, view, fade=0.35)
    rows = column.rows[column.rows.level == level]
    cells, values = cell_values(rows, column.metric)
    tiles = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in cells.tolist()]
    heat = PatchCollection(
        tiles, cmap=LIKELIHOOD_MAP, norm=scale, alpha=_CELL_OPACITY, edgecolor="white", linewidth=0.4, zorder=2
    )
    heat.set_array(values)
    axes.add_collection(heat)
    for box in images.gt_boxes_of(column.rows):
        draw_box(axes, box, color=GT_COLOUR, linewidth=2.0, zorder=3, has_halo=True)
    _draw_anchor(axes, bags.preferred_by_iou(column.rows), level, ASSIGNED_COLOUR, "s")
    if not column.is_reference:
        _draw_anchor(axes, chosen_anchor(column.rows), level, LEARNED_COLOUR, "o")
    part = column.rows[["part_x", "part_y"]].dropna().drop_duplicates()
    axes.plot(part.part_x, part.part_y, zorder=6, **_PART_LOOK, **_PART_IN_HEATMAPS)


def _draw_anchor(axes: Axes, anchor: pd.DataFrame, level: int, colour: str, marker: str) -> None:
    """An anchor's outline and centre, in the panels of its own level."""
    own = anchor[anchor.level == level]
    for box in images.boxes_of(own):
        draw_box(axes, box, color=colour, linewidth=1.8, zorder=4, has_halo=True)
    x, y = anchor_centres(own).T
    # the two may be one anchor: a round mark lies within the square one
    axes.scatter(x, y, s=58 if marker == "s" else 26, marker=marker, color=colour, edgecolor="white", zorder=5)


def _heatmap_view(matches: pd.DataFrame, image: np.ndarray) -> View:
    """Room for every cell, the object, and the two anchors of every detector."""
    cells, _ = cell_values(matches, "iou")
    outlined = pd.concat([chosen_anchor(matches), bags.preferred_by_iou(matches)])
    height, width = image.shape[:2]
    corners = np.concatenate([cells.reshape(-1, 2), _corners(matches, outlined)]).clip(0, (width, height))
    return images.view_around(corners, image.shape, margin=0.03)


def _level_label(matches: pd.DataFrame, level: int) -> str:
    own = matches[matches.level == level]
    stage = own.groupby(["run", "step"], sort=False, dropna=False).size()
    counts = sorted(set(stage.tolist()))
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return f"P{level}, cells of {own.stride_x.iloc[0]:.3g} px\n{number} anchors"


def _headline(stages: Sequence[pd.DataFrame]) -> str:
    """The object, and how concentrated its bag is where there is but one."""
    first = stages[0]
    size = first.gt_x2.iloc[0] - first.gt_x1.iloc[0], first.gt_y2.iloc[0] - first.gt_y1.iloc[0]
    name = f"{shortened(first.category.iloc[0])}, {size[0]:.0f} × {size[1]:.0f} px"
    summary = bags.summarize_bags(first).iloc[0]
    if len(stages) > 1:
        whole = f"{np.log(summary.num_anchors):.2f} nats, {summary.num_anchors} anchors"
        return f"{name} (bags: at most {whole})"
    return (
        f"{name}: entropy {summary.entropy:.2f} of {np.log(summary.num_anchors):.2f} nats, "
        f"{summary.effective_anchors:.1f} effective anchors of {summary.num_anchors}"
    )


def _heatmap_legend(figure: Figure, matches: pd.DataFrame) -> None:
    handles = [
        Line2D([], [], color=GT_COLOUR, linewidth=2.0, label="object"),
        Line2D([], [], color=LEARNED_COLOUR, marker="o", markersize=5, linewidth=1.8, label="anchor chosen (learned)"),
        Line2D([], [], color=ASSIGNED_COLOUR, marker="s", markersize=6, linewidth=1.8, label="anchor of highest IoU"),
    ]
    if matches.part_x.notna().any():
        handles.append(_part_mark(_PART_IN_HEATMAPS))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(handles) > 3 else 3, columnspacing=1.4)


def _check_heatmaps(matches: pd.DataFrame) -> None:
    """Refuse frames without cells, or of several objects."""
    missing = [name for name in HEATMAP_COLUMNS if name not in matches.columns]
    if missing:
        raise MatchesError(f"the frame of matches lacks {', '.join(missing)}; give the size of each anchor's cell")
    objects = matches[list(bags.BAG_COLUMNS[4:6])].drop_duplicates()
    if len(objects) > 1:
        raise MatchesError(f"a heatmap shows one object, the frame of matches holds {len(objects)}; select one")
