"""Figs. 2 and 3: the two functions that FreeAnchor is made of, as curves.

What it is: drawing values that come in. What it is not: the functions, which live beside the losses.

    figure2(curve)      # columns x, t1, t2, value: the saturated linear function
    figure3(curve)      # columns x, function ("mean", "max", "mean-max"), value, bag: Mean-max between mean and max
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figure_style import COLOURS, FAINT_INK, FREEANCHOR, INK, RETINANET, new_figure, say_not_run, styled

_FUNCTION_LOOKS: dict[str, dict[str, Any]] = {
    "max": {"color": COLOURS[RETINANET], "linestyle": (0, (5, 2))},
    "mean": {"color": FAINT_INK, "linestyle": (0, (1.5, 1.5))},
    "mean-max": {"color": COLOURS[FREEANCHOR], "linestyle": "-", "linewidth": 2.8},
}
_FUNCTION_LABELS = {"max": "max", "mean": "mean", "mean-max": "Mean-max"}


@styled
def figure2(curve: pd.DataFrame) -> Figure:
    """Fig. 2, the saturated linear function; columns x, t1, t2, value, one line for each pair of t1 and t2.

    As in the paper the axis carries t1 and t2; here with their values.
    """
    figure = new_figure(3.9, 2.9)
    axes = figure.subplots()
    if not curve.value.notna().any():
        say_not_run(axes)
        return figure
    pairs = sorted({(float(t1), float(t2)) for t1, t2 in zip(curve.t1, curve.t2, strict=True)})
    for number, (t1, t2) in enumerate(pairs, start=1):
        rows = curve[(curve.t1 == t1) & (curve.t2 == t2)]
        axes.plot(rows.x, rows.value, color=COLOURS[FREEANCHOR], alpha=number / len(pairs), linewidth=2.8)
        axes.plot([t2, t2, 0], [0, 1, 1], color=FAINT_INK, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    knots = {t1: f"$t_1$\n{t1:g}" for t1, _ in pairs} | {t2: f"$t_2$\n{t2:g}" for _, t2 in pairs}
    ends = {end: f"{end:g}" for end in (0.0, 1.0) if end not in knots}
    axes.set_xticks(sorted(ends | knots), [(ends | knots)[x] for x in sorted(ends | knots)])
    axes.set_yticks([0, 0.5, 1])
    axes.grid(visible=False)
    axes.set(xlim=(0, 1.02), ylim=(-0.03, 1.08), xlabel="x", ylabel="Saturated linear")
    return figure


@styled
def figure3(curve: pd.DataFrame) -> Figure:
    """Fig. 3, Mean-max between mean and max; columns x, function, value, bag; one panel for each `bag` (its title).

    x is the confidence of one anchor of the bag while the others stay: Mean-max leaves the mean for the max as x grows.
    """
    bags = list(curve.groupby("bag", sort=False)) or [("", curve)]
    figure = new_figure(0.7 + 3.1 * len(bags), 3.1)
    panels = figure.subplots(1, len(bags), sharey=True, squeeze=False)[0]
    for axes, (bag, rows) in zip(panels, bags, strict=True):
        for function, look in _FUNCTION_LOOKS.items():
            own = rows[rows.function == function]
            if own.value.notna().any():
                axes.plot(own.x, own.value, label=_FUNCTION_LABELS[function], **look)
        if not axes.lines:
            say_not_run(axes)
            continue
        axes.set(xlim=(0, 1.015), ylim=(0, 1.02), xlabel="confidence x of one anchor")
        if len(bags) > 1:
            axes.set_title(str(bag), fontsize=10, fontweight="normal", color=INK)
    if panels[0].lines:
        panels[0].set_ylabel("value over the bag")
        panels[0].legend(loc="upper left", handlelength=2.4)
    return figure
