"""The ablations: what each value of each factor changes in AP.

What it is: drawing measured differences. What it is not: running them.

    ablations_figure(frame)     # columns factor, tried, is_default, metric ("gain_ap" is drawn), value, low, high

Values are fractions; the axes show points. A value of nan is a run that was not made, and the figure says so.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure_style import COLOURS, FAINT_INK, FREEANCHOR, INK, error_lengths, new_figure, say_not_run, styled

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
