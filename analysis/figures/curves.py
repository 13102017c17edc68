"""Curves: the two functions that FreeAnchor is made of (Figs. 2 and 3), and how training went.

figure2(curve)              # columns x, t1, t2, value: the saturated linear function
figure3(curve)              # columns x, function ("mean", "max", "mean-max"), value, bag: Mean-max
training_curves(frame)      # columns detector, step, metric, value, and run where there are several seeds
learning_curves(frame)      # AP over training: columns detector, run, step, num_steps, metric, value
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.style import BLUE, FAINT_INK, INK, LINE_STYLES, VERMILION, new_figure, say_not_run, styled

_CURVE_TITLES = {"ap": "AP", "ap_50": "AP50", "ap_75": "AP75"}
_SMOOTHED_SHARE = 0.04  # of the points of a curve, in one window
_FUNCTION_LOOKS: dict[str, dict[str, Any]] = {
    "max": {"color": BLUE, "linestyle": (0, (5, 2))},
    "mean": {"color": FAINT_INK, "linestyle": (0, (1.5, 1.5))},
    "mean-max": {"color": VERMILION, "linestyle": "-", "linewidth": 2.8},
}
_FUNCTION_LABELS = {"max": "max", "mean": "mean", "mean-max": "Mean-max"}


@styled
def figure2(curve: pd.DataFrame) -> Figure:
    """Fig. 2, the saturated linear function; columns x, t1, t2, value, one line for each pair of t1 and t2.

    As in the paper the axis carries t1 and t2; here with their values.
    """
    if not curve.value.notna().any():
        return style.not_run_figure(3.9, 2.9)
    figure = new_figure(3.9, 2.9)
    axes = figure.subplots()
    pairs = sorted({(float(t1), float(t2)) for t1, t2 in zip(curve.t1, curve.t2, strict=True)})
    for number, (t1, t2) in enumerate(pairs, start=1):
        rows = curve[(curve.t1 == t1) & (curve.t2 == t2)]
        axes.plot(rows.x, rows.value, color=VERMILION, alpha=number / len(pairs), linewidth=2.8)
        axes.plot([t2, t2, 0], [0, 1, 1], color=FAINT_INK, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    knots = {t1: f"$t_1$\n{t1:g}" for t1, _ in pairs} | {t2: f"$t_2$\n{t2:g}" for _, t2 in pairs}
    ends = {end: f"{end:g}" for end in (0.0, 1.0) if end not in knots}
    axes.set_xticks(sorted(ends | knots), [(ends | knots)[x] for x in sorted(ends | knots)], parse_math=True)
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


@styled
def training_curves(frame: pd.DataFrame) -> Figure:
    """Each detector's loss terms above, learning rate and effective anchors below; other metrics are not drawn.

    Bold is the smoothed mean over seeds; faint are a single run's raw values, or the range over several. The learning
    rate, which has no noise and falls in steps, is drawn as it is.
    """
    detectors = style.compared_in(frame)
    num_rows = math.ceil(len(detectors) / 2) + 1
    figure = new_figure(7.4, 2.6 * num_rows)
    panels = figure.subplots(num_rows, 2, sharex=True)
    losses = panels[:-1].ravel()
    for axes, detector in zip(losses, detectors, strict=False):
        _draw_losses(axes, frame[(frame.detector == detector) & frame.metric.str.startswith("loss")], detectors)
        axes.set_title(f"{detector}: loss terms")
    for axes in losses[len(detectors) :]:
        axes.set_visible(False)
    for axes, metric, title in zip(
        panels[-1], ("lr", "effective_anchors"), ("Learning rate", "Effective anchors in a bag"), strict=True
    ):
        _draw_detectors(axes, frame[frame.metric == metric], share=0.0 if metric == "lr" else _SMOOTHED_SHARE)
        axes.set_title(title)
        axes.set_xlabel("step")
    return figure


@styled
def learning_curves(frame: pd.DataFrame) -> Figure:
    """AP, AP50 and AP75 of each detector at snapshots over training: mean over seeds, and their range."""
    figure = new_figure(7.4, 2.7)
    panels = figure.subplots(1, 3)
    done = frame.assign(step=100 * frame.step / frame.num_steps, value=100 * frame.value)
    for axes, (metric, title) in zip(panels, _CURVE_TITLES.items(), strict=True):
        _draw_detectors(axes, done[done.metric == metric], share=0.0, marker="o", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("training done (%)")
    return figure


def smooth(values: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """Mean over a centred window, which shrinks at the ends; nan are left out. A window of 1 changes nothing."""
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}; give a number of points")
    return pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()


def _draw_losses(axes: Axes, rows: pd.DataFrame, detectors: list[str]) -> None:
    if style.is_not_run(axes, rows):
        return
    look = style.palette(detectors)[str(rows.detector.iloc[0])]
    for (metric, own), line_style in zip(rows.groupby("metric"), LINE_STYLES, strict=False):
        name = str(metric).removeprefix("loss_")
        _draw_curve(axes, own, _SMOOTHED_SHARE, look.colour, label=name, linestyle=line_style)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_detectors(axes: Axes, rows: pd.DataFrame, share: float, **drawn: object) -> None:
    if style.is_not_run(axes, rows):
        return
    for number, (detector, look) in enumerate(style.palette(style.detectors_in(rows)).items()):
        drawn |= {"label": detector, "linestyle": LINE_STYLES[number % len(LINE_STYLES)]}
        _draw_curve(axes, rows[rows.detector == detector], share, look.colour, **drawn)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")


def _draw_curve(axes: Axes, rows: pd.DataFrame, share: float, colour: str, **drawn: object) -> None:
    """One curve of one detector, smoothed over a share of its points."""
    by_step = rows.groupby("step").value
    steps = by_step.mean().index.to_numpy()
    window = max(1, round(len(steps) * share))
    mean, low, high = (values.to_numpy(dtype=np.float64) for values in (by_step.mean(), by_step.min(), by_step.max()))
    if rows.step.duplicated().any():
        axes.fill_between(steps, smooth(low, window), smooth(high, window), color=colour, alpha=0.2, linewidth=0)
    else:
        axes.plot(steps, mean, color=colour, alpha=0.22, linewidth=0.9)
    axes.plot(steps, smooth(mean, window), color=colour, **drawn)  # type: ignore[arg-type]  # Line2D's own
