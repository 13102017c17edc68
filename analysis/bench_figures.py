"""The benchmarks: each ratio to a peer on one logarithmic axis, with its aim.

benchmarks_figure(frame)    # columns subject, what, peer, ratio, aim, met; rows without a peer are left out
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figure_style import COLOURS, FAINT_INK, FREEANCHOR, INK, RETINANET, new_figure, say_not_run, styled


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
