"""The part of an image around one object or several, and what is drawn on it: boxes, anchors, colours of matching.

view = view_around(points, image.shape)
show_image(axes, image, view, fade=0.35)
draw_box(axes, (x1, y1, x2, y2), color="red", linewidth=2)
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from analysis.bags.matches import anchor_centres, chosen_anchor

GT_COLOUR, ASSIGNED_COLOUR, LEARNED_COLOUR, PART_COLOUR = "#18B548", "#2E86DE", "#E8380D", "#0B6FD6"
# White to dark red, but never so pale that an unlikely anchor vanishes.
LIKELIHOOD_MAP = LinearSegmentedColormap.from_list(
    "likelihood", ["#FFF4EC", "#FCBBA1", "#FB6A4A", "#CB181D", "#67000D"]
)
_LEAST_OPACITY = 0.05  # of an anchor of no weight: the bag as a whole should show
_CORNERS = ["x1", "y1", "x2", "y2"]


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
    box: Float[np.ndarray, " 4"] | tuple[float, ...],
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


def boxes_of(anchors: pd.DataFrame) -> Float[np.ndarray, "A 4"]:
    """The anchors of a frame of matches as xyxy."""
    return anchors[_CORNERS].to_numpy(dtype=np.float64)


def gt_boxes_of(matches: pd.DataFrame) -> Float[np.ndarray, "G 4"]:
    """The objects of a frame of matches as xyxy, each once."""
    return matches[[f"gt_{corner}" for corner in _CORNERS]].drop_duplicates().to_numpy(dtype=np.float64)


def draw_bag(
    axes: Axes,
    bag: pd.DataFrame,
    *,
    widths: tuple[float, float],
    sizes: tuple[float, float],
    rim: float,
    zorder: float,
) -> None:
    """The anchors of the bags of one step, opaque by weight, and of each bag the chosen one, thick.

    `widths` are those of their outlines, `sizes` those of their centres: of the anchors, and of the chosen one, whose
    centre has a white `rim`.
    """
    largest = bag.groupby(["run", "image_id", "annotation_id"], dropna=False).weight.transform("max")
    opacities = np.maximum((bag.weight / largest).to_numpy(dtype=np.float64), _LEAST_OPACITY)
    for box, opacity in zip(boxes_of(bag), opacities, strict=True):
        draw_box(axes, box, color=LEARNED_COLOUR, linewidth=widths[0], alpha=float(opacity), zorder=zorder)
    x, y = anchor_centres(bag).T
    axes.scatter(x, y, s=sizes[0], color=LEARNED_COLOUR, alpha=opacities, linewidth=0, zorder=4)
    chosen = chosen_anchor(bag)
    for box in boxes_of(chosen):
        draw_box(axes, box, color=LEARNED_COLOUR, linewidth=widths[1], zorder=4, has_halo=True)
    x, y = anchor_centres(chosen).T
    axes.scatter(x, y, s=sizes[1], color=LEARNED_COLOUR, edgecolor="white", linewidth=rim, zorder=5)


def _inside(start: float, side: float, limit: float) -> tuple[float, float]:
    """A stretch of length `side` moved into 0..limit, and cut where it is longer."""
    moved = min(max(start, 0.0), max(limit - side, 0.0))
    return moved, min(moved + side, float(limit))
