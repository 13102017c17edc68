"""What bags hold: the IoU of an object's anchors by rank, for a data set beside a reference.

What it is: drawing quartiles. What it is not: finding them.

    bag_overlap_figure(frame)       # columns data, group, rank, low, value, high
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figure_style import FAINT_INK, INK, new_figure, say_not_run, styled

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
