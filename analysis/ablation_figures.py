"""The ablations: AP against each value of each factor.

What it is: drawing measured values. What it is not: running them.

    ablations_figure(frame)     # columns factor, tried, is_default, metric, value, low, high, seed_sd

Values are fractions; the axes show percent. A value of nan is a run that was not made, and the figure says so.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure_style import COLOURS, FAINT_INK, FREEANCHOR, INK, error_lengths, new_figure, say_not_run, styled

_COLUMNS = 4


@styled
def ablations_figure(frame: pd.DataFrame) -> Figure:
    """AP of FreeAnchor with one factor changed, a panel a factor; error bars over pictures.

    The default's point is filled; the band around it is one standard deviation over seeds, to either side.
    """
    rows = frame[frame.metric == "ap"]
    factors = list(rows.factor.unique())
    if not factors:
        figure = new_figure(7.4, 2.0)
        say_not_run(figure.subplots())
        return figure
    num_rows = math.ceil(len(factors) / _COLUMNS)
    figure = new_figure(9.6, 2.5 * num_rows)
    panels = np.atleast_1d(figure.subplots(num_rows, _COLUMNS, sharey=True, squeeze=False)).ravel()
    for axes, factor in zip(panels, factors, strict=False):
        _draw_factor(axes, rows[rows.factor == factor])
        axes.set_title(factor, fontsize=9.5)
    for axes in panels[len(factors) :]:
        axes.set_visible(False)
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel("AP (%)")
    return figure


def _draw_factor(axes: Axes, rows: pd.DataFrame) -> None:
    """One panel: the values tried, in the frame's order; numbers are joined by a line, words have no between."""
    labels = [str(tried).removesuffix(" (default)") for tried in rows.tried]
    places = np.arange(len(rows))
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)
    if not rows.value.notna().any():
        say_not_run(axes, keeps_x=True)
        return
    is_default = rows.is_default.to_numpy(dtype=bool)
    values = 100 * rows.value.to_numpy(dtype=np.float64)
    _draw_seed_band(axes, rows[is_default])
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


def _draw_seed_band(axes: Axes, default: pd.DataFrame) -> None:
    """What another seed changes, around the default's value; nothing where no run was repeated."""
    for value, sd in zip(100 * default.value, 100 * default.seed_sd, strict=True):
        if not math.isnan(sd):
            axes.axhspan(value - sd, value + sd, color=COLOURS[FREEANCHOR], alpha=0.12, linewidth=0)
