"""The bag of one object as heatmaps on the image: what a detector learned beside IoU, a row of panels a level.

What it is: drawing a frame of matches with two columns more, `stride_x` and `stride_y` (width and height of a cell of
the anchor's level, in pixels of the image). What it is not: making one (`analysis.bags` says what it holds).

    match_heatmaps(matches, image)                                  # one detector: confidence, IoU, cls, loc
    match_heatmaps(matches, image, labels=["step 70", "step 350"])  # several, or one over training: confidence of each

A panel colours the cells of one pyramid level that have an anchor in the bag; of several anchors in a cell it shows the
best. Darker is likelier. A detector is what shares `run` and `step`; detectors keep the frame's order.
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
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.bags.matches import (
    BAG_COLUMNS,
    MatchesError,
    anchor_centres,
    chosen_anchor,
    preferred_by_iou,
    summarize_bags,
)
from analysis.figures.images import View, draw_box, show_image, view_around
from analysis.figures.matching import ASSIGNED_COLOUR, GT_COLOUR, LEARNED_COLOUR, LIKELIHOOD_MAP, PART_COLOUR
from analysis.figures.style import FAINT_INK, new_figure, say_not_run, styled

HEATMAP_COLUMNS = ("stride_x", "stride_y")
METRIC_TITLES = {
    "confidence": "Learned: confidence",
    "iou": "By hand: IoU",
    "cls_prob": "Class score",
    "loc_prob": "Localization",
}
_PANEL_INCHES = 2.15
_TITLE_LETTERS = 23  # a line that a panel has room for
_CELL_OPACITY = 0.82  # the object should still show through


@dataclass(frozen=True, kw_only=True)
class _Column:
    """What one column of panels shows: a metric of one detector's bag."""

    title: str
    metric: str
    rows: pd.DataFrame
    is_reference: bool = False  # stands beside several detectors, for none of them: no chosen anchor is shown


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
    _check(matches)
    if matches.empty:
        figure = new_figure(4.6, 2.6)
        say_not_run(figure.subplots())
        return figure
    stages = [rows for _, rows in matches.groupby(["run", "step"], sort=False, dropna=False)]
    columns = _columns_of_one(stages[0]) if len(stages) == 1 else _columns_of_several(stages, labels)
    levels = sorted(matches.level.unique())
    view = _view(matches, image)
    panel_height = _PANEL_INCHES * view.height / view.width
    num_lines = max(column.title.count("\n") for column in columns) + (2 if matches.part_x.notna().any() else 1)
    figure = new_figure(
        _PANEL_INCHES * len(columns) + 0.5, (panel_height + 0.1) * len(levels) + 1.25 + 0.19 * num_lines
    )
    panels = figure.subplots(len(levels), len(columns), squeeze=False)
    for number, column in enumerate(columns):
        scale = _scale(columns, column.metric)
        for axes, level in zip(panels[:, number], levels, strict=True):
            _draw_level(axes, column, int(level), scale, image, view)
        panels[0, number].set_title(column.title, fontsize=10)
        _add_scale(figure, panels[:, number], scale, column.metric)
    for axes, level in zip(panels[:, 0], levels, strict=True):
        axes.set_ylabel(_level_label(matches, int(level)), fontsize=10)
    figure.suptitle(_headline(stages), fontsize=10.5)
    _legend_below(figure, matches)
    return figure


def cell_values(rows: pd.DataFrame, metric: str) -> tuple[Float[np.ndarray, "C 4"], Float[np.ndarray, " C"]]:
    """Cells of the anchors in `rows` as xyxy boxes in pixels, and in each the greatest value of its anchors."""
    centres = anchor_centres(rows)
    cells, place = np.unique(np.round(centres, 3), axis=0, return_inverse=True)
    values = np.full(len(cells), -np.inf)
    np.maximum.at(values, place.ravel(), rows[metric].to_numpy(dtype=np.float64))
    half = np.zeros_like(cells)
    half[place.ravel()] = rows[list(HEATMAP_COLUMNS)].to_numpy(dtype=np.float64) / 2
    return np.hstack([cells - half, cells + half]), values


def _columns_of_one(rows: pd.DataFrame) -> list[_Column]:
    return [_Column(title=title, metric=metric, rows=rows) for metric, title in METRIC_TITLES.items()]


def _columns_of_several(stages: list[pd.DataFrame], labels: Sequence[str] | None) -> list[_Column]:
    """Confidence of each, entropy and effective anchors of its bag under its name, then IoU."""
    names = labels or [f"{rows.detector.iloc[0]}, step {rows.step.iloc[0]:g}" for rows in stages]
    columns = []
    for name, rows in zip(names, stages, strict=True):
        summary = summarize_bags(rows).iloc[0]
        concentration = f"{summary.entropy:.2f} nats, {summary.effective_anchors:.1f} effective"
        title = f"{textwrap.fill(name, _TITLE_LETTERS)}\n{concentration}"
        columns.append(_Column(title=title, metric="confidence", rows=rows))
    return [*columns, _Column(title=f"{METRIC_TITLES['iou']}\n ", metric="iou", rows=stages[-1], is_reference=True)]


def _scale(columns: Sequence[_Column], metric: str) -> Normalize:
    """From 0 to the largest value shown, rounded up to a tenth; one scale for all columns of a metric."""
    largest = max(float(column.rows[metric].max()) for column in columns if column.metric == metric)
    return Normalize(0, max(np.ceil(largest * 10 - 1e-9) / 10, 0.1))


def _draw_level(axes: Axes, column: _Column, level: int, scale: Normalize, image: np.ndarray, view: View) -> None:
    show_image(axes, image, view, fade=0.35)
    rows = column.rows[column.rows.level == level]
    cells, values = cell_values(rows, column.metric)
    tiles = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in cells.tolist()]
    heat = PatchCollection(
        tiles, cmap=LIKELIHOOD_MAP, norm=scale, alpha=_CELL_OPACITY, edgecolor="white", linewidth=0.4, zorder=2
    )
    heat.set_array(values)
    axes.add_collection(heat)
    for gt in column.rows[["gt_x1", "gt_y1", "gt_x2", "gt_y2"]].drop_duplicates().to_numpy(dtype=np.float64):
        draw_box(axes, tuple(gt), color=GT_COLOUR, linewidth=2.0, zorder=3, has_halo=True)
    _draw_anchor(axes, preferred_by_iou(column.rows), level, ASSIGNED_COLOUR, "s")
    if not column.is_reference:
        _draw_anchor(axes, chosen_anchor(column.rows), level, LEARNED_COLOUR, "o")
    part = column.rows[["part_x", "part_y"]].dropna().drop_duplicates()
    axes.plot(part.part_x, part.part_y, linestyle="none", zorder=6, **_PART_LOOK)


def _draw_anchor(axes: Axes, anchor: pd.DataFrame, level: int, colour: str, marker: str) -> None:
    """An anchor's outline and centre, in the panels of its own level."""
    own = anchor[anchor.level == level]
    for box in own[["x1", "y1", "x2", "y2"]].to_numpy(dtype=np.float64):
        draw_box(axes, tuple(box), color=colour, linewidth=1.8, zorder=4, has_halo=True)
    x, y = anchor_centres(own).T
    # the two may be one anchor: a round mark lies within the square one
    axes.scatter(x, y, s=58 if marker == "s" else 26, marker=marker, color=colour, edgecolor="white", zorder=5)


_PART_LOOK: dict[str, Any] = {
    "marker": "X", "markersize": 8, "markerfacecolor": PART_COLOUR, "markeredgecolor": "white", "markeredgewidth": 1.1,
}  # fmt: skip


def _view(matches: pd.DataFrame, image: np.ndarray) -> View:
    """Room for every cell, the object, and the two anchors of every detector."""
    cells, _ = cell_values(matches, "iou")
    outlined = pd.concat([chosen_anchor(matches), preferred_by_iou(matches)])
    boxes = [cells]
    boxes += [frame[list(names)].to_numpy(dtype=np.float64) for frame, names in (
        (outlined, ("x1", "y1", "x2", "y2")), (matches, ("gt_x1", "gt_y1", "gt_x2", "gt_y2")),
    )]  # fmt: skip
    height, width = image.shape[:2]
    corners = np.concatenate(boxes).reshape(-1, 2).clip(0, (width, height))
    return view_around(corners, image.shape, margin=0.03)


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
    name = f"{first.category.iloc[0]}, {size[0]:.0f} × {size[1]:.0f} px"
    summary = summarize_bags(first).iloc[0]
    if len(stages) > 1:
        whole = f"{np.log(summary.num_anchors):.2f} nats, {summary.num_anchors} anchors"
        return f"{name} (bags: at most {whole})"
    return (
        f"{name}: entropy {summary.entropy:.2f} of {np.log(summary.num_anchors):.2f} nats, "
        f"{summary.effective_anchors:.1f} effective anchors of {summary.num_anchors}"
    )


def _add_scale(figure: Figure, panels: np.ndarray, scale: Normalize, metric: str) -> None:
    """A colour bar below a column of panels."""
    top = float(scale.vmax or 1.0)
    bar = figure.colorbar(
        ScalarMappable(scale, LIKELIHOOD_MAP), ax=list(panels), location="bottom", shrink=0.82, aspect=18, pad=0.02
    )
    bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:g}", f"{top:g}"])
    bar.outline.set_linewidth(0.5)
    bar.set_label("IoU with the object" if metric == "iou" else "probability", fontsize=9, color=FAINT_INK)


def _legend_below(figure: Figure, matches: pd.DataFrame) -> None:
    """What the outlines mean."""
    handles = [
        Line2D([], [], color=GT_COLOUR, linewidth=2.0, label="object"),
        Line2D([], [], color=LEARNED_COLOUR, marker="o", markersize=5, linewidth=1.8, label="anchor chosen (learned)"),
        Line2D([], [], color=ASSIGNED_COLOUR, marker="s", markersize=6, linewidth=1.8, label="anchor of highest IoU"),
    ]
    if matches.part_x.notna().any():
        handles.append(Line2D([], [], linestyle="none", label="part that tells its class", **_PART_LOOK))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(handles) > 3 else 3, columnspacing=1.4)


def _check(matches: pd.DataFrame) -> None:
    """Refuse frames without cells, or of several objects."""
    missing = [name for name in HEATMAP_COLUMNS if name not in matches.columns]
    if missing:
        raise MatchesError(f"the frame of matches lacks {', '.join(missing)}; give the size of each anchor's cell")
    objects = matches[list(BAG_COLUMNS[4:6])].drop_duplicates()
    if len(objects) > 1:
        raise MatchesError(f"a heatmap shows one object, the frame of matches holds {len(objects)}; select one")
