"""Stencils of the synthetic data set: outlines, the samples inside them, and paint through them.

    stencil = make_stencil("triangle", length=90.0, elongation=6.0, angle=30.0, shaft=0.3, shift=(0.2, 0.7))
    image = paint(image, [Stroke(stencil=stencil, origin=(40, 60), look=look)])

Images have the same bytes on every machine, so nothing here depends on the order of a float sum, on fused multiply-add
or on the last bit of a cosine: outlines are rounded to a grid of 1/64 px and filled with integers (Pillow fills its
polygons in float32), and the float64 that remains is only ever added, multiplied and rounded.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Bool, Float, Int

SAMPLES = 4  # masks hold SAMPLES x SAMPLES samples a pixel
GRID = 64  # outlines are rounded to 1/GRID px; a multiple of 2 * SAMPLES, so that samples lie on the grid
Colour = tuple[float, float, float]
Points = list[tuple[float, float]]
Outline = Int[np.ndarray, "_ 2"]  # of a polygon: x, y in 1/GRID px


def _circle(radius: float, num_points: int = 40) -> Points:
    turns = [math.tau * i / num_points for i in range(num_points)]
    return [(radius * math.cos(turn), radius * math.sin(turn)) for turn in turns]


def _star(outer: float, inner: float) -> Points:
    corners = [(math.tau * i / 10, (outer, inner)[i % 2]) for i in range(10)]
    return [(radius * math.cos(turn), radius * math.sin(turn)) for turn, radius in corners]


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> Points:
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def _fork() -> Points:
    upper = [(-0.5, 0.17), (0.2, 0.5), (0.5, 0.5), (0.5, 0.24), (-0.08, 0.0)]
    return [(x, -y) for x, y in upper] + upper[-2::-1]


def _cross(half: float) -> Points:
    corner = [(0.5, -half), (0.5, half), (half, half)]
    turned = [corner, [(-y, x) for x, y in corner], [(-x, -y) for x, y in corner], [(y, -x) for x, y in corner]]
    return [point for part in turned for point in part]


# Outlines in the square [-0.5, 0.5]^2; a head looks along +x. All turn the same way, holes the other. Each is its own
# mirror image, so that flipping an image never turns one class into another.
GLYPHS: dict[str, tuple[Points, ...]] = {
    "disc": (_circle(0.5),),
    "square": (_rectangle(-0.5, -0.5, 0.5, 0.5),),
    "triangle": ([(-0.5, -0.5), (0.5, 0.0), (-0.5, 0.5)],),
    "ring": (_circle(0.5), _circle(0.27)[::-1]),
    "fork": (_fork(),),
    "tee": (_rectangle(0.08, -0.5, 0.5, 0.5),),
    "cross": (_cross(0.17),),
    "star": (_star(0.5, 0.21),),
}
SHAFT_REACH = {"tee": 0.7}  # how far the shaft runs into the head's square, where not by 0.1


@dataclass(frozen=True, kw_only=True)
class Stencil:
    """A shape on a small grid of its own, `SAMPLES` samples a pixel along both axes; coordinates are pixels of it."""

    body: Bool[np.ndarray, "height width"]  # all of the shape
    part: Bool[np.ndarray, "height width"]  # the discriminative part of it
    box: tuple[float, float, float, float]  # tight around the outline, xyxy
    part_centre: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.body.shape[1] // SAMPLES, self.body.shape[0] // SAMPLES


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a stencil is coloured, whatever its class."""

    colour: Colour
    part_colour: Colour
    outline_colour: Colour
    outline_samples: int = 0  # width of the outline, in samples
    opacity: float = 1.0
    shade: tuple[float, float] = (0.0, 0.0)  # brightness gained per pixel along x and y
    stripe_step: tuple[float, float] = (0.0, 0.0)  # stripes passed per pixel along x and y
    stripe_depth: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A stencil with its look, its corner at `origin` (x, y in pixels) of the image."""

    stencil: Stencil
    origin: tuple[int, int]
    look: Look


def fill(outlines: Sequence[Outline], width: int, height: int) -> Bool[np.ndarray, "rows columns"]:
    """The samples of a `width` x `height` px grid inside polygons of x, y in 1/GRID px, by the non-zero winding rule.

    Integers throughout, hence exact. A sample exactly on an edge counts as inside on the left and upper side only.
    """
    starts = np.concatenate(outlines)
    ends = np.concatenate([np.roll(outline, -1, axis=0) for outline in outlines])
    down = starts[:, 1] < ends[:, 1]
    (x0, y0), (x1, y1) = np.where(down[:, None], starts, ends).T, np.where(down[:, None], ends, starts).T
    step = GRID // SAMPLES
    rows = np.arange(height * SAMPLES)
    centres = rows * step + step // 2
    edge, row = np.nonzero((y0[:, None] <= centres) & (centres < y1[:, None]))
    rise = (y1 - y0)[edge]
    reached = (x0[edge] - step // 2) * rise + (centres[row] - y0[edge]) * (x1 - x0)[edge]
    column = np.clip(-(-reached // (step * rise)), 0, width * SAMPLES)
    winding = np.zeros((height * SAMPLES, width * SAMPLES + 1), dtype=np.int8)
    np.add.at(winding, (row, column), np.where(down[edge], 1, -1).astype(np.int8))
    return np.cumsum(winding, axis=1, dtype=np.int8)[:, :-1] != 0


def on_grid(points: Points, scale: tuple[float, float], offset: float, angle: float) -> Outline:
    """Points stretched, moved along x, turned by `angle` degrees (clockwise on screen) and rounded to the grid."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    stretched = [(x * scale[0] + offset, y * scale[1]) for x, y in points]
    turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in stretched]
    return np.array([(round(x * GRID), round(y * GRID)) for x, y in turned], dtype=np.int64)


def cut_stencil(
    part: list[Outline], rest: list[Outline], centre: Int[np.ndarray, "1 2"], shift: tuple[float, float]
) -> Stencil:
    """The stencil of a part and the rest, moved to lie `shift` of a pixel inside the smallest grid that holds them."""
    corner = np.concatenate(part + rest).min(axis=0)
    move = np.array([round(s * GRID) for s in shift], dtype=np.int64) - corner
    part, rest, centre = [p + move for p in part], [r + move for r in rest], centre + move
    points = np.concatenate(part + rest)
    width, height = (int(-(-extent // GRID)) for extent in points.max(axis=0))
    part_mask = fill(part, width, height)
    body = part_mask | fill(rest, width, height) if rest else part_mask
    x1, y1, x2, y2 = (np.concatenate([points.min(axis=0), points.max(axis=0)]) / GRID).tolist()
    x, y = (centre[0] / GRID).tolist()
    return Stencil(body=body, part=part_mask, box=(x1, y1, x2, y2), part_centre=(x, y))


def make_stencil(
    glyph: str, *, length: float, elongation: float, angle: float, shaft: float | None, shift: tuple[float, float]
) -> Stencil:
    """The stencil of one object, `length` px long and `length / elongation` px wide, looking towards `angle` degrees.

    With `shaft` (its width as a share of the object's), the glyph is the square head at the end of a bar, and the part
    is that head. Without, the glyph is the whole object, stretched, and the part is all of it. `shift` in [0, 1)^2
    moves the object within the pixel grid.
    """
    width = length / elongation
    if shaft is None:
        whole = [on_grid(points, (length, width), 0.0, angle) for points in GLYPHS[glyph]]
        return cut_stencil(whole, [], on_grid([(0.0, 0.0)], (1.0, 1.0), 0.0, angle), shift)
    middle = (length - width) / 2  # of the head, along the axis; the object's middle is 0
    head = [on_grid(points, (width, width), middle, angle) for points in GLYPHS[glyph]]
    end = middle - width / 2 + width * SHAFT_REACH.get(glyph, 0.1)
    bar = on_grid(_rectangle(-length / 2, -shaft * width / 2, end, shaft * width / 2), (1.0, 1.0), 0.0, angle)
    return cut_stencil(head, [bar], on_grid([(0.0, 0.0)], (1.0, 1.0), middle, angle), shift)


def _coverage(mask: Bool[np.ndarray, "rows columns"]) -> Float[np.ndarray, "height width 1"]:
    # The share of each pixel's samples that are set. Adding slices is several times faster than summing over blocks.
    rows = reduce(np.add, [mask[start::SAMPLES].astype(np.uint8) for start in range(SAMPLES)])
    return reduce(np.add, [rows[:, start::SAMPLES] for start in range(SAMPLES)])[..., None] / SAMPLES**2


def _erode(mask: Bool[np.ndarray, "rows columns"], steps: int) -> Bool[np.ndarray, "rows columns"]:
    # Keeps the samples with nothing unset within `steps` of them, in the city-block sense.
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _tone(look: Look, width: int, height: int) -> Float[np.ndarray, "height width 1"]:
    # Brightness of each pixel: a linear shade, and stripes as a triangle wave of `stripe_depth`.
    x, y = np.arange(width) - width / 2, (np.arange(height) - height / 2)[:, None]
    phase = x * look.stripe_step[0] + y * look.stripe_step[1]
    wave = np.abs(phase - np.floor(phase) - 0.5) * 4.0 - 1.0
    return (1.0 + x * look.shade[0] + y * look.shade[1] + wave * look.stripe_depth)[..., None]


def paint(image: Float[np.ndarray, "_ _ 3"], strokes: Iterable[Stroke]) -> Float[np.ndarray, "_ _ 3"]:
    """A copy of the image (0 to 255) with the strokes painted on it in turn; each must lie inside it."""
    painted = image.copy()
    for stroke in strokes:
        (x, y), (width, height) = stroke.origin, stroke.stencil.size
        window = slice(y, y + height), slice(x, x + width)
        painted[window] = _blend(painted[window], stroke.stencil, stroke.look)
    return painted


def _blend(patch: Float[np.ndarray, "_ _ 3"], stencil: Stencil, look: Look) -> Float[np.ndarray, "_ _ 3"]:
    cover = _coverage(stencil.body)
    share = _coverage(stencil.part) / np.maximum(cover, 1 / SAMPLES**2)
    ink = (np.array(look.colour) * (1.0 - share) + np.array(look.part_colour) * share) * _tone(look, *stencil.size)
    if look.outline_samples:
        patch = patch * (1.0 - cover * look.opacity) + np.array(look.outline_colour) * (cover * look.opacity)
        cover = _coverage(_erode(stencil.body, look.outline_samples))
    return patch * (1.0 - cover * look.opacity) + np.clip(ink, 0.0, 255.0) * (cover * look.opacity)
