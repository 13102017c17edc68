"""The part of a picture around one object or several, as the ground to draw anchors on.

What it is: cropping, fading, boxes and outlines. What it is not: a figure (`analysis.matching_figures`).

    view = view_around(points, image.shape)
    show_picture(axes, image, view, fade=0.35)
    draw_box(axes, (x1, y1, x2, y2), color="red", linewidth=2)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke


@dataclass(frozen=True, kw_only=True)
class View:
    """A window of a picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """In pixels of the picture."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """In pixels of the picture."""
        return self.bottom - self.top


def view_around(points: Float[np.ndarray, "P 2"], image_shape: tuple[int, ...], margin: float = 0.1) -> View:
    """The window around the points, with a margin on all sides, moved and cut so as to stay in the picture.

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


def show_picture(axes: Axes, image: UInt8[np.ndarray, "H W 3"], view: View, fade: float = 0.0) -> None:
    """The window of the picture, enlarged smoothly; `fade` blends it towards a light grey, for dots to stand out."""
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
