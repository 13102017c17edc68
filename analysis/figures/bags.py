"""Matching over a data set: where in the objects it happens, how concentrated it is, and what the bags hold.

match_positions_figure(positions)           # columns detector, step, group, matching, u, v, mass
bag_concentration_figure(frame)             # of `analysis.bags.summaries.concentration_frame`
part_distance_figure(frame)                 # of `part_distance_frame` there
bag_boxes_figure(frame)                     # columns detector, anchor, quantity, value, low, high
bag_overlap_figure(frame)                   # columns data, group, rank, low, value, high
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.bags.arrays import BEST_BOX, HIGHEST_SCORE
from analysis.bags.summaries import NUM_BINS, REACH
from analysis.figures import style
from analysis.figures.breakdowns import bin_label
from analysis.figures.images import ASSIGNED_COLOUR, GT_COLOUR, LIKELIHOOD_MAP, PART_COLOUR
from analysis.figures.style import ERROR_LOOK, FAINT_INK, INK, LINE_STYLES, styled

GROUP_NAMES = {
    "all": "all objects",
    "slender": "slender",
    "square": "square",
    "acentric_aligned": "part turned to\nthe upper right",
}
_CONCENTRATION_LABELS = {
    "entropy": "entropy (nats)",
    "effective_anchors": "effective anchors",
    "mean_max": "Mean-max",
    "max_confidence": "best anchor's\nconfidence",
}
_PANEL_INCHES = 1.4
_CENTRE_LOOK: dict[str, Any] = {
    "marker": "+", "color": INK, "markersize": 9, "markeredgewidth": 1.3, "linestyle": "none",
}  # fmt: skip
_MEAN_LOOK: dict[str, Any] = {
    "marker": "o", "markersize": 5.5, "markerfacecolor": "white", "markeredgecolor": INK, "linestyle": "none",
}  # fmt: skip
_PART_LOOK: dict[str, Any] = {
    "marker": "X", "markersize": 9, "markerfacecolor": PART_COLOUR, "markeredgecolor": "white", "linestyle": "none",
}  # fmt: skip
_PICKED = {"1": "first\nby IoU", HIGHEST_SCORE: "highest\nscore", BEST_BOX: "best\nbox"}
BAG_SIZE = 50  # the paper's
_OVERLAP_GROUPS = {"all": "All objects", "slender": "Slender, 3:1 and beyond", "square": "Square, up to 4:3"}
_OVERLAP_COLOURS = ("#0072b2", FAINT_INK)  # the data set's, the reference's


@styled
def match_positions_figure(frame: pd.DataFrame) -> Figure:
    """Where in the object the matched anchors' centres lie: learned at the first and last step, and assigned by IoU.

    Learned twice: by all weights of the bags in Mean-max, and the best-scoring anchor of each bag alone. A row for each
    group of `GROUP_NAMES` that the frame has; where objects are turned to their discriminative part, the mean
    places of weight and part are marked. Colours are shares of the group's weight per bin, on one scale per row.
    FreeAnchor's rows are drawn where the frame holds several detectors, means over its runs.
    """
    rows = style.one_detector(frame)
    groups = [group for group in GROUP_NAMES if (rows.group == group).any()]
    if not groups:
        return style.not_run_figure()
    steps = sorted(rows.step.unique())
    columns = [
        (matching, step, f"{title},\nstep {step:,}")
        for matching, title in (("learned", "Weight"), ("likeliest", "Best-scoring"))
        for step in dict.fromkeys((steps[0], steps[-1]))
    ]
    columns.append(("iou", steps[-1], "By hand:\nIoU"))
    figure = style.new_figure(_PANEL_INCHES * len(columns) + 1.5, _PANEL_INCHES * len(groups) + 1.2)
    panels = figure.subplots(len(groups), len(columns), squeeze=False, sharex=True, sharey=True)
    for line, group in zip(panels, groups, strict=True):
        own = rows[rows.group == group]
        grids = [mass_grid(own[(own.matching == matching) & (own.step == step)]) for matching, step, _ in columns]
        scale = Normalize(0, 100 * max(float(grid.max()) for grid in grids) or 1.0)
        for axes, grid in zip(line, grids, strict=True):
            _draw_positions(axes, 100 * grid, scale, own if group == "acentric_aligned" else own.iloc[:0])
        line[0].set_ylabel(GROUP_NAMES[group], fontsize=10)
        bar = figure.colorbar(ScalarMappable(scale, LIKELIHOOD_MAP), ax=list(line), aspect=10, shrink=0.9, pad=0.02)
        bar.set_label("% per bin", fontsize=9, color=FAINT_INK)
        bar.outline.set_linewidth(0.5)
    for axes, (_, _, title) in zip(panels[0], columns, strict=True):
        axes.set_title(title, fontsize=10)
    figure.supxlabel("place in the object's box, in its widths and heights", fontsize=10)
    _explain_marks(figure, turns="acentric_aligned" in groups)
    return figure


def mass_grid(rows: pd.DataFrame) -> Float[np.ndarray, "N N"]:
    """The bins of one group, matching and step as an image: rows from top to bottom; the mean over runs."""
    grid = np.zeros((NUM_BINS, NUM_BINS))
    width = (REACH[1] - REACH[0]) / NUM_BINS
    column, line = (((rows[name] - REACH[0]) / width).astype(int).to_numpy() for name in ("u", "v"))
    np.add.at(grid, (line, column), rows.mass.to_numpy(dtype=np.float64))
    return grid / max(rows["run"].nunique(), 1)


@styled
def bag_concentration_figure(frame: pd.DataFrame) -> Figure:
    """Entropy, effective anchors and confidences of the bags over training, a line per metric and a column per group.

    Lines are medians over objects, bands their quartiles.
    """
    groups = list(frame.group.unique())
    if not groups:
        return style.not_run_figure()
    figure = style.new_figure(3.5 * len(groups) + 0.4, 0.7 + 2.0 * len(_CONCENTRATION_LABELS))
    panels = figure.subplots(len(_CONCENTRATION_LABELS), len(groups), squeeze=False, sharex=True, sharey="row")
    for line, (metric, label) in zip(panels, _CONCENTRATION_LABELS.items(), strict=True):
        for axes, group in zip(line, groups, strict=True):
            _draw_bands(axes, frame[(frame.group == group) & (frame.metric == metric)])
        line[0].set_ylabel(label)
    for axes, group in zip(panels[0], groups, strict=True):
        axes.set_title(_group_title(group, int(frame[frame.group == group].num_objects.max())))
    for axes in panels[-1]:
        _use_steps(axes, frame)
    style.share_legend(figure, panels[0, 0])
    return figure


@styled
def part_distance_figure(frame: pd.DataFrame) -> Figure:
    """Distance of the matched anchor from the discriminative part (left) and from the box's centre (right).

    Over the steps of training, for the objects whose part lies off their centre: learned in the detector's colour, by
    IoU dashed. Bars and band are 95 % intervals over images.
    """
    if frame.empty:
        return style.not_run_figure()
    figure = style.new_figure(7.4, 3.6)
    panels = figure.subplots(1, 2)
    titles = {"part": "To the discriminative part", "centre": "To the object's centre"}
    for axes, (target, title) in zip(panels, titles.items(), strict=True):
        rows = frame[frame.target == target]
        _draw_by_hand(axes, rows[rows.matching == "iou"])
        for detector, look, shift in style.side_by_side(style.detectors_in(rows), 0.06):
            own = rows[(rows.matching == "learned") & (rows.detector == detector)].sort_values("step")
            places = _places(own.step, frame) + shift
            axes.errorbar(
                places, own.value, style.error_lengths(own) / 100, color=look.colour, marker=look.marker,
                markeredgecolor="white", markeredgewidth=0.7, label=f"{detector}: best-scoring anchor", **ERROR_LOOK,
            )  # fmt: skip
        axes.set_title(title)
        axes.margins(y=0.12)
        _use_steps(axes, frame)
    panels[0].set_ylabel("mean distance (object diagonals)")
    counts = f"{int(frame.num_objects.max()):,} objects in {int(frame.num_images.max()):,} images"
    figure.supxlabel(f"{counts}; 95 % intervals over images", fontsize=9, color=FAINT_INK)
    style.share_legend(figure, panels[0])
    return figure


@styled
def bag_boxes_figure(frame: pd.DataFrame) -> Figure:
    """IoU of the predicted box and class score against an anchor's rank; the boxes of the anchors picked from a bag.

    Dashed: the anchors' own IoU.
    """
    figure = style.new_figure(7.4, 3.0)
    boxes, scores, picked = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.9))
    _draw_ranks(boxes, frame, "box_iou")
    anchors = _by_rank(frame[frame["quantity"] == "anchor_iou"])
    for detector in style.detectors_in(anchors)[:1]:  # the same for all
        own = anchors[anchors["detector"] == detector]
        boxes.plot(own["rank"], own["value"], color=FAINT_INK, linestyle=LINE_STYLES[1], label="the anchor itself")
    _draw_ranks(scores, frame, "score")
    _draw_picked(picked, frame)
    for axes, title, label in (
        (boxes, "Box predicted from it", "IoU with the object"),
        (scores, "Class score there", "score"),
        (picked, "Box picked", "IoU with the object"),
    ):
        axes.set_title(title)
        axes.set_ylabel(label, fontsize=9)
    for axes in (boxes, scores):
        axes.set_xlabel("anchor's rank in the bag", fontsize=9)
    style.share_legend(figure, boxes)
    return figure


@styled
def bag_overlap_figure(frame: pd.DataFrame) -> Figure:
    """Median IoU against rank, quartiles shaded: a panel per group of objects, a line per data set; 50 is dotted."""
    figure = style.new_figure(7.4, 3.0)
    panels = figure.subplots(1, len(_OVERLAP_GROUPS), sharey=True)
    for axes, (group, title) in zip(panels, _OVERLAP_GROUPS.items(), strict=True):
        _draw_overlap(axes, frame[frame["group"] == group])
        axes.set_title(title)
        axes.set_xlabel("rank in the bag, best first")
    panels[0].set_ylabel("IoU with the object")
    style.share_legend(figure, panels[0], loc="outside lower center")
    return figure


def _draw_positions(axes: Axes, grid: np.ndarray, scale: Normalize, parts: pd.DataFrame) -> None:
    """One histogram, the object's box and centre over it; the mean places of its weight and of `parts`, if any."""
    axes.imshow(grid, extent=(REACH[0], REACH[1], REACH[1], REACH[0]), cmap=LIKELIHOOD_MAP, norm=scale)
    axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=GT_COLOUR, linewidth=2.0))
    axes.plot(0.5, 0.5, **_CENTRE_LOOK)
    own = parts[parts.matching == "part"]
    if len(own) and grid.sum() > 0:
        middles = REACH[0] + (np.arange(NUM_BINS) + 0.5) * (REACH[1] - REACH[0]) / NUM_BINS
        axes.plot(
            np.average(middles, weights=grid.sum(axis=0)), np.average(middles, weights=grid.sum(axis=1)), **_MEAN_LOOK
        )
        axes.plot(*np.average(own[["u", "v"]], axis=0, weights=own.mass), **_PART_LOOK)
    axes.grid(visible=False)
    axes.set(xticks=[0, 1], yticks=[0, 1])


def _explain_marks(figure: Figure, *, turns: bool) -> None:
    """What the marks mean; `turns` where a group is turned to its parts."""
    handles = [
        Line2D([], [], color=GT_COLOUR, linewidth=2, label="object"),
        Line2D([], [], label="centre", **_CENTRE_LOOK),
    ]
    if turns:
        handles.append(Line2D([], [], label="mean place of the weight", **_MEAN_LOOK))
        handles.append(Line2D([], [], label="of the discriminative part", **_PART_LOOK))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), columnspacing=1.4)


def _draw_bands(axes: Axes, rows: pd.DataFrame) -> None:
    for number, (detector, look) in enumerate(style.palette(style.detectors_in(rows)).items()):
        own = rows[rows.detector == detector].sort_values("step")
        places = _places(own.step, rows)
        axes.plot(places, own.value, color=look.colour, linestyle=LINE_STYLES[number % len(LINE_STYLES)],
                  marker=look.marker, markeredgecolor="white", label=detector)  # fmt: skip
        axes.fill_between(places, own.low, own.high, color=look.colour, alpha=0.18, linewidth=0)


def _draw_by_hand(axes: Axes, rows: pd.DataFrame) -> None:
    """IoU's choice, which training does not change: a dashed line with its interval as a band."""
    first = rows.iloc[0]
    axes.axhline(first.value, color=ASSIGNED_COLOUR, linestyle=LINE_STYLES[1], label="anchor of highest IoU")
    axes.axhspan(first.low, first.high, color=ASSIGNED_COLOUR, alpha=0.15, linewidth=0)


def _places(steps: pd.Series, frame: pd.DataFrame) -> np.ndarray:
    """Snapshots side by side: they stand at unequal steps, most of them early."""
    return np.searchsorted(np.sort(frame.step.unique()), steps).astype(np.float64)


def _use_steps(axes: Axes, frame: pd.DataFrame) -> None:
    steps = np.sort(frame.step.unique())
    axes.set_xticks(range(len(steps)), [f"{int(step):,}" for step in steps])
    axes.set_xlim(-0.3, len(steps) - 0.7)
    axes.set_xlabel("step of training")


def _group_title(group: str, num_objects: int) -> str:
    name = f"{bin_label(group)} in an image" if group.startswith("objects_") else group
    return f"{name.capitalize()} ({num_objects:,} objects)"


def _by_rank(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of ranks alone, `rank` as a number, rising."""
    ranks = pd.to_numeric(rows["anchor"], errors="coerce")
    return rows.assign(rank=ranks)[ranks.notna()].sort_values("rank")


def _draw_ranks(axes: Axes, frame: pd.DataFrame, quantity: str) -> None:
    rows = _by_rank(frame[frame["quantity"] == quantity])
    if style.is_not_run(axes, rows):
        return
    for detector, look in style.palette(style.detectors_in(rows)).items():
        own = rows[rows["detector"] == detector]
        axes.plot(own["rank"], own["value"], color=look.colour, linewidth=1.6, label=detector)
        axes.fill_between(own["rank"], own["low"], own["high"], color=look.colour, alpha=0.18, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(1, rows["rank"].max())


def _draw_picked(axes: Axes, frame: pd.DataFrame) -> None:
    rows = frame[(frame["quantity"] == "box_iou") & frame["anchor"].isin(list(_PICKED))]
    if style.is_not_run(axes, rows):
        return
    detectors = style.detectors_in(rows)
    for detector, look, shift in style.side_by_side(detectors, min(0.16, 0.7 / len(detectors))):
        own = rows[rows["detector"] == detector].set_index("anchor").reindex(list(_PICKED))
        axes.errorbar(
            np.arange(len(own)) + shift, own["value"], np.nan_to_num(style.error_lengths(own)) / 100, linestyle="",
            color=look.colour, marker=look.marker, markeredgecolor="white", **ERROR_LOOK,
        )  # fmt: skip
    axes.set_xticks(range(len(_PICKED)), list(_PICKED.values()))
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_xlim(-0.5, len(_PICKED) - 0.5)
    axes.margins(y=0.15)


def _draw_overlap(axes: Axes, rows: pd.DataFrame) -> None:
    if rows.empty:
        style.say_not_run(axes)
        return
    looks = zip(_OVERLAP_COLOURS, LINE_STYLES, strict=False)
    for (data, own), (colour, line_style) in zip(rows.groupby("data", sort=False), looks, strict=False):
        axes.plot(own["rank"], own["value"], label=str(data), color=colour, linestyle=line_style)
        axes.fill_between(own["rank"], own["low"], own["high"], color=colour, alpha=0.15, linewidth=0)
    axes.axvline(BAG_SIZE, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1)
    axes.set_xlim(1, rows["rank"].max())
