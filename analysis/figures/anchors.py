"""How anchor grids fit a data set's objects: overlap by rank, fit against cost, and which objects are reached.

anchor_fit_figure(frame, given, recommended)   # columns grid, group, metric, value; two of the grids by their labels
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.style import BLUE, INK, VERMILION, styled

BAG_SIZE = 50  # the paper's
ENOUGH_IOU, COCO_IOU = 0.40, 0.44  # of the median object's 50th anchor: the rule's, COCO's at 800 px
GROUPS = ("all", "small", "medium", "large", "square", "middle", "slender")
_PALE = "#C9CED3"


@styled
def anchor_fit_figure(frame: pd.DataFrame, given: str, recommended: str) -> Figure:
    """Median IoU by rank, the median 50th anchor against relative cost, and the share of each group that is reached.

    The given and the recommended grid stand out, all others are grey. A group without objects has no dot.
    """
    figure = style.new_figure(10.4, 3.4)
    ranks, costs, shares = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    looks = {given: (BLUE, f"given: {given}"), recommended: (VERMILION, f"recommended: {recommended}")}
    if given == recommended:
        looks = {given: (VERMILION, f"given and recommended: {given}")}
    whole = frame[frame["group"] == "all"].pivot(index="grid", columns="metric", values="value")
    _draw_ranks(ranks, whole, looks)
    _draw_costs(costs, whole, looks)
    _draw_shares(shares, frame[frame["metric"] == "share_50"], looks)
    style.share_legend(figure, ranks, loc="outside lower center")
    return figure


def _draw_ranks(axes: Axes, whole: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """A line per grid, from the best anchor on."""
    numbers = sorted(int(name[4:]) for name in whole.columns if name.startswith("iou_"))
    names = [f"iou_{number}" for number in numbers]
    axes.plot(numbers, whole.loc[~whole.index.isin(list(looks)), names].T, color=_PALE, linewidth=0.8, zorder=1)
    for grid, (colour, label) in looks.items():
        axes.plot(numbers, whole.loc[grid, names], color=colour, label=label)
    axes.plot(BAG_SIZE, COCO_IOU, marker="*", color=INK, linestyle="none", label="COCO at 800 px, rank 50")
    axes.axvline(BAG_SIZE, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlim=(1, numbers[-1]), ylim=(0, 1), xlabel="anchor's rank, best first", ylabel="median IoU")
    axes.set_title("Overlap by rank")


def _draw_costs(axes: Axes, whole: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """A dot per grid: what it costs, and how far down its bag of 50 reaches."""
    column = f"iou_{BAG_SIZE}"
    others = whole[~whole.index.isin(list(looks))]
    axes.plot(others["relative_cost"], others[column], marker="o", markersize=4.5, linestyle="none", color=_PALE)
    for grid, (colour, _) in looks.items():
        axes.plot(whole["relative_cost"][grid], whole[column][grid], marker="D", color=colour)
    axes.axhline(ENOUGH_IOU, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="cost relative to the given grid", ylabel=f"median IoU at rank {BAG_SIZE}")
    axes.set_title("Fit against cost")


def _draw_shares(axes: Axes, rows: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    """A row per group of objects, a dot per grid that stands out."""
    present = [group for group in GROUPS if (rows["group"] == group).any()]
    places = np.arange(len(present))
    for number, (grid, (colour, _)) in enumerate(looks.items()):
        own = rows[rows["grid"] == grid].set_index("group")["value"].reindex(present)
        apart = 0.3 * (number - (len(looks) - 1) / 2)  # or one would hide the other where both reach all
        axes.plot(100 * own, places + apart, marker="D", linestyle="none", color=colour)
    axes.set_yticks(places, present)
    axes.invert_yaxis()
    axes.set(xlim=(0, 104), xlabel="% with an anchor of IoU 0.5")
    axes.set_title("Objects reached")
