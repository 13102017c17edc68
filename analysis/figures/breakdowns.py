"""What the detectors find, part by part: by the shape of objects, by crowdedness, by the number of candidates.

    figure5(frame)              # columns detector, panel, label, median_aspect, num_objects, value, low, high
    figure6(frame)              # columns detector, bin, num_images, num_objects, value, low, high
    candidates_figure(frame)    # columns detector, budget, num_given, metric, value, low, high

Values are fractions; the axes show percent. A value of nan is a run that was not made, and the figure says so. Columns
`minimum` and `maximum`, where given, are the range over seeds.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.figures import style
from analysis.figures.style import DETECTORS, ERROR_LOOK, FAINT_INK, INK, VERMILION, styled

_GROUP_WIDTH = 0.72  # of the bars of one group together
_CANDIDATES_TITLES = {"recall_before": "Found before NMS", "recall_after": "Found after NMS", "nr": "NMS recall"}
_SPENT = 0.95  # of a budget: where images have fewer candidates than that, a point is hollow


@styled
def figure5(frame: pd.DataFrame) -> Figure:
    """Fig. 5: AP on square and slender objects, and of each category against how slender its objects are.

    Rows of panel "group" (`label` square, middle, slender) become bars on the left, with FreeAnchor's gain above each
    pair; rows of panel "category" become points on the right, the two of a category joined by a line.
    """
    figure = style.new_figure(7.4, 3.5)
    groups, categories = figure.subplots(1, 2, width_ratios=[1, 1.25], sharey=True)
    _draw_groups(groups, frame[frame.panel == "group"])
    _draw_categories(categories, frame[frame.panel == "category"])
    groups.autoscale(axis="y")  # both panels on one scale that holds the points of both
    groups.set_ylim(bottom=0)
    _legend_above(figure, frame)
    return figure


@styled
def figure6(frame: pd.DataFrame) -> Figure:
    """Fig. 6: AP against the number of objects in an image, and below it what FreeAnchor gains in each bin.

    Rows of detector "gain" hold the difference; where there are none it is taken from the two detectors, without
    interval. `bin` is a label such as `3-7`, or a metric's `objects_3_7`; bins keep the frame's order.
    """
    figure = style.new_figure(5.2, 4.9)
    curves, gains = figure.subplots(2, 1, sharex=True, height_ratios=[2.1, 1])
    bins = frame.drop_duplicates("bin").reset_index(drop=True)
    _draw_crowdedness(curves, frame, list(bins.bin))
    _draw_gains(gains, frame, bins)
    _legend_above(figure, frame)
    return figure


@styled
def candidates_figure(frame: pd.DataFrame) -> Figure:
    """Objects found before and after NMS, and NMS recall, against the most candidates per image; the last is all.

    Each is the mean over IoU thresholds. Budgets stand side by side in the frame's order, hollow where many images
    have fewer candidates; rows of other detectors than the two (the gain) are not drawn.
    """
    figure = style.new_figure(7.4, 3.0)
    panels = figure.subplots(1, len(_CANDIDATES_TITLES))
    for axes, (metric, title) in zip(panels, _CANDIDATES_TITLES.items(), strict=True):
        _draw_budgets(axes, frame[frame.metric == metric])
        axes.set_title(title)
    panels[0].set_ylabel("percent, mean over IoU 0.50 to 0.90", fontsize=9)
    if panels[0].get_legend_handles_labels()[0]:
        note = "at most so many candidates per image, the best-scoring (hollow: images have fewer)"
        figure.supxlabel(note, fontsize=9.5)
    style.share_legend(figure, panels[0])
    return figure


def bin_label(name: str) -> str:
    """A bin of `analysis.breakdowns` as readers see it: `objects_3_7` is `3–7`, `objects_13_plus` is `13+`."""
    low, _, high = str(name).removeprefix("objects_").replace("-", "_").partition("_")
    return f"{low}+" if high == "plus" else f"{low}–{high}" if high else low


def _draw_groups(axes: Axes, rows: pd.DataFrame) -> None:
    if style.is_not_run(axes, rows):
        return
    labels, detectors = list(rows.label.unique()), style.compared_in(rows)
    width = _GROUP_WIDTH / len(detectors)
    for detector, look, shift in style.side_by_side(detectors, width):
        own = rows[rows.detector == detector].set_index("label").reindex(labels)
        places = np.arange(len(labels)) + shift
        axes.bar(places, 100 * own.value, width * 0.94, color=look.colour, label=detector)
        axes.errorbar(places, 100 * own.value, style.error_lengths(own), fmt="none", ecolor=INK, **ERROR_LOOK)
        _draw_seed_range(axes, places, own)
        for place in places[own.value.isna()]:
            axes.text(place, 0.5, "not run", rotation=90, ha="center", va="bottom", color=FAINT_INK, style="italic")
    for place, label in enumerate(labels):
        _annotate_gain(axes, place, rows[rows.label == label].set_index("detector"))
    axes.set_xticks(range(len(labels)), [_with_count(label, rows) for label in labels])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.16)
    axes.set_ylim(bottom=0)
    axes.set(ylabel="AP (%)")
    axes.set_title("Objects by aspect ratio")


def _annotate_gain(axes: Axes, place: float, pair: pd.DataFrame) -> None:
    """The second's gain above a pair of bars, FreeAnchor's of more; nothing where one of them was not run."""
    compared = style.compared_in(pair.reset_index())
    values = pair.value.reindex(compared if len(compared) == 2 else list(DETECTORS))
    if values.isna().any():
        return
    top = 100 * float(pair[["value", "high"]].max().max())
    text = f"{100 * (values.iloc[1] - values.iloc[0]):+.1f}"
    axes.annotate(text, (place, top), (0, 5), textcoords="offset points", ha="center", va="bottom", fontweight="bold")


def _with_count(label: str, rows: pd.DataFrame) -> str:
    counts = rows.loc[rows.label == label, "num_objects"].dropna()
    return f"{label}\n{int(counts.iloc[0]):,} objects" if len(counts) else label


def _draw_categories(axes: Axes, rows: pd.DataFrame) -> None:
    if style.is_not_run(axes, rows):
        return
    for _, own in rows.groupby("label", sort=False):
        pair = own.set_index("detector").reindex(style.compared_in(rows))
        axes.plot(pair.median_aspect, 100 * pair.value, color="#B9BFC6", linewidth=1.2, zorder=1)
    for detector, look in style.palette(style.detectors_in(rows)).items():
        own = rows[rows.detector == detector]
        axes.scatter(
            own.median_aspect, 100 * own.value, s=34, color=look.colour, marker=look.marker, zorder=3,
            edgecolor="white", linewidth=0.6, label=detector,
        )  # fmt: skip
    _use_ratio_axis(axes, rows.median_aspect[np.isfinite(rows.median_aspect)])
    axes.margins(y=0.16)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="median aspect ratio of the category", ylabel="AP (%)")
    axes.label_outer()
    axes.set_title("Categories")


def _use_ratio_axis(axes: Axes, ratios: pd.Series) -> None:
    """A logarithmic axis with plain numbers: 1, 1.5, 2, 3 …; ratios are compared by their quotients."""
    low, high = (float(ratios.min()), float(ratios.max())) if len(ratios) else (1.0, 2.0)
    axes.set_xscale("log")
    axes.set_xlim(max(low / 1.12, 0.1), high * 1.12)
    ticks = [tick for tick in (1, 1.5, 2, 3, 4, 6, 8, 12, 16) if low / 1.12 <= tick <= high * 1.12]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _draw_crowdedness(axes: Axes, frame: pd.DataFrame, bins: list[str]) -> None:
    rows = frame[frame.detector != style.GAIN]
    if style.is_not_run(axes, rows):
        return
    for detector, look, shift in style.side_by_side(style.compared_in(rows), 0.06):  # so that all intervals show
        own = rows[rows.detector == detector].set_index("bin").reindex(bins)
        axes.errorbar(
            np.arange(len(bins)) + shift, 100 * own.value, style.error_lengths(own), color=look.colour,
            marker=look.marker, markeredgecolor="white", markeredgewidth=0.7, label=detector, **ERROR_LOOK,
        )  # fmt: skip
        _draw_seed_range(axes, np.arange(len(bins)) + shift, own)
    absent = [name for name in style.compared_in(rows) if not rows[rows.detector == name].value.notna().any()]
    for detector in absent:
        axes.text(
            0.98, 0.95, f"{detector}: not run", transform=axes.transAxes, ha="right", va="top", color=FAINT_INK,
            style="italic",
        )  # fmt: skip
    axes.margins(y=0.12)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.set(ylabel="AP (%)")


def _draw_gains(axes: Axes, frame: pd.DataFrame, bins: pd.DataFrame) -> None:
    gains = _gains(frame, list(bins.bin))
    labels = [
        f"{bin_label(name)}\n{'no' if math.isnan(count) or not count else f'{int(count):,}'} images"
        for name, count in zip(bins.bin, bins.num_images, strict=True)
    ]
    places = np.arange(len(bins))
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="objects in an image", ylabel="gain (points)")
    if not gains.value.notna().any():
        style.say_not_run(axes, keeps_x=True)
        return
    axes.bar(places, 100 * gains.value, 0.5, color=VERMILION, alpha=0.85)
    axes.errorbar(places, 100 * gains.value, style.error_lengths(gains), fmt="none", ecolor=INK, **ERROR_LOOK)
    _draw_seed_range(axes, places, gains)
    for place, value, high in zip(places, gains.value, gains[["value", "high"]].max(axis=1), strict=True):
        text = "not run" if math.isnan(value) else f"{100 * value:+.1f}"
        height = 0 if math.isnan(high) else max(100 * high, 0)
        axes.annotate(text, (place, height), (0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9)
    axes.axhline(0, color=FAINT_INK, linewidth=0.9)
    axes.margins(y=0.22)


def _draw_seed_range(axes: Axes, places: np.ndarray, rows: pd.DataFrame) -> None:
    """From the lowest to the highest of several seeds, a broad faint line behind the interval over images."""
    if {"minimum", "maximum"} <= set(rows.columns):
        several = rows.maximum.to_numpy(dtype=np.float64) > rows.minimum.to_numpy(dtype=np.float64)
        axes.vlines(
            places[several], 100 * rows.minimum[several], 100 * rows.maximum[several], color=INK, alpha=0.3, linewidth=6
        )


def _gains(frame: pd.DataFrame, bins: list[str]) -> pd.DataFrame:
    """FreeAnchor - RetinaNet in each bin: as given, or taken from the two."""
    given = frame[frame.detector == style.GAIN]
    if len(given):
        return given.set_index("bin").reindex(bins)
    first, second = (frame[frame.detector == detector].set_index("bin").value.reindex(bins) for detector in DETECTORS)
    return pd.DataFrame({"value": second - first, "low": math.nan, "high": math.nan})


def _legend_above(figure: Figure, frame: pd.DataFrame) -> None:
    """One legend for all panels, on top; none where nothing was drawn."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    shown = [detector for detector in style.detectors_in(frame) if detector in handles]
    if shown:
        figure.legend(
            handles=[handles[name] for name in shown], labels=shown, loc="outside upper center", ncols=len(shown)
        )


def _draw_budgets(axes: Axes, rows: pd.DataFrame) -> None:
    if style.is_not_run(axes, rows):
        return
    budgets = list(rows.budget.unique())
    for detector, look, shift in style.side_by_side(style.detectors_in(rows), 0.12):
        own = rows[rows.detector == detector].set_index("budget").reindex(budgets)
        places = np.arange(len(budgets)) + shift
        drawn: dict[str, Any] = {"color": look.colour, "marker": look.marker}
        axes.errorbar(
            places, 100 * own.value, np.nan_to_num(style.error_lengths(own)), linewidth=1.6, markeredgecolor="white",
            label=f"{detector} (all: {own.num_given.iloc[-1]:,.0f} per image)", **drawn, **ERROR_LOOK,
        )  # fmt: skip
        is_short = own.num_given < _SPENT * pd.to_numeric(pd.Series(budgets, index=own.index), errors="coerce")
        drawn |= {"markerfacecolor": "white", "markersize": 5, "linestyle": ""}
        axes.plot(places[is_short], 100 * own.value[is_short], zorder=5, **drawn)
    axes.set_xticks(range(len(budgets)), [str(budget) for budget in budgets])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.margins(y=0.1)
