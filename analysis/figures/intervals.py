"""Figures of the public analyses: every value with its interval, and NMS recall over tau.

interval_figure(evaluate(gt, detections).table)
nms_recall_figure(nms_recall(gt, candidates).table)
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.lettering import shortened
from analysis.figures.style import FAINT_INK, INK, new_figure, styled

_ROW = 0.22  # inches per metric
_COLOURS = ("#22262B", "#D4481C", "#6F8FB3", "#4C8C4A", "#9467BD", "#B8860B")  # one per suppression, then again


@styled
def interval_figure(table: pd.DataFrame) -> Figure:
    """One row per metric: its `value` and interval, or where the table has a `difference` that one, with a line at 0.

    Undefined values have a row without a mark. Fractions are drawn in percent; differences of two metrics have a panel
    of their own beside plain ones.
    """
    shown = "difference" if "difference" in table else "value"
    names = table["metric"].str.cat(table["label"], sep=" ").str.strip() if "label" in table else table["metric"]
    rows = table.assign(name=names, value=table[shown])
    is_gap = rows["metric"].str.contains("_minus_") | (shown == "difference")
    parts = [(part, gap) for part, gap in ((rows[~is_gap], False), (rows[is_gap], True)) if len(part)]
    figure = new_figure(7.0, 1.0 + 0.5 * len(parts) + _ROW * len(rows))
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) + 1 for part, _ in parts])
    for axes, (part, gap) in zip(panels[:, 0], parts, strict=True):
        _draw_rows(axes, part)
        if gap:
            axes.axvline(0, color=FAINT_INK, linewidth=1)
        axes.set_xlabel("difference, percentage points" if gap else "%")
    return figure


def _draw_rows(axes: Axes, rows: pd.DataFrame) -> None:
    places = np.arange(len(rows))
    value, low, high = (100 * rows[name].to_numpy(dtype=np.float64) for name in ("value", "low", "high"))
    axes.hlines(places, low, high, color=FAINT_INK, linewidth=1.5)
    axes.plot(value, places, "o", color=INK, markersize=4)
    axes.set_yticks(places, [shortened(name) for name in rows["name"]])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


@styled
def nms_recall_figure(table: pd.DataFrame) -> Figure:
    """NMS recall over tau, one panel per definition, one line per suppression, with its interval as a band."""
    curves = table[table["tau"].notna()]
    definitions, suppressions = curves["definition"].unique(), curves["nms"].unique()
    figure = new_figure(8.0, 6.0)
    panels = figure.subplots(-(-len(definitions) // 2), 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, definition in zip(panels, definitions, strict=False):
        for i, suppression in enumerate(suppressions):
            own = curves[(curves["definition"] == definition) & (curves["nms"] == suppression)]
            tau, nr, low, high = (own[name].to_numpy(dtype=np.float64) for name in ("tau", "nr", "low", "high"))
            colour = _COLOURS[i % len(_COLOURS)]
            axes.fill_between(tau, 100 * low, 100 * high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(tau, 100 * nr, color=colour, label=suppression)
        axes.set_title(definition)
    for axes in panels[-2:]:
        axes.set_xlabel("IoU that finds an object (tau)")
    for axes in panels[::2]:
        axes.set_ylabel("NMS recall, %")
    panels[0].legend()
    return figure
