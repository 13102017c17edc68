"""The ablations: what each value of each factor changes in AP.

What it is: drawing measured differences. What it is not: running them.

    ablations_figure(frame)     # columns factor, tried, is_default, metric ("gain_ap" is drawn), value, low, high

Values are fractions; the axes show points. A value of nan is a run that was not made, and the figure says so.

Boxes and scores that a bag's anchors give, both detectors: by the anchor's rank, and of the anchors picked.

What it is: drawing measured values. What it is not: measuring them (`analysis.bag_boxes`).

    bag_boxes_figure(frame)     # columns detector, anchor, quantity, value, low, high

NMS recall from equally many candidates of an image: both detectors, before NMS, after it, and their ratio.

What it is: drawing measured values. What it is not: measuring them (`analysis.nms_recall`, `max_candidates`).

    candidates_figure(frame)        # columns detector, budget, num_given, metric, value, low, high

Values are fractions; the axes show percent.

The benchmarks: each ratio to a peer on one logarithmic axis, with its aim.

benchmarks_figure(frame)    # columns subject, what, peer, ratio, aim, met; rows without a peer are left out
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.bags.arrays import BEST_BOX, HIGHEST_SCORE
from analysis.figures.style import (
    COLOURS,
    FAINT_INK,
    FREEANCHOR,
    INK,
    MARKERS,
    RETINANET,
    detectors_in,
    error_lengths,
    new_figure,
    say_not_run,
    styled,
)

_COLUMNS = 4


@styled
def ablations_figure(frame: pd.DataFrame) -> Figure:
    """AP of FreeAnchor with one factor changed less the default's, a panel a factor, with the 95 % intervals given.

    The default is a filled point at 0. Factors of numbers share one axis, those of words another: taking a part away
    may cost ten times what another number does.
    """
    rows = frame[frame.metric == "gain_ap"]
    factors = list(rows.factor.unique())
    if not factors:
        figure = new_figure(7.4, 2.0)
        say_not_run(figure.subplots())
        return figure
    num_rows = math.ceil(len(factors) / _COLUMNS)
    figure = new_figure(9.6, 2.5 * num_rows)
    panels = np.atleast_1d(figure.subplots(num_rows, _COLUMNS, squeeze=False)).ravel()
    for axes, factor in zip(panels, factors, strict=False):
        _draw_factor(axes, rows[rows.factor == factor])
        axes.set_title(factor, fontsize=9.5)
    for axes in panels[len(factors) :]:
        axes.set_visible(False)
    is_numeric = [all(map(_is_number, _labels(rows[rows.factor == factor]))) for factor in factors]
    for kind in (True, False):
        _share_limits([axes for axes, own in zip(panels, is_numeric, strict=False) if own is kind])
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel("AP less the\ndefault's (points)")
    return figure


def _labels(rows: pd.DataFrame) -> list[str]:
    """The values tried, as the axis shows them."""
    return [str(tried).removesuffix(" (default)") for tried in rows.tried]


def _draw_factor(axes: Axes, rows: pd.DataFrame) -> None:
    """One panel: the values tried, in the frame's order; numbers are joined by a line, words have no between."""
    labels = _labels(rows)
    places = np.arange(len(rows))
    axes.set_xticks(places, labels if all(map(_is_number, labels)) else [label.replace("-", "-\n") for label in labels])
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    is_default = rows.is_default.to_numpy(dtype=bool)
    if not rows.value[~is_default].notna().any():
        say_not_run(axes, keeps_x=True)
        return
    values = 100 * rows.value.to_numpy(dtype=np.float64)
    axes.axhline(0, color=FAINT_INK, linewidth=0.9)
    axes.errorbar(
        places, values, error_lengths(rows), color=COLOURS[FREEANCHOR], marker="o", markerfacecolor="white",
        elinewidth=1.2, capsize=2.5, ecolor=INK, linewidth=1.2,
        linestyle="-" if all(map(_is_number, labels)) else "none",
    )  # fmt: skip
    axes.plot(places[is_default], values[is_default], "o", color=COLOURS[FREEANCHOR], zorder=4)
    for place in places[np.isnan(values)]:
        axes.text(
            place, 0.03, "not run", transform=axes.get_xaxis_transform(), rotation=90, ha="center", va="bottom",
            color=FAINT_INK, style="italic",
        )  # fmt: skip


def _is_number(label: str) -> bool:
    """Whether a value tried is a number, rather than the name of a variant."""
    return label.replace(".", "", 1).isdigit()


def _share_limits(panels: Sequence[Axes]) -> None:
    """Give panels the limits that hold what each of them shows."""
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


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


_TITLES = {"recall_before": "Found before NMS", "recall_after": "Found after NMS", "nr": "NMS recall"}
_BUDGET_LOOK: dict[str, Any] = {"elinewidth": 1.2, "capsize": 2.5, "capthick": 1.2, "markeredgecolor": "white"}
_BUDGET_SHIFT = 0.06  # to either side, so that error bars stand side by side
_SPENT = 0.95  # of a budget: where images have fewer candidates than that, a point is hollow


@styled
def candidates_figure(frame: pd.DataFrame) -> Figure:
    """Objects found before and after NMS, and NMS recall, against the most candidates of an image; the last is all.

    Each is the mean over IoU thresholds. Budgets stand side by side in the frame's order, hollow where many images
    have fewer candidates; rows of other detectors than the two (the gain) are not drawn.
    """
    figure = new_figure(7.4, 3.0)
    panels = figure.subplots(1, len(_TITLES))
    for axes, (metric, title) in zip(panels, _TITLES.items(), strict=True):
        _draw(axes, frame[frame.metric == metric])
        axes.set_title(title)
    panels[0].set_ylabel("percent, mean over IoU 0.50 to 0.90", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        note = "at most so many candidates of an image, the best-scored (hollow: images have fewer)"
        figure.supxlabel(note, fontsize=9.5)
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    if not rows.value.notna().any():
        say_not_run(axes)
        return
    budgets = list(rows.budget.unique())
    for detector, shift in zip(detectors_in(rows), (-_BUDGET_SHIFT, _BUDGET_SHIFT), strict=False):
        own = rows[rows.detector == detector].set_index("budget").reindex(budgets)
        places = np.arange(len(budgets)) + shift
        lengths = np.nan_to_num(error_lengths(own))
        label = f"{detector} (all: {own.num_given.iloc[-1]:,.0f} an image)"
        look = {
            "color": COLOURS[detector],
            "marker": MARKERS[detector],
            "linewidth": 1.6,
            "label": label,
            **_BUDGET_LOOK,
        }
        axes.errorbar(places, 100 * own.value, lengths, **look)
        is_short = own.num_given < _SPENT * pd.to_numeric(pd.Series(budgets, index=own.index), errors="coerce")
        hollow: dict[str, Any] = {"color": COLOURS[detector], "marker": MARKERS[detector], "markerfacecolor": "white"}
        axes.plot(places[is_short], 100 * own.value[is_short], linestyle="", markersize=5, zorder=5, **hollow)
    axes.set_xticks(range(len(budgets)), [str(budget) for budget in budgets])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.margins(y=0.1)


@styled
def benchmarks_figure(frame: pd.DataFrame) -> Figure:
    """Ours over the peer's, less is better: a filled point where the aim is met, a hollow one where it is missed."""
    rows = frame[frame.ratio.notna()].reset_index(drop=True)
    figure = new_figure(9.0, 1.1 + 0.42 * max(1, len(rows)))
    axes = figure.subplots()
    if rows.empty:
        say_not_run(axes)
        return figure
    places = np.arange(len(rows))[::-1]
    axes.axvline(1, color=INK, linewidth=1)
    ratios, aims = (rows[name].to_numpy(dtype=np.float64) for name in ("ratio", "aim"))
    for place, ratio, aim in zip(places, ratios, aims, strict=True):
        met = ratio <= aim
        colour = FAINT_INK if np.isnan(aim) else COLOURS[RETINANET if met else FREEANCHOR]
        axes.plot([1, ratio], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(ratio, place, "o", color=colour, markersize=7, markerfacecolor=colour if met else "white")
        if not np.isnan(aim):
            axes.plot(aim, place, "|", color=INK, markersize=13, markeredgewidth=1.6)
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{row.what}\nagainst {row.peer}" for row in rows.itertuples()], fontsize=7.5)
    axes.set_xlabel("Ratio to the peer; bar: aim, filled: met", fontsize=9)
    axes.grid(visible=False, axis="y")
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if 0.7 * rows.ratio.min() <= tick <= 3]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    return figure
