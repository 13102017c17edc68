"""NMS recall from equally many candidates of a picture: both detectors, before NMS, after it, and their ratio.

What it is: drawing measured values. What it is not: measuring them (`analysis.nms_recall`, `max_candidates`).

    candidates_figure(frame)        # columns detector, budget, num_given, metric, value, low, high

Values are fractions; the axes show percent.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure_style import COLOURS, MARKERS, detectors_in, error_lengths, new_figure, say_not_run, styled

_TITLES = {"recall_before": "Found before NMS", "recall_after": "Found after NMS", "nr": "NMS recall"}
_LOOK: dict[str, Any] = {"elinewidth": 1.2, "capsize": 2.5, "capthick": 1.2, "markeredgecolor": "white"}
_SHIFT = 0.06  # to either side, so that error bars stand side by side
_SPENT = 0.95  # of a budget: where pictures have fewer candidates than that, a point is hollow


@styled
def candidates_figure(frame: pd.DataFrame) -> Figure:
    """Objects found before and after NMS, and NMS recall, against the most candidates of a picture; the last is all.

    Each is the mean over IoU thresholds. Budgets stand side by side in the frame's order, hollow where many pictures
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
        note = "at most so many candidates of a picture, the best-scored (hollow: pictures have fewer)"
        figure.supxlabel(note, fontsize=9.5)
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    if not rows.value.notna().any():
        say_not_run(axes)
        return
    budgets = list(rows.budget.unique())
    for detector, shift in zip(detectors_in(rows), (-_SHIFT, _SHIFT), strict=False):
        own = rows[rows.detector == detector].set_index("budget").reindex(budgets)
        places = np.arange(len(budgets)) + shift
        lengths = np.nan_to_num(error_lengths(own))
        label = f"{detector} (all: {own.num_given.iloc[-1]:,.0f} a picture)"
        look = {"color": COLOURS[detector], "marker": MARKERS[detector], "linewidth": 1.6, "label": label, **_LOOK}
        axes.errorbar(places, 100 * own.value, lengths, **look)
        is_short = own.num_given < _SPENT * pd.to_numeric(pd.Series(budgets, index=own.index), errors="coerce")
        hollow: dict[str, Any] = {"color": COLOURS[detector], "marker": MARKERS[detector], "markerfacecolor": "white"}
        axes.plot(places[is_short], 100 * own.value[is_short], linestyle="", markersize=5, zorder=5, **hollow)
    axes.set_xticks(range(len(budgets)), [str(budget) for budget in budgets])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.margins(y=0.1)
