"""Methods of assignment beside each other: their AP, which anchors learn an object over training, and where they agree.

methods_figure(frame)           # columns detector, metric, value, low, high
learning_figure(frame)          # of `analysis.bags.learning.learning_frame`
agreement_figure(frame)         # columns kind, detector, other, step, num_steps, value
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.style import ERROR_LOOK, FAINT_INK, INK, styled

METHOD_PANELS = {"ap": "AP", "ap_slender": "AP slender", "ap_square": "AP square", "ap_objects_13_plus": "AP crowded"}
LEARNING_PANELS = {
    "effective_anchors": "Anchors that learn an object",
    "iou": "Their IoU with it",
    "box_iou": "IoU of their boxes",
    "cls_prob": "Their class score",
    "to_centre": "Distance from the centre",
    "to_part": "Distance from the part",
}
GROUPS = ("all", "slender", "square", "crowded", "acentric")
AGREEMENT, STABILITY = "agreement", "stability"


@styled
def methods_figure(frame: pd.DataFrame) -> Figure:
    """A point per method and metric with its 95 % interval, one panel per metric; what was not run is said."""
    rows = frame[frame["metric"].isin(METHOD_PANELS)]
    names = style.detectors_in(rows)
    if not rows["value"].notna().any():
        return style.not_run_figure(7.4, 2.4)
    figure = style.new_figure(9.0, 0.9 + 0.32 * len(names))
    panels = figure.subplots(1, len(METHOD_PANELS), sharey=True)
    looks = style.palette(names)
    for axes, (metric, title) in zip(panels, METHOD_PANELS.items(), strict=True):
        own = rows[rows["metric"] == metric].set_index("detector").reindex(names)
        for place, name in enumerate(names):
            value, look = float(own["value"].to_numpy()[place]), looks[name]
            if np.isnan(value):
                axes.text(0.5, place, "not run", transform=axes.get_yaxis_transform(), ha="center", va="center",
                          color=FAINT_INK, style="italic")  # fmt: skip
                continue
            lengths = style.error_lengths(own.loc[[name]])
            axes.errorbar([100 * value], [place], xerr=lengths, color=look.colour, marker=look.marker, **ERROR_LOOK)
        axes.set_title(title)
        axes.set_xlabel("percent", fontsize=9)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


@styled
def learning_figure(frame: pd.DataFrame) -> Figure:
    """Over training, all objects, in the upper rows; at the end of it, by group of objects, in the lower ones."""
    if frame.empty:
        return style.not_run_figure(7.4, 2.4)
    figure = style.new_figure(9.6, 8.6)
    panels = figure.subplots(4, 3)
    looks = style.palette(style.detectors_in(frame))
    for number, (metric, title) in enumerate(LEARNING_PANELS.items()):
        upper = panels[number // 3, number % 3]
        lower = panels[2 + number // 3, number % 3]
        rows = frame[frame["metric"] == metric]
        if rows.empty:  # no part is recorded
            style.say_not_run(upper)
            style.say_not_run(lower)
        for place, (name, look) in enumerate(looks.items()):
            own = rows[rows["detector"] == name]
            _over_training(upper, own[own["group"] == "all"], name, look)
            _by_group(lower, own, look, 0.8 * ((place + 0.5) / len(looks) - 0.5))
        upper.set_title(title)
        lower.set_title(f"{title},\nat the end", fontsize=9.5)
        upper.set_xlabel("share of training", fontsize=9)
        lower.set_xticks(range(len(GROUPS)), GROUPS, fontsize=8)
    style.share_legend(figure, panels[0, 0])
    return figure


def _over_training(axes: Axes, rows: pd.DataFrame, name: str, look: style.Look) -> None:
    share = rows["step"] / rows["num_steps"]
    axes.plot(share, rows["value"], color=look.colour, marker=look.marker, markersize=4, label=name)
    axes.fill_between(share, rows["low"], rows["high"], color=look.colour, alpha=0.12, linewidth=0)


def _by_group(axes: Axes, rows: pd.DataFrame, look: style.Look, shift: float) -> None:
    last = rows[rows["step"] == rows["step"].max()].set_index("group").reindex(list(GROUPS))
    there = last["value"].notna().to_numpy()
    places = np.arange(len(GROUPS))[there] + shift
    lengths = np.abs(last.loc[there, ["low", "high"]].to_numpy().T - last.loc[there, "value"].to_numpy())
    axes.errorbar(places, last.loc[there, "value"], lengths, color=look.colour, marker=look.marker, markersize=4,
                  linestyle="none", linewidth=1)  # fmt: skip


@styled
def agreement_figure(frame: pd.DataFrame) -> Figure:
    """Left, what two methods have in common at the end of training; right, what stays from snapshot to snapshot."""
    if frame.empty:
        return style.not_run_figure(7.4, 2.4)
    figure = style.new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_matrix(left, frame[(frame["kind"] == AGREEMENT) & (frame["group"] == "all")])
    rows = frame[(frame["kind"] == STABILITY) & (frame["group"] == "all")]
    for name, look in style.palette(style.detectors_in(rows)).items():
        own = rows[rows["detector"] == name].sort_values("step")
        share = own["step"] / own["num_steps"]
        right.plot(share, 100 * own["value"], color=look.colour, marker=look.marker, label=name)
    right.set(xlabel="share of training", ylabel="percent", ylim=(0, 104))
    right.set_title("Learning kept since the last snapshot")
    style.share_legend(figure, right)
    return figure


def _draw_matrix(axes: Axes, rows: pd.DataFrame) -> None:
    names = style.detectors_in(pd.DataFrame({"detector": [*rows["detector"], *rows["other"]]}))
    axes.set_title("Learning in common, percent")
    if not names:
        style.say_not_run(axes)
        return
    table = rows.pivot(index="detector", columns="other", values="value").reindex(index=names, columns=names)
    values = 100 * table.combine_first(table.T).reindex(index=names, columns=names).to_numpy()
    np.fill_diagonal(values, np.nan)
    axes.imshow(values, vmin=0, vmax=100, cmap="Blues")
    for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
        shade = "white" if values[row, column] > 60 else INK
        axes.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center", fontsize=9, color=shade)
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.grid(visible=False)
