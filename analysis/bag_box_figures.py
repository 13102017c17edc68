"""Boxes and scores that a bag's anchors give, both detectors: by the anchor's rank, and of the anchors picked.

What it is: drawing measured values. What it is not: measuring them (`analysis.bag_boxes`).

    bag_boxes_figure(frame)     # columns detector, anchor, quantity, value, low, high
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.bags.arrays import BEST_BOX, HIGHEST_SCORE
from analysis.figure_style import (
    COLOURS,
    FAINT_INK,
    MARKERS,
    detectors_in,
    error_lengths,
    new_figure,
    say_not_run,
    styled,
)

_PICKED = {"1": "first\nby IoU", HIGHEST_SCORE: "highest\nscore", BEST_BOX: "best\nbox"}
_LOOK: dict[str, Any] = {
    "linestyle": "",
    "elinewidth": 1.2,
    "capsize": 2.5,
    "capthick": 1.2,
    "markeredgecolor": "white",
}
_SHIFT = 0.08  # to either side, so that error bars stand side by side


@styled
def bag_boxes_figure(frame: pd.DataFrame) -> Figure:
    """IoU of the predicted box and class score against an anchor's rank; the boxes of the anchors picked from a bag.

    Rows of other detectors than the two (the gain) are not drawn. Dashed: the anchors' own IoU.
    """
    figure = new_figure(7.4, 3.0)
    boxes, scores, picked = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.9))
    _draw_ranks(boxes, frame, "box_iou")
    _draw_anchors(boxes, frame)
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
    handles, labels = boxes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _by_rank(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of ranks alone, `rank` as a number, rising."""
    ranks = pd.to_numeric(rows["anchor"], errors="coerce")
    return rows.assign(rank=ranks)[ranks.notna()].sort_values("rank")


def _draw_ranks(axes: Axes, frame: pd.DataFrame, quantity: str) -> None:
    """A line a detector, its interval shaded."""
    rows = _by_rank(frame[frame["quantity"] == quantity])
    if not rows["value"].notna().any():
        say_not_run(axes)
        return
    for detector in detectors_in(rows):
        own = rows[rows["detector"] == detector]
        axes.plot(own["rank"], own["value"], color=COLOURS[detector], linewidth=1.6, label=detector)
        axes.fill_between(own["rank"], own["low"], own["high"], color=COLOURS[detector], alpha=0.18, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(1, rows["rank"].max())


def _draw_anchors(axes: Axes, frame: pd.DataFrame) -> None:
    """The IoU of the anchors themselves, which is the same for both detectors."""
    rows = _by_rank(frame[frame["quantity"] == "anchor_iou"])
    for detector in detectors_in(rows)[:1]:
        own = rows[rows["detector"] == detector]
        axes.plot(own["rank"], own["value"], color=FAINT_INK, linestyle=(0, (4, 1.6)), label="the anchor itself")


def _draw_picked(axes: Axes, frame: pd.DataFrame) -> None:
    """A point a detector for each anchor of `_PICKED`."""
    rows = frame[(frame["quantity"] == "box_iou") & frame["anchor"].isin(list(_PICKED))]
    if not rows["value"].notna().any():
        say_not_run(axes)
        return
    for detector, shift in zip(detectors_in(rows), (-_SHIFT, _SHIFT), strict=False):
        own = rows[rows["detector"] == detector].set_index("anchor").reindex(list(_PICKED))
        look = {"color": COLOURS[detector], "marker": MARKERS[detector], **_LOOK}
        axes.errorbar(np.arange(len(own)) + shift, own["value"], np.nan_to_num(error_lengths(own)) / 100, **look)
    axes.set_xticks(range(len(_PICKED)), list(_PICKED.values()))
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_xlim(-0.5, len(_PICKED) - 0.5)
    axes.margins(y=0.15)
