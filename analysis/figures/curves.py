"""How training went: loss terms, learning rate and the effective number of anchors in a bag, over the steps.

What it is: drawing a training log. What it is not: a figure of the paper, which has none of training.

    training_curves(frame)      # columns detector, step, metric, value, and run where there are several seeds
    learning_curves(frame)      # AP over training: columns detector, run, step, num_steps, metric, value

Metrics drawn are `loss_*`, `lr` and `effective_anchors`; others (images per second) are passed over.

Figs. 2 and 3: the two functions that FreeAnchor is made of, as curves.

What it is: drawing values that come in. What it is not: the functions, which live beside the losses.

    figure2(curve)      # columns x, t1, t2, value: the saturated linear function
    figure3(curve)      # columns x, function ("mean", "max", "mean-max"), value, bag: Mean-max between mean and max

What bags hold: the IoU of an object's anchors by rank, for a data set beside a reference.

What it is: drawing quartiles. What it is not: finding them.

    bag_overlap_figure(frame)       # columns data, group, rank, low, value, high
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    COLOURS,
    DETECTORS,
    FAINT_INK,
    FREEANCHOR,
    INK,
    RETINANET,
    detectors_in,
    new_figure,
    say_not_run,
    styled,
)

_LINE_STYLES = ("-", (0, (4, 1.6)), (0, (1.4, 1.2)))
_CURVE_TITLES = {"ap": "AP", "ap_50": "AP50", "ap_75": "AP75"}
_SMOOTHED_SHARE = 0.04  # of the points of a curve, in one window


@styled
def training_curves(frame: pd.DataFrame) -> Figure:
    """Both detectors' loss terms above, learning rate and effective anchors below.

    Bold is the smoothed mean over seeds; faint are a single run's raw values, or the range over several. The learning
    rate, which has no noise and falls in steps, is drawn as it is.
    """
    figure = new_figure(7.4, 5.2)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, detector in zip(panels[0], DETECTORS, strict=True):
        _draw_losses(axes, frame[(frame.detector == detector) & frame.metric.str.startswith("loss")])
        axes.set_title(f"{detector}: loss terms")
    for axes, metric, title in zip(
        panels[1], ("lr", "effective_anchors"), ("Learning rate", "Effective anchors in a bag"), strict=True
    ):
        _draw_both(axes, frame[frame.metric == metric], share=0.0 if metric == "lr" else _SMOOTHED_SHARE)
        axes.set_title(title)
        axes.set_xlabel("step")
    return figure


@styled
def learning_curves(frame: pd.DataFrame) -> Figure:
    """AP, AP50 and AP75 of both detectors at snapshots over training: mean over seeds, and their range."""
    figure = new_figure(7.4, 2.7)
    panels = figure.subplots(1, 3)
    done = frame.assign(step=100 * frame.step / frame.num_steps, value=100 * frame.value)
    for axes, (metric, title) in zip(panels, _CURVE_TITLES.items(), strict=True):
        _draw_both(axes, done[done.metric == metric], share=0.0, marker="o", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("training done (%)")
    return figure


def smooth(values: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """Mean over a centred window, which shrinks at the ends; nan are left out. A window of 1 changes nothing."""
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}; give a number of points")
    return pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()


def _draw_losses(axes: Axes, rows: pd.DataFrame) -> None:
    if not rows.value.notna().any():
        say_not_run(axes)
        return
    for (metric, own), line_style in zip(rows.groupby("metric"), _LINE_STYLES, strict=False):
        name = str(metric).removeprefix("loss_")
        _draw_curve(axes, own, _SMOOTHED_SHARE, label=name, linestyle=line_style)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_both(axes: Axes, rows: pd.DataFrame, share: float, **look: object) -> None:
    if not rows.value.notna().any():
        say_not_run(axes)
        return
    for detector, line_style in zip(detectors_in(rows), _LINE_STYLES, strict=False):
        _draw_curve(axes, rows[rows.detector == detector], share, label=detector, linestyle=line_style, **look)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")


def _draw_curve(axes: Axes, rows: pd.DataFrame, share: float, **look: object) -> None:
    """One curve of one detector, in its colour, smoothed over a share of its points."""
    colour = COLOURS.get(str(rows.detector.iloc[0]), FAINT_INK)
    by_step = rows.groupby("step").value
    steps = by_step.mean().index.to_numpy()
    window = max(1, round(len(steps) * share))
    mean, low, high = (values.to_numpy(dtype=np.float64) for values in (by_step.mean(), by_step.min(), by_step.max()))
    if rows.step.duplicated().any():
        axes.fill_between(steps, smooth(low, window), smooth(high, window), color=colour, alpha=0.2, linewidth=0)
    else:
        axes.plot(steps, mean, color=colour, alpha=0.22, linewidth=0.9)
    axes.plot(steps, smooth(mean, window), color=colour, **look)  # type: ignore[arg-type]  # Line2D's own


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


BAG_SIZE = 50  # the paper's
_GROUPS = {"all": "All objects", "slender": "Slender, 3:1 and beyond", "square": "Square, up to 4:3"}
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "linestyle": "-"},
    {"color": FAINT_INK, "linestyle": (0, (4, 1.6))},
)


@styled
def bag_overlap_figure(frame: pd.DataFrame) -> Figure:
    """Median IoU against rank, quartiles shaded: a panel a group of objects, a line a data set; 50 is dotted."""
    figure = new_figure(7.4, 3.0)
    panels = figure.subplots(1, len(_GROUPS), sharey=True)
    for axes, (group, title) in zip(panels, _GROUPS.items(), strict=True):
        _draw(axes, frame[frame["group"] == group])
        axes.set_title(title)
        axes.set_xlabel("rank in the bag, best first")
    panels[0].set_ylabel("IoU with the object")
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame) -> None:
    if rows.empty:
        say_not_run(axes)
        return
    for (data, own), look in zip(rows.groupby("data", sort=False), _LOOKS, strict=False):
        axes.plot(own["rank"], own["value"], label=str(data), **look)
        axes.fill_between(own["rank"], own["low"], own["high"], color=look["color"], alpha=0.15, linewidth=0)
    axes.axvline(BAG_SIZE, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1)
    axes.set_xlim(1, rows["rank"].max())
