"""Measured differences with their intervals: the ablations, the pooled claims, and the benchmarks against peers.

    ablations_figure(frame)     # columns factor, tried, is_default, metric ("gain_ap" is drawn), value, low, high
    pooled_figure(frame)        # a row per part of a claim and level, "pooled" or "set"; see `pooled_figure`
    benchmarks_figure(frame)    # columns what, peer, ratio, aim; rows without a ratio are left out

Differences are fractions; the axes show points. A value of nan is a run that was not made, and the figure says so.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.figures import style
from analysis.figures.lettering import shortened
from analysis.figures.style import BLUE, FAINT_INK, INK, VERMILION, new_figure, say_not_run, styled

_COLUMNS = 4  # of panels of ablations
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
# As blue against vermilion, and hollow where nothing is decided: no two rest on colour alone.
VERDICT_COLOURS = {HOLDS: "#2C5F93", FAILS: VERMILION, OPEN: FAINT_INK}
_SHADE = "#EEF3F8"
SET_MARKERS = ("o", "s", "^", "v", "p", "X", "h", "P", "*", "8")  # in turn, should there be more sets
_INCHES_A_ROW, _INCHES_A_SET = 0.28, 0.075  # height of a row: for the pooled value, and for each set
_LINE, _GAP = 0.3, 0.15  # in rows: a line of a claim's wording, and what parts one claim from the next
_SETS_FROM, _SETS_TO = -0.05, 0.38  # where in a row the sets lie, below its middle
_LETTERS = 40  # of a line of a claim's wording


@styled
def ablations_figure(frame: pd.DataFrame) -> Figure:
    """AP of FreeAnchor with one factor changed minus the default's, a panel per factor, with the 95 % intervals given.

    The default is a filled point at 0. Factors of numbers share one axis, those of words another: taking a part away
    may cost ten times what another number does.
    """
    rows = frame[frame.metric == "gain_ap"]
    factors = list(rows.factor.unique())
    if not factors:
        return style.not_run_figure(7.4, 2.0)
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
        axes.set_ylabel("AP minus the\ndefault's (points)")
    return figure


_GRID_PANELS = {  # metric -> what its axis says, and how many of its units are one
    "gain_ap": ("gain in AP (points)", 100),
    "chosen_box_iou": ("best-scoring box (points of IoU)", 100),
    "regret": ("regret (points of IoU)", 100),
    "score_fall": ("score, 1st minus 25th anchor", 1),
    "effective_anchors": ("effective anchors of 50", 1),
}


@styled
def grids_figure(frame: pd.DataFrame) -> Figure:
    """Detectors and bag sizes side by side on each anchor grid: the gain, then what their bags look like.

    Columns grid, detector, bag, metric, value, low, high; rows whose grid or bag names a difference ("minus") are the
    answers, drawn beside the gains.
    """
    if frame.empty or not frame.value.notna().any():
        return style.not_run_figure(7.4, 2.6)
    is_answer = frame.grid.str.contains(" minus ") | frame.bag.astype(str).str.contains(" minus ")
    figure = new_figure(8.6, 5.8)
    panels = figure.subplots(2, 3).flat
    names = ("gain_ap", "answers", *list(_GRID_PANELS)[1:])
    for axes, name in zip(panels, names, strict=True):
        metric = "gain_ap" if name == "answers" else name
        rows = frame[(frame.metric == metric) & (is_answer == (name == "answers"))]
        _draw_answers(axes, rows) if name == "answers" else _draw_cells(axes, rows, *_GRID_PANELS[metric])
    style.share_legend(figure, panels[2])
    return figure


def _draw_cells(axes: Axes, rows: pd.DataFrame, label: str, scale: float) -> None:
    grids = list(dict.fromkeys(rows.grid))
    cells = [(detector, bag) for detector, bag in dict.fromkeys(zip(rows.detector, rows.bag.astype(str), strict=True))]
    for number, (detector, bag) in enumerate(cells):
        own = rows[(rows.detector == detector) & (rows.bag.astype(str) == bag)].set_index("grid").reindex(grids)
        places = np.arange(len(grids)) + 0.16 * (number - (len(cells) - 1) / 2)
        look = style.palette([detector])[detector]
        is_hollow = number != len(cells) - 1 and detector != cells[0][0]
        axes.errorbar(
            places, scale * own.value, scale * style.error_lengths(own) / 100, color=look.colour, marker=look.marker,
            markerfacecolor="white" if is_hollow else look.colour, elinewidth=1.2, capsize=2.5, linestyle="none",
            label=f"{detector}, n = {bag}" if bag else detector,
        )  # fmt: skip
    if scale == 100 and "gain" in label:
        axes.axhline(0, color=FAINT_INK, linewidth=0.9)
    axes.set_xticks(np.arange(len(grids)), [grid.replace(", ", ",\n") for grid in grids], fontsize=8)
    axes.set_xlim(-0.5, len(grids) - 0.5)
    axes.set_title(label, fontsize=9)
    axes.grid(visible=False, axis="x")


def _draw_answers(axes: Axes, rows: pd.DataFrame) -> None:
    labels = [
        f"finer grid,\nn = {bag}" if " minus " in grid else f"n = {bag},\ncoarse grid"
        for grid, bag in zip(rows.grid, rows.bag.astype(str), strict=True)
    ]
    places = np.arange(len(rows))
    axes.errorbar(
        places, 100 * rows.value, style.error_lengths(rows), color=INK, marker="D", capsize=2.5, linestyle="none"
    )
    axes.axhline(0, color=FAINT_INK, linewidth=0.9)
    for place in places[rows.value.isna().to_numpy()]:
        axes.text(place, 0, "not run", rotation=90, ha="center", va="bottom", color=FAINT_INK, style="italic")
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_title("what it changes (points of AP)", fontsize=9)
    axes.grid(visible=False, axis="x")


def _labels(rows: pd.DataFrame) -> list[str]:
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
        places, values, style.error_lengths(rows), color=VERMILION, marker="o", markerfacecolor="white",
        elinewidth=1.2, capsize=2.5, ecolor=INK, linewidth=1.2,
        linestyle="-" if all(map(_is_number, labels)) else "none",
    )  # fmt: skip
    axes.plot(places[is_default], values[is_default], "o", color=VERMILION, zorder=4)
    for place in places[np.isnan(values)]:
        axes.text(
            place, 0.03, "not run", transform=axes.get_xaxis_transform(), rotation=90, ha="center", va="bottom",
            color=FAINT_INK, style="italic",
        )  # fmt: skip


def _is_number(label: str) -> bool:
    return label.replace(".", "", 1).isdigit()


def _share_limits(panels: Sequence[Axes]) -> None:
    limits = [axes.get_ylim() for axes in panels]
    for axes in panels:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of the plot: a part of a claim, or, without rows, the wording above several parts."""

    label: str
    place: float  # on the y axis, downwards from 0
    rows: pd.DataFrame | None
    is_part: bool  # of several


@styled
def pooled_figure(frame: pd.DataFrame) -> Figure:
    """Every pooled part whose unit is points: the sets' values below the pooled one, with 95 % intervals.

    Columns level ("pooled" or "set"), id, claim, part, unit, value, low, high (fractions, drawn in points), sets (of a
    row of a set: its name), part_verdict, claimed_from and claimed_to (fractions; nan: no bound), between which the
    claim would hold: that region is shaded. Colour and fill tell the verdict, the marker the set. The axis holds all
    values and the pooled intervals; a set's interval that is longer ends in an arrowhead. Parts without a pooled value
    are left out; a frame without any says that nothing was run.
    """
    named = frame.assign(part=frame.part.astype("string").fillna(""))  # a csv has nothing where there is no name
    pooled = named[(named.unit == "points") & (named.level == "pooled") & named.value.notna()]
    drawn = named.merge(pooled[["id", "part"]], on=["id", "part"])
    if drawn.empty:
        return style.not_run_figure(7.4, 2.0)
    lines = _lines(drawn)
    depth = lines[-1].place + 0.6
    names = list(drawn.sets[drawn.level == "set"].unique())
    figure = new_figure(9.2, 1.1 + (_INCHES_A_ROW + _INCHES_A_SET * max(2, len(names))) * depth)
    axes = figure.subplots()
    axes.set(ylim=(depth, -0.6), xlim=_limits(drawn), xlabel="Difference (points)")
    for line in lines:
        if line.rows is not None:
            _draw_part(axes, line.place, line.rows, names)
    axes.axvline(0, color=INK, linewidth=1, zorder=1.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_yticks([line.place for line in lines], [line.label for line in lines], fontsize=8)
    for line, text in zip(lines, axes.get_yticklabels(), strict=True):
        text.set_color(FAINT_INK if line.is_part else INK)
    figure.legend(handles=_legend(names), loc="outside lower center", ncols=min(7, len(names) + 2), fontsize=8)
    return figure


def _lines(drawn: pd.DataFrame) -> list[_Line]:
    """The lines from the top: one per part, those of a claim of several parts under its wording."""
    lines: list[_Line] = []
    place = 0.0
    for _, claim in drawn.groupby("id", sort=False):
        wording = textwrap.fill(str(claim.claim.iloc[0]), _LETTERS)
        has_names = bool((claim.part != "").any())
        if has_names:
            height = _LINE * (wording.count("\n") + 1)
            lines.append(_Line(label=wording, place=place - 0.5 + height / 2, rows=None, is_part=False))
            place += height
        for part, rows in claim.groupby("part", sort=False):
            label = str(part) if has_names else wording
            lines.append(_Line(label=label, place=place, rows=rows, is_part=has_names))
            place += 1
        place += _GAP
    return lines


def _limits(drawn: pd.DataFrame) -> tuple[float, float]:
    """Of the x axis, in points: what holds zero, all values and the pooled intervals."""
    pooled = drawn[drawn.level == "pooled"]
    numbers = 100 * pd.concat([drawn.value, pooled.low, pooled.high]).dropna()
    low, high = min(0.0, float(numbers.min())), max(0.0, float(numbers.max()))
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _draw_part(axes: Axes, place: float, rows: pd.DataFrame, names: list[str]) -> None:
    """One line: where the claim would hold, the pooled value above, the sets below it, and the numbers at the right."""
    pooled = rows[rows.level == "pooled"].iloc[0]
    _shade(axes, place, pooled)
    _draw_value(axes, place - 0.25, pooled, marker="D", size=7.5, width=2.6)
    pitch = (_SETS_TO - _SETS_FROM) / max(1, len(names) - 1)
    for number, (name, marker) in enumerate(zip(names, cycle(SET_MARKERS), strict=False)):
        row = rows[(rows.level == "set") & (rows.sets == name)]
        if row.value.notna().any():
            _draw_value(axes, place + _SETS_FROM + pitch * number, row.iloc[0], marker=marker, size=4.2, width=0.9)
    value, low, high = (100 * float(pooled[column]) for column in ("value", "low", "high"))
    axes.text(
        1.015, place, f"{value:+.1f} [{low:+.1f}, {high:+.1f}]\n{pooled.part_verdict}",
        transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=VERDICT_COLOURS[pooled.part_verdict],
    )  # fmt: skip


def _shade(axes: Axes, place: float, pooled: pd.Series) -> None:
    left, right = axes.get_xlim()
    start = left if math.isnan(pooled.claimed_from) else 100 * float(pooled.claimed_from)
    end = right if math.isnan(pooled.claimed_to) else 100 * float(pooled.claimed_to)
    axes.add_patch(Rectangle((start, place - 0.46), end - start, 0.92, facecolor=_SHADE, linewidth=0, zorder=0.5))


def _draw_value(axes: Axes, place: float, row: pd.Series, *, marker: str, size: float, width: float) -> None:
    """A marker and its interval, which is cut at the panel's edge and has an arrowhead there."""
    left, right = axes.get_xlim()
    value, low, high = (100 * float(row[column]) for column in ("value", "low", "high"))
    colour = VERDICT_COLOURS[row.part_verdict]
    axes.plot([max(low, left), min(high, right)], [place, place], color=colour, linewidth=width, solid_capstyle="butt")
    for is_cut, edge, arrow in ((low < left, left, "<"), (high > right, right, ">")):
        if is_cut:
            axes.plot(edge, place, arrow, color=colour, markersize=3.5, clip_on=False)
    filling = "white" if row.part_verdict == OPEN else colour
    axes.plot(value, place, marker, color=colour, markerfacecolor=filling, markersize=size, zorder=4)


def _legend(names: list[str]) -> list[Line2D | Patch]:
    """What each marker and the shade mean; the verdicts stand, in their colour, beside the numbers."""
    sets = [(marker, 5.0, name) for marker, name in zip(cycle(SET_MARKERS), names, strict=False)]
    marks: list[Line2D | Patch] = []
    for marker, size, name in (("D", 7.5, "pooled"), *sets):
        mark = Line2D([], [], marker=marker, markersize=size, label=shortened(name), color=INK, markerfacecolor="white")
        mark.set_linestyle("none")
        marks.append(mark)
    return [*marks, Patch(facecolor=_SHADE, edgecolor="#C9D3DE", label="where the claim would hold")]


@styled
def benchmarks_figure(frame: pd.DataFrame) -> Figure:
    """Ours over the peer's, below 1 is better: a filled point where the aim is met, a hollow one where it is missed."""
    rows = frame[frame.ratio.notna()].reset_index(drop=True)
    if rows.empty:
        return style.not_run_figure(9.0, 1.52)
    figure = new_figure(9.0, 1.1 + 0.42 * len(rows))
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    axes.axvline(1, color=INK, linewidth=1)
    ratios, aims = (rows[name].to_numpy(dtype=np.float64) for name in ("ratio", "aim"))
    for place, ratio, aim in zip(places, ratios, aims, strict=True):
        met = ratio <= aim
        colour = FAINT_INK if np.isnan(aim) else BLUE if met else VERMILION
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
