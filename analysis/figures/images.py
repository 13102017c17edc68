"""Images of any shape laid out on one sheet: cells in columns, and in each cell panels side by side.

What it is: where everything stands. Constrained layout leaves gaps between panels of different shapes; here all panels
of a line are equally high, and as high as the sheet's width allows. What it is not: what the panels show.

    panel = Panel(heading="RetinaNet", colour="#6F8FB3", caption="3 boxes", view=view, draw=lambda axes: …)
    cell = Cell(title="A fish", subtitle="found", credit="CC BY 4.0", panels=(panel, panel))
    sheet = image_sheet("Three fish", "of 7", [cell, cell, cell], num_columns=2)

The part of an image around one object or several, as the ground to draw anchors on.

What it is: cropping, fading, boxes and outlines. What it is not: a figure (`analysis.matching_figures`).

    view = view_around(points, image.shape)
    show_image(axes, image, view, fade=0.35)
    draw_box(axes, (x1, y1, x2, y2), color="red", linewidth=2)
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from analysis.figures.style import FAINT_INK, INK


@dataclass(frozen=True, kw_only=True)
class View:
    """A window of an image, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """In pixels of the image."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels of the image."""
        return self.bottom - self.top


def view_around(points: Float[np.ndarray, "P 2"], image_shape: tuple[int, ...], margin: float = 0.1) -> View:
    """The window around the points, with a margin on all sides, moved and cut so as to stay in the image.

    `image_shape` begins with height and width. The window's short side is at least 0.6 of its long one, and none is
    below 16 pixels: closer up, single pixels would be all there is to see.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    extent = high - low
    sides = np.maximum(extent + 2 * margin * extent.max(), max(0.6 * (1 + 2 * margin) * extent.max(), 16.0))
    (left, right), (top, bottom) = (
        _inside(float(middle - side / 2), float(side), limit)
        for middle, side, limit in zip((low + high) / 2, sides, image_shape[1::-1], strict=True)
    )
    return View(left=left, top=top, right=right, bottom=bottom)


def show_image(axes: Axes, image: UInt8[np.ndarray, "H W 3"], view: View, fade: float = 0.0) -> None:
    """The window of the image, enlarged smoothly; `fade` blends it towards a light grey, for dots to stand out."""
    height, width = image.shape[:2]
    faded = (image * (1 - fade) + np.array([238, 240, 243]) * fade).round().astype(np.uint8)
    axes.imshow(faded, extent=(0, width, height, 0), interpolation="bicubic", zorder=0)
    axes.set(xlim=(view.left, view.right), ylim=(view.bottom, view.top), xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.8)


def draw_box(
    axes: Axes,
    box: tuple[float, float, float, float],
    *,
    color: str,
    linewidth: float,
    alpha: float = 1.0,
    zorder: float = 2,
    has_halo: bool = False,
) -> Rectangle:
    """The outline of an xyxy box; with a halo it stands out on any ground."""
    x1, y1, x2, y2 = box
    outline = Rectangle(
        (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=linewidth, alpha=alpha, zorder=zorder
    )
    if has_halo:
        outline.set_path_effects([withStroke(linewidth=linewidth + 1.6, foreground="white", alpha=0.85 * alpha)])
    axes.add_patch(outline)
    return outline


def _inside(start: float, side: float, limit: float) -> tuple[float, float]:
    """A stretch of length `side` moved into 0..limit, and cut where it is longer."""
    moved = min(max(start, 0.0), max(limit - side, 0.0))
    return moved, min(moved + side, float(limit))


WIDTH = 8.0  # inches
TALLEST_PANEL = 1.5  # inches; photographs weigh, and a page holds many
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
class Panel:
    """A window on an image under a coloured heading and a caption, each one short line; `draw` fills its axes."""

    heading: str
    colour: str
    caption: str
    view: View
    draw: Callable[[Axes], object]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One or more panels, with lines of text above and a credit below; an empty text takes no room."""

    title: str
    subtitle: str
    credit: str
    panels: tuple[Panel, ...]


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
                color=colour or kind.colour, va="top", ha="left", parse_math=False,
            )  # fmt: skip
        return top + len(lines) * kind.line

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """A panel of so many inches."""
        whole, high = self.figure.get_size_inches()
        return self.figure.add_axes((left / whole, 1 - (top + height) / high, width / whole, height / high))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Cells that stand side by side, and how much room they take."""

    cells: Sequence[Cell]
    width: float  # of a cell, inches

    def num_lines(self, kind: _Type, text: Callable[[Cell], str]) -> int:
        """Of one kind of text, in the cell that has most."""
        return max(len(kind.wrapped(text(cell), self.width)) for cell in self.cells)

    @property
    def head(self) -> float:
        """Inches above the panels."""
        titles, subtitles = self.num_lines(_TITLE, lambda cell: cell.title), self.num_lines(_SUBTITLE, _subtitle)
        return titles * _TITLE.line + subtitles * _SUBTITLE.line + _PANEL_NAME.line + _CAPTION.line + 0.03

    @property
    def panel_height(self) -> float:
        """The height at which the panels of the fullest cell fill its width, or less."""
        return min(TALLEST_PANEL, *[_fitting_height(cell.panels, self.width) for cell in self.cells])

    @property
    def height(self) -> float:
        """Inches of everything, with the gap to the next line."""
        credit = self.num_lines(_CREDIT, _credit) * _CREDIT.line
        return self.head + self.panel_height + 0.04 + credit + _LINE_GAP


def image_sheet(
    title: str,
    subtitle: str,
    cells: Sequence[Cell],
    *,
    num_columns: int = 1,
    legend: Sequence[Artist] = (),
    **legend_look: Any,
) -> Figure:
    """The cells in reading order, `num_columns` a line, on a sheet `WIDTH` inches wide and as high as it takes."""
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


def _place(canvas: _Canvas, line: _Line, cell: Cell, left: float, top: float) -> None:
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


def _fitting_height(panels: Sequence[Panel], width: float) -> float:
    """The height at which so many panels with their captions fill so many inches."""
    room, shapes = width - _PANEL_GAP * (len(panels) - 1), [panel.view.width / panel.view.height for panel in panels]
    height = room / sum(shapes)
    for _ in panels:  # those that are narrower than their captions leave the others less: at most one more each time
        wide = [shape for shape in shapes if shape * height > _CAPTION_ROOM]
        height = min(height, (room - _CAPTION_ROOM * (len(panels) - len(wide))) / sum(wide) if wide else height)
    return height


def _subtitle(cell: Cell) -> str:
    return cell.subtitle


def _credit(cell: Cell) -> str:
    return cell.credit
