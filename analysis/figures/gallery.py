"""Photographs under the detectors, and the match maps of an object in them, laid out on one sheet.

    sheet = gallery_figure([exhibit, …], "Found by one alone", "FreeAnchor 61, RetinaNet 48")   # match maps beside
    sheet = photographs_figure([exhibit, …], "Four images drawn by lot", "")                  # two images per row
    sheet = message_figure("not run")

In a row of the first stand the image's boxes under each detector, then the object's match map under each: the anchors
of its bag, as opaque as their weight in Mean-max is large, in the same window for all. All panels of a row are equally
high, and as high as the sheet's width allows, whatever their shapes: constrained layout would leave gaps.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from analysis.bags.matches import chosen_anchor, summarize_bags
from analysis.figures.images import LEARNED_COLOUR, View, boxes_of, draw_bag, draw_box, show_image, view_around
from analysis.figures.style import FAINT_INK, INK, new_figure, palette, styled

WIDTH = 8.0  # inches
TALLEST_PANEL = 1.5  # inches; photographs weigh, and a page holds many
OBJECT_COLOUR, CORRECT_COLOUR, OTHER_COLOUR = "#FFFFFF", "#FFD21F", "#FF7AD9"  # light, each with a dark rim
_MARGIN, _PANEL_GAP, _CELL_GAP, _LINE_GAP = 0.06, 0.07, 0.16, 0.16  # inches
_CAPTION_ROOM = 1.3  # inches that a panel's heading and caption need, however slender the panel
_LEGEND = 0.34


@dataclass(frozen=True, kw_only=True)
class _Type:
    """One kind of text: points of a letter, inches of a line, letters that an inch surely holds, and its look."""

    size: float
    line: float
    letters: float
    weight: str = "normal"
    colour: str = INK

    def wrapped(self, text: str, width: float) -> list[str]:
        """The lines of a text, `width` inches wide at most; addresses are not parted at their hyphens."""
        return textwrap.wrap(text, int(width * self.letters), break_on_hyphens=False)


_HEADING = _Type(size=10.5, line=0.2, letters=11.5, weight="bold")
_TITLE = _Type(size=9.5, line=0.185, letters=12.0, weight="bold")
_SUBTITLE = _Type(size=8.5, line=0.165, letters=14.0)
_PANEL_NAME = _Type(size=8, line=0.14, letters=13.0, weight="bold")
_CAPTION = _Type(size=8, line=0.16, letters=15.0, colour=FAINT_INK)
_CREDIT = _Type(size=6.5, line=0.115, letters=18.5, colour=FAINT_INK)


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

    def colour(self, detector: str) -> str:
        """Of a detector's heading."""
        return palette(self.shown)[detector].colour


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """A window on an image under a coloured heading and a caption, each one short line; `draw` fills its axes."""

    heading: str
    colour: str
    caption: str
    view: View
    draw: Callable[[Axes], object]


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One or more panels, with lines of text above and a credit below; an empty text takes no room."""

    title: str
    subtitle: str
    credit: str
    panels: tuple[_Panel, ...]


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """A figure to write on in inches from its upper left corner."""

    figure: Figure

    def text(self, lines: Sequence[str], kind: _Type, left: float, top: float, colour: str = "") -> float:
        """Write the lines; where the next thing may begin."""
        width, height = self.figure.get_size_inches()
        for number, line in enumerate(lines):
            self.figure.text(
                left / width, 1 - (top + number * kind.line) / height, line, fontsize=kind.size, weight=kind.weight,
                color=colour or kind.colour, va="top", ha="left",
            )  # fmt: skip
        return top + len(lines) * kind.line

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """A panel of so many inches."""
        whole, high = self.figure.get_size_inches()
        return self.figure.add_axes((left / whole, 1 - (top + height) / high, width / whole, height / high))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Cells that stand side by side, and how much room they take."""

    cells: Sequence[_Cell]
    width: float  # of a cell, inches

    def num_lines(self, kind: _Type, text: Callable[[_Cell], str]) -> int:
        """Of one kind of text, in the cell that has most."""
        return max(len(kind.wrapped(text(cell), self.width)) for cell in self.cells)

    @property
    def head(self) -> float:
        """Inches above the panels."""
        titles = self.num_lines(_TITLE, lambda cell: cell.title)
        subtitles = self.num_lines(_SUBTITLE, lambda cell: cell.subtitle)
        return titles * _TITLE.line + subtitles * _SUBTITLE.line + _PANEL_NAME.line + _CAPTION.line + 0.03

    @property
    def panel_height(self) -> float:
        """The height at which the panels of the fullest cell fill its width, or less."""
        return min(TALLEST_PANEL, *[_fitting_height(cell.panels, self.width) for cell in self.cells])

    @property
    def height(self) -> float:
        """Inches of everything, with the gap to the next line."""
        credit = self.num_lines(_CREDIT, lambda cell: cell.credit) * _CREDIT.line
        return self.head + self.panel_height + 0.04 + credit + _LINE_GAP


@styled
def gallery_figure(exhibits: Sequence[Exhibit], title: str, subtitle: str) -> Figure:
    """A row per exhibit: its boxes under RetinaNet and FreeAnchor, then its object's match map under either."""
    cells = [_cell(exhibit, [*_photographs(exhibit), *_maps(exhibit)]) for exhibit in exhibits]
    legend = [_line("object in question", OBJECT_COLOUR, 2.8), *_BOXES]
    legend.append(Line2D([], [], color=LEARNED_COLOUR, linewidth=0.7, label="anchor, opaque by weight"))
    legend.append(
        Line2D([], [], color=LEARNED_COLOUR, linewidth=2.0, marker="o", markersize=4, label="of greatest weight")
    )
    return _image_sheet(title, subtitle, cells, legend=legend, ncols=5, fontsize=8, columnspacing=1.3)


@styled
def photographs_figure(exhibits: Sequence[Exhibit], title: str, subtitle: str) -> Figure:
    """Two exhibits per row: the boxes of each under RetinaNet and FreeAnchor."""
    cells = [_cell(exhibit, _photographs(exhibit)) for exhibit in exhibits]
    legend = [*_BOXES, _line("missed object", OBJECT_COLOUR, 0.9, linestyle=_DASHES)]
    return _image_sheet(title, subtitle, cells, num_columns=2, legend=legend, ncols=3, fontsize=8)


@styled
def message_figure(message: str, title: str = "", subtitle: str = "") -> Figure:
    """A small figure of words alone, where there are no images to show."""
    figure = new_figure(WIDTH, 1.4)
    axes = figure.subplots()
    axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold")
    axes.set_title(subtitle, fontsize=8.5, weight="normal")
    axes.text(0.5, 0.4, message, ha="center", va="center", color=FAINT_INK, style="italic")
    return figure


def map_view(bags: Mapping[str, pd.DataFrame], gt_box: Float[np.ndarray, " 4"], image_shape: tuple[int, ...]) -> View:
    """The window of the match maps: around the object and each detector's anchor of greatest weight.

    Square, so far as the image is large enough: a slender window would leave its photograph too little room.
    """
    boxes = [boxes_of(chosen_anchor(bag)) for bag in bags.values() if len(bag)]
    corners = np.concatenate([gt_box[None], *boxes]).reshape(-1, 2).clip(0, image_shape[1::-1])
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = (high - low).max() / 2
    return view_around(np.stack([(low + high) / 2 - half, (low + high) / 2 + half]), image_shape, margin=0.1)


def _image_sheet(
    title: str,
    subtitle: str,
    cells: Sequence[_Cell],
    *,
    num_columns: int = 1,
    legend: Sequence[Artist] = (),
    **legend_look: Any,
) -> Figure:
    """The cells in reading order, `num_columns` per line, on a sheet `WIDTH` inches wide and as high as it takes."""
    inside = WIDTH - 2 * _MARGIN
    width = (inside - _CELL_GAP * (num_columns - 1)) / num_columns
    lines = [
        _Line(cells=cells[first : first + num_columns], width=width) for first in range(0, len(cells), num_columns)
    ]
    heading, below = _HEADING.wrapped(title, inside), _SUBTITLE.wrapped(subtitle, inside)
    head = _MARGIN + len(heading) * _HEADING.line + len(below) * _SUBTITLE.line + 0.1
    height = head + sum(line.height for line in lines) + _LEGEND
    canvas = _Canvas(figure=Figure(figsize=(WIDTH, height)))
    canvas.text(below, _SUBTITLE, _MARGIN, canvas.text(heading, _HEADING, _MARGIN, _MARGIN))
    top = head
    for line in lines:
        for number, cell in enumerate(line.cells):
            _place(canvas, line, cell, _MARGIN + number * (width + _CELL_GAP), top)
        top += line.height
    if legend:
        canvas.figure.legend(handles=legend, loc="lower center", borderaxespad=0.3, **legend_look)
    return canvas.figure


def _place(canvas: _Canvas, line: _Line, cell: _Cell, left: float, top: float) -> None:
    """One cell: what is said of it, its panels, its credit."""
    below = canvas.text(_TITLE.wrapped(cell.title, line.width), _TITLE, left, top)
    canvas.text(_SUBTITLE.wrapped(cell.subtitle, line.width), _SUBTITLE, left, below)
    under, x = top + line.head, left
    for panel in cell.panels:
        width = line.panel_height * panel.view.width / panel.view.height
        caption = under - _PANEL_NAME.line - _CAPTION.line
        caption = canvas.text([panel.heading], _PANEL_NAME, x, caption, panel.colour)
        canvas.text([panel.caption], _CAPTION, x, caption)
        panel.draw(canvas.axes(x, under, width, line.panel_height))
        x += max(width, _CAPTION_ROOM) + _PANEL_GAP
    canvas.text(_CREDIT.wrapped(cell.credit, line.width), _CREDIT, left, under + line.panel_height + 0.04)


def _fitting_height(panels: Sequence[_Panel], width: float) -> float:
    """The height at which so many panels with their captions fill so many inches."""
    room, shapes = width - _PANEL_GAP * (len(panels) - 1), [panel.view.width / panel.view.height for panel in panels]
    height = room / sum(shapes)
    for _ in panels:  # those that are narrower than their captions leave the others less: at most one more each time
        wide = [shape for shape in shapes if shape * height > _CAPTION_ROOM]
        height = min(height, (room - _CAPTION_ROOM * (len(panels) - len(wide))) / sum(wide) if wide else height)
    return height


def _cell(exhibit: Exhibit, panels: Sequence[_Panel]) -> _Cell:
    return _Cell(title=exhibit.title, subtitle=exhibit.subtitle, credit=exhibit.credit, panels=tuple(panels))


def _photographs(exhibit: Exhibit) -> list[_Panel]:
    """The whole image under each detector."""
    height, width = exhibit.image.shape[:2]
    view = View(left=0, top=0, right=width, bottom=height)
    panels = []
    for detector, shown in exhibit.shown.items():
        num_boxes = len(shown.boxes)
        words = f"{num_boxes} box{'' if num_boxes == 1 else 'es'}, {int(shown.is_correct.sum())} correct"
        draw = partial(_draw_photograph, exhibit=exhibit, shown=shown, view=view)
        panels.append(_Panel(heading=detector, colour=exhibit.colour(detector), caption=words, view=view, draw=draw))
    return panels


def _maps(exhibit: Exhibit) -> list[_Panel]:
    """The neighbourhood of the object under each detector, with its bag."""
    assert exhibit.gt_box is not None, "a match map is of an object"
    view = map_view(exhibit.bags, exhibit.gt_box, exhibit.image.shape)
    panels = []
    for detector in exhibit.shown:
        bag = exhibit.bags.get(detector, pd.DataFrame())
        draw = partial(_draw_map, exhibit=exhibit, bag=bag, view=view)
        heading, colour = f"{detector}'s bag", exhibit.colour(detector)
        panels.append(_Panel(heading=heading, colour=colour, caption=_concentration(bag), view=view, draw=draw))
    return panels


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
    """The bag's anchors with their centres; the object above all but the centre of the heaviest."""
    show_image(axes, exhibit.image, view, fade=0.45)
    assert exhibit.gt_box is not None, "a match map is of an object"
    _outline(axes, exhibit.gt_box, OBJECT_COLOUR, 1.6, zorder=4.5)
    if len(bag):
        draw_bag(axes, bag, widths=(0.7, 2.0), sizes=(7, 26), rim=0.8, zorder=3)


def _outline(axes: Axes, box: Float[np.ndarray, " 4"], colour: str, linewidth: float, zorder: float) -> Rectangle:
    """A light box with a dark rim, which stands out on any ground."""
    outline = draw_box(axes, box, color=colour, linewidth=linewidth, zorder=zorder)
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
