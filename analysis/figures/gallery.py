"""Photographs under both detectors, and the match maps of an object in them.

What it is: drawing images, boxes and bags that are given. What it is not: choosing or reading them, or the layout
(`analysis.image_sheet`).

    sheet = gallery_figure([exhibit, …], "Found by one alone", "FreeAnchor 61, RetinaNet 48")   # match maps beside
    sheet = photographs_figure([exhibit, …], "Four images drawn by lot", "")                  # two images a row
    sheet = message_figure("not run")

In a row of the first stand the image's boxes under RetinaNet, those under FreeAnchor, then the object's match map
under either: the anchors of its bag, as opaque as their weight in Mean-max is large, in the same window for both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from analysis.bags.matches import anchor_centres, chosen_anchor, summarize_bags
from analysis.figures.images import WIDTH, Cell, Panel, View, draw_box, image_sheet, show_image, view_around
from analysis.figures.matching import LEARNED_COLOUR
from analysis.figures.style import COLOURS, DETECTORS, FAINT_INK, new_figure, styled

OBJECT_COLOUR, CORRECT_COLOUR, OTHER_COLOUR = "#FFFFFF", "#FFD21F", "#FF7AD9"  # light, each with a dark rim
_CORNERS = ["x1", "y1", "x2", "y2"]
_LEAST_OPACITY = 0.05  # of an anchor of no weight: the bag as a whole should show


@dataclass(frozen=True, kw_only=True)
class ShownDetections:
    """The B boxes that a detector shows in an image, which of them are correct, and M objects it misses."""

    boxes: Float[np.ndarray, "B 4"]
    is_correct: Bool[np.ndarray, " B"]
    missed: Float[np.ndarray, "M 4"] = field(default_factory=lambda: np.empty((0, 4)))


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """An image with what there is to say and to draw; boxes are xyxy in its pixels, mappings go by detector.

    `gt_box` is the object in question, outlined in every panel. `bags` are frames of matches (`analysis.bags`) of that
    one object; the map of a detector that has none, or an empty one, shows the object alone.
    """

    image: UInt8[np.ndarray, "H W 3"]
    title: str
    subtitle: str
    credit: str
    shown: Mapping[str, ShownDetections]
    gt_box: Float[np.ndarray, " 4"] | None = None
    bags: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@styled
def gallery_figure(exhibits: Sequence[Exhibit], title: str, subtitle: str) -> Figure:
    """A row an exhibit: its boxes under RetinaNet and FreeAnchor, then its object's match map under either."""
    cells = [_cell(exhibit, [*_photographs(exhibit), *_maps(exhibit)]) for exhibit in exhibits]
    legend = [_line("object in question", OBJECT_COLOUR, 2.8), *_BOXES]
    legend.append(Line2D([], [], color=LEARNED_COLOUR, linewidth=0.7, label="anchor, opaque by weight"))
    legend.append(
        Line2D([], [], color=LEARNED_COLOUR, linewidth=2.0, marker="o", markersize=4, label="of greatest weight")
    )
    return image_sheet(title, subtitle, cells, legend=legend, ncols=5, fontsize=8, columnspacing=1.3)


@styled
def photographs_figure(exhibits: Sequence[Exhibit], title: str, subtitle: str) -> Figure:
    """Two exhibits a row: the boxes of each under RetinaNet and FreeAnchor."""
    cells = [_cell(exhibit, _photographs(exhibit)) for exhibit in exhibits]
    legend = [*_BOXES, _line("missed object", OBJECT_COLOUR, 0.9, linestyle=_DASHES)]
    return image_sheet(title, subtitle, cells, num_columns=2, legend=legend, ncols=3, fontsize=8)


@styled
def message_figure(message: str, title: str = "", subtitle: str = "") -> Figure:
    """A small figure of words alone, where there are no images to show."""
    figure = new_figure(WIDTH, 1.4)
    axes = figure.subplots()
    axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold", parse_math=False)
    axes.set_title(subtitle, fontsize=8.5, weight="normal", parse_math=False)
    axes.text(0.5, 0.4, message, ha="center", va="center", color=FAINT_INK, style="italic", parse_math=False)
    return figure


def map_view(bags: Mapping[str, pd.DataFrame], gt_box: Float[np.ndarray, " 4"], image_shape: tuple[int, ...]) -> View:
    """The window of the match maps: around the object and each detector's anchor of greatest weight.

    Square, so far as the image is large enough: a slender window would leave its photograph too little room.
    """
    boxes = [chosen_anchor(bag)[_CORNERS].to_numpy(dtype=np.float64) for bag in bags.values() if len(bag)]
    corners = np.concatenate([gt_box[None], *boxes]).reshape(-1, 2).clip(0, image_shape[1::-1])
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = (high - low).max() / 2
    return view_around(np.stack([(low + high) / 2 - half, (low + high) / 2 + half]), image_shape, margin=0.1)


def _cell(exhibit: Exhibit, panels: Sequence[Panel]) -> Cell:
    return Cell(title=exhibit.title, subtitle=exhibit.subtitle, credit=exhibit.credit, panels=tuple(panels))


def _photographs(exhibit: Exhibit) -> list[Panel]:
    """The whole image under each detector."""
    height, width = exhibit.image.shape[:2]
    view = View(left=0, top=0, right=width, bottom=height)
    panels = []
    for detector in DETECTORS:
        shown = exhibit.shown[detector]
        num_boxes = len(shown.boxes)
        words = f"{num_boxes} box{'' if num_boxes == 1 else 'es'}, {int(shown.is_correct.sum())} correct"
        draw = partial(_draw_photograph, exhibit=exhibit, shown=shown, view=view)
        panels.append(_panel(detector, words, view, draw))
    return panels


def _maps(exhibit: Exhibit) -> list[Panel]:
    """The neighbourhood of the object under each detector, with its bag."""
    assert exhibit.gt_box is not None, "a match map is of an object"
    view = map_view(exhibit.bags, exhibit.gt_box, exhibit.image.shape)
    panels = []
    for detector in DETECTORS:
        bag = exhibit.bags.get(detector, pd.DataFrame())
        draw = partial(_draw_map, exhibit=exhibit, bag=bag, view=view)
        panels.append(_panel(detector, _concentration(bag), view, draw, what="'s bag"))
    return panels


def _panel(detector: str, caption: str, view: View, draw: partial[None], what: str = "") -> Panel:
    return Panel(heading=f"{detector}{what}", colour=COLOURS[detector], caption=caption, view=view, draw=draw)


def _concentration(bag: pd.DataFrame) -> str:
    """How many of its anchors a bag really uses."""
    if bag.empty:
        return "no match map"
    summary = summarize_bags(bag).iloc[0]
    return f"{summary.effective_anchors:.1f} of {summary.num_anchors} anchors"


def _draw_photograph(axes: Axes, *, exhibit: Exhibit, shown: ShownDetections, view: View) -> None:
    """The object in question, what is missed, other boxes thin, correct ones on top."""
    show_image(axes, exhibit.image, view)
    if exhibit.gt_box is not None:
        _outline(axes, exhibit.gt_box, OBJECT_COLOUR, 2.8, zorder=3)
    for box in shown.missed:
        _outline(axes, box, OBJECT_COLOUR, 0.9, zorder=2).set_linestyle(_DASHES)
    for box in shown.boxes[~shown.is_correct]:
        _outline(axes, box, OTHER_COLOUR, 0.7, zorder=4)
    for box in shown.boxes[shown.is_correct]:
        _outline(axes, box, CORRECT_COLOUR, 1.5, zorder=5)


def _draw_map(axes: Axes, *, exhibit: Exhibit, bag: pd.DataFrame, view: View) -> None:
    """The bag's anchors with their centres, opaque by weight, the heaviest thick; the object above them."""
    show_image(axes, exhibit.image, view, fade=0.45)
    assert exhibit.gt_box is not None, "a match map is of an object"
    _outline(axes, exhibit.gt_box, OBJECT_COLOUR, 1.6, zorder=6)
    if bag.empty:
        return
    opacities = np.maximum((bag.weight / bag.weight.max()).to_numpy(dtype=np.float64), _LEAST_OPACITY)
    for box, opacity in zip(bag[_CORNERS].to_numpy(dtype=np.float64), opacities, strict=True):
        draw_box(axes, tuple(box), color=LEARNED_COLOUR, linewidth=0.7, alpha=float(opacity), zorder=3)
    x, y = anchor_centres(bag).T
    axes.scatter(x, y, s=7, color=LEARNED_COLOUR, alpha=opacities, linewidth=0, zorder=4)
    chosen = chosen_anchor(bag)
    for box in chosen[_CORNERS].to_numpy(dtype=np.float64):
        draw_box(axes, tuple(box), color=LEARNED_COLOUR, linewidth=2.0, zorder=4, has_halo=True)
    x, y = anchor_centres(chosen).T
    axes.scatter(x, y, s=26, color=LEARNED_COLOUR, edgecolor="white", linewidth=0.8, zorder=7)


def _outline(axes: Axes, box: Float[np.ndarray, " 4"], colour: str, linewidth: float, zorder: float) -> Rectangle:
    """A light box with a dark rim, which stands out on any ground."""
    x1, y1, x2, y2 = box.tolist()
    outline = draw_box(axes, (x1, y1, x2, y2), color=colour, linewidth=linewidth, zorder=zorder)
    outline.set_path_effects(_rim(linewidth))
    return outline


def _rim(linewidth: float) -> list[AbstractPathEffect]:
    return [withStroke(linewidth=linewidth + (1.2 if linewidth > 1 else 0.8), foreground="black", alpha=0.7)]


def _line(label: str, colour: str, linewidth: float, **look: object) -> Line2D:
    """An entry of the legend that looks like `_outline`."""
    line = Line2D([], [], color=colour, linewidth=linewidth, label=label, **look)  # type: ignore[arg-type]
    line.set_path_effects(_rim(linewidth))
    return line


_DASHES = (0, (3, 2))
_BOXES = (_line("correct box", CORRECT_COLOUR, 1.5), _line("other box", OTHER_COLOUR, 0.7))
