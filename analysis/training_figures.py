"""How training went: loss terms, learning rate and the effective number of anchors in a bag, over the steps.

What it is: drawing a training log. What it is not: a figure of the paper, which has none of training.

    training_curves(frame)      # columns detector, step, metric, value, and run where there are several seeds
    learning_curves(frame)      # AP over training: columns detector, run, step, num_steps, metric, value

Metrics drawn are `loss_*`, `lr` and `effective_anchors`; others (pictures per second) are passed over.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure_style import COLOURS, DETECTORS, FAINT_INK, detectors_in, new_figure, say_not_run, styled

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
