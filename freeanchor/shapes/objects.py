"""The objects of the synthetic data set (classes, forms and looks) and the ground that they stand on.

    ground = draw_background(rng, 192)
    sizes = Sizes(min_size=14.0, max_size=128.0, min_head=9.0, max_aspect=8.0)
    lollipop = draw_object(rng, 0, sizes, ground.colours)
    pixels = finish(rng, ground.pixels)

A *slender* object is a bar whose class shows only in the head at one of its ends; a *compact* one shows its class
everywhere. Colour, texture and size are drawn without regard to the class.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from freeanchor.shapes.drawing import SAMPLES, Colour, Look, Stencil, Stroke, cut_stencil, make_stencil, on_grid, paint

CLUTTER_MARGIN = 32  # px drawn around a background and cut off again, so that clutter crosses the border
MIN_ASPECT = 3.0  # of a slender object, along its own axes
MAX_STRETCH = 1.25  # length over width of a compact object
UPRIGHT_SHARE, UPRIGHT_TILT = 0.6, 8.0  # slender objects within so many degrees of the horizontal or vertical
MIN_CONTRAST = 140.0  # between an object's colour and the ground's, summed over the channels


@dataclass(frozen=True, kw_only=True)
class Background:
    """A textured ground, and the colours that an object on it should differ from."""

    pixels: Float[np.ndarray, "size size 3"]
    colours: tuple[Colour, ...]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform draw in [low, high), in arithmetic that no compiler contracts."""
    return low + (high - low) * float(rng.random())


def draw_colour(rng: np.random.Generator, saturation: tuple[float, float], brightness: tuple[float, float]) -> Colour:
    """A colour of any hue, 0 to 255 a channel."""
    hsv = float(rng.random()), between(rng, *saturation), between(rng, *brightness)
    red, green, blue = colorsys.hsv_to_rgb(*hsv)
    return float(round(red * 255.0)), float(round(green * 255.0)), float(round(blue * 255.0))


def _noise(rng: np.random.Generator, size: int, cells: int) -> Float[np.ndarray, "size size"]:
    # Value noise in [0, 1): random values at the corners of `cells` x `cells` cells, smoothly interpolated.
    corners = rng.random((cells + 1, cells + 1))
    place = np.arange(size) * (cells / size)
    cell = place.astype(np.int64)
    t = place - cell
    t = t * t * (3.0 - 2.0 * t)
    rows = corners[cell] * (1.0 - t)[:, None] + corners[cell + 1] * t[:, None]
    return rows[:, cell] * (1.0 - t) + rows[:, cell + 1] * t


def _draw_spot(rng: np.random.Generator) -> Stencil:
    radius, angle = between(rng, 5.0, 32.0), between(rng, 0.0, 360.0)
    waves = [(n, between(rng, 0.0, 0.5 / n), between(rng, 0.0, math.tau)) for n in (2, 3, 4, 5)]
    turns = [math.tau * i / 36 for i in range(36)]
    radii = [
        radius * (1.0 + math.fsum(depth * math.cos(n * turn + phase) for n, depth, phase in waves)) for turn in turns
    ]
    points = [(r * math.cos(turn), r * math.sin(turn)) for r, turn in zip(radii, turns, strict=True)]
    stretch = between(rng, 0.5, 1.0)
    return cut_stencil([on_grid(points, (1.0, stretch), 0.0, angle)], [], np.zeros((1, 2), dtype=np.int64), (0.0, 0.0))


def _draw_line(rng: np.random.Generator) -> Stencil:
    # Bent and tapering, without a head, hence no object.
    length, bend = between(rng, 20.0, 110.0), between(rng, -0.6, 0.6)
    wide, thin = between(rng, 1.0, 5.0), between(rng, 0.3, 1.0)
    steps = [i / 12 for i in range(13)]
    line = [
        (length * (t - 0.5), length * bend * t * (1.0 - t) * 2.0, wide * (1.0 - t) / 2 + thin * t / 2) for t in steps
    ]
    points = [(x, y - half) for x, y, half in line] + [(x, y + half) for x, y, half in reversed(line)]
    outline = on_grid(points, (1.0, 1.0), 0.0, between(rng, 0.0, 360.0))
    return cut_stencil([outline], [], np.zeros((1, 2), dtype=np.int64), (0.0, 0.0))


def _draw_clutter(rng: np.random.Generator, canvas: int) -> Stroke | None:
    # Of low contrast; none where it came out too large for the canvas.
    stencil = _draw_spot(rng) if rng.random() < 0.5 else _draw_line(rng)
    room = [max(canvas - extent, 1) for extent in stencil.size]
    origin = int(rng.integers(room[0])), int(rng.integers(room[1]))
    colour = draw_colour(rng, (0.0, 0.35), (0.15, 0.9))
    look = Look(colour=colour, part_colour=colour, outline_colour=colour, opacity=between(rng, 0.12, 0.45))
    return Stroke(stencil=stencil, origin=origin, look=look) if max(stencil.size) < canvas else None


def draw_background(rng: np.random.Generator, size: int) -> Background:
    """A ground of two muted colours, mixed by noise at several scales and a gradient, with clutter on it."""
    canvas = size + 2 * CLUTTER_MARGIN
    first, second = (draw_colour(rng, (0.05, 0.4), (0.2, 0.9)) for _ in range(2))
    loudest = ((2, 1.0), (4, 1.0), (8, 0.8), (16, 0.6), (32, 0.45), (64, 0.3))  # cells a side, weight
    weights = [(cells, between(rng, 0.0, weight)) for cells, weight in loudest]
    total = math.fsum(weight for _, weight in weights)  # fsum: sum() rounds differently from Python 3.12 on
    mix = sum(_noise(rng, canvas, cells) * (weight / total) for cells, weight in weights)
    ramp = np.arange(canvas) / canvas - 0.5
    mix = mix + ramp * between(rng, -0.6, 0.6) + ramp[:, None] * between(rng, -0.6, 0.6)
    mix = np.clip((mix - 0.5) * 1.6 + 0.5, 0.0, 1.0)[..., None]
    clutter = [_draw_clutter(rng, canvas) for _ in range(int(rng.integers(4, 11)))]
    image = np.array(first) * (1.0 - mix) + np.array(second) * mix
    image = paint(image, [stroke for stroke in clutter if stroke])
    kept = slice(CLUTTER_MARGIN, CLUTTER_MARGIN + size)
    return Background(pixels=image[kept, kept], colours=(first, second))


def finish(rng: np.random.Generator, image: Float[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The image with a little grain, rounded to bytes."""
    grain = (rng.random(image.shape[:2]) - 0.5)[..., None] * between(rng, 2.0, 16.0)
    return np.clip(np.floor(image + grain + 0.5), 0.0, 255.0).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Category:
    """A class: its name, its outline, and whether that outline is a bar's head or the whole object."""

    name: str
    glyph: str
    is_slender: bool

    @property
    def supercategory(self) -> str:
        """`slender` or `compact`."""
        return "slender" if self.is_slender else "compact"


HEADS = {"lollipop": "disc", "paddle": "square", "arrow": "triangle", "loop": "ring", "fork": "fork", "hammer": "tee"}
COMPACT = ("disc", "square", "triangle", "ring", "cross", "star")
CATEGORIES: tuple[Category, ...] = (
    *(Category(name=name, glyph=glyph, is_slender=True) for name, glyph in HEADS.items()),
    *(Category(name=name, glyph=name, is_slender=False) for name in COMPACT),
)


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One shape with its look, placed in the image at `origin`."""

    category: int  # index into CATEGORIES
    stencil: Stencil
    look: Look
    length: float  # px
    elongation: float  # length / width
    angle: float  # degrees in [0, 360), clockwise from pointing right; a slender object points to its head
    origin: tuple[int, int] = (0, 0)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Tight around the whole outline, hidden or not; xyxy in pixels."""
        (x, y), (x1, y1, x2, y2) = self.origin, self.stencil.box
        return x + x1, y + y1, x + x2, y + y2

    @property
    def part(self) -> tuple[float, float]:
        """Centre of the discriminative part: the middle of the head's square, or of a compact object."""
        return self.origin[0] + self.stencil.part_centre[0], self.origin[1] + self.stencil.part_centre[1]

    @property
    def area(self) -> float:
        """Area of the shape in square pixels, hidden or not."""
        return int(np.count_nonzero(self.stencil.body)) / SAMPLES**2

    @property
    def stroke(self) -> Stroke:
        """The object as paint."""
        return Stroke(stencil=self.stencil, origin=self.origin, look=self.look)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bounds on an object's size; lengths in px, as in `ShapesConfig`."""

    min_size: float
    max_size: float  # gives way to `min_size` and `min_head`
    min_head: float
    max_aspect: float


def _log_between(rng: np.random.Generator, low: float, high: float) -> float:
    return round(math.exp(between(rng, math.log(low), math.log(high))), 3)


def _draw_object_colour(rng: np.random.Generator, ground_colours: Sequence[Colour]) -> Colour:
    # One that differs enough from the ground's; the last of 20 draws where none does.
    for _ in range(20):
        colour = draw_colour(rng, (0.3, 0.85), (0.5, 1.0))
        if all(sum(abs(a - b) for a, b in zip(colour, g, strict=True)) >= MIN_CONTRAST for g in ground_colours):
            break
    return colour


def _draw_look(rng: np.random.Generator, ground_colours: Sequence[Colour], length: float) -> Look:
    # Half of the objects have a part of another colour, half have stripes.
    colour, other = (_draw_object_colour(rng, ground_colours) for _ in range(2))
    part_colour = other if rng.random() < 0.5 else colour
    red, green, blue = (channel * 0.3 for channel in colour)  # a dark line round every object
    shade, turn, step = between(rng, 0.0, 0.5) / length, between(rng, 0.0, math.tau), 1.0 / between(rng, 4.0, 14.0)
    depth = between(rng, 0.04, 0.12) if rng.random() < 0.5 else 0.0
    return Look(
        colour=colour,
        part_colour=part_colour,
        outline_colour=(red, green, blue),
        outline_samples=int(rng.integers(2, 5)),
        shade=(round(shade * math.cos(turn), 6), round(shade * math.sin(turn), 6)),
        stripe_step=(round(step * math.cos(turn * 3), 6), round(step * math.sin(turn * 3), 6)),
        stripe_depth=depth,
    )


def _draw_angle(rng: np.random.Generator, is_slender: bool) -> float:
    if is_slender and rng.random() < UPRIGHT_SHARE:
        return round(90.0 * int(rng.integers(4)) + between(rng, -UPRIGHT_TILT, UPRIGHT_TILT), 2) % 360.0
    return round(between(rng, 0.0, 360.0), 2) % 360.0


def draw_object(rng: np.random.Generator, index: int, sizes: Sizes, ground_colours: Sequence[Colour]) -> SceneObject:
    """An object of category `index` and of log-uniform length that has no place yet."""
    category = CATEGORIES[index]
    if category.is_slender:
        elongation, shaft = _log_between(rng, MIN_ASPECT, sizes.max_aspect), round(between(rng, 0.25, 0.4), 3)
        shortest = elongation * sizes.min_head
    else:
        elongation, shaft, shortest = _log_between(rng, 1.0, MAX_STRETCH), None, sizes.min_size
    length = _log_between(rng, shortest, max(shortest, sizes.max_size))
    angle, shift = _draw_angle(rng, category.is_slender), (float(rng.random()), float(rng.random()))
    stencil = make_stencil(category.glyph, length=length, elongation=elongation, angle=angle, shaft=shaft, shift=shift)
    look = _draw_look(rng, ground_colours, length)
    return SceneObject(category=index, stencil=stencil, look=look, length=length, elongation=elongation, angle=angle)
