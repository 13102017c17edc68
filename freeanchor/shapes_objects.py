"""The objects of the procedural data set: their classes, forms and looks.

Not here: how a form is filled and painted (`shapes_drawing`), and where it stands (`shapes_scene`).

    sizes = Sizes(min_size=14.0, max_size=128.0, min_head=9.0, max_aspect=8.0)
    lollipop = draw_object(rng, 0, sizes, ground_colours=[(90.0, 80.0, 70.0)])

A *slender* object is a bar whose class shows only in the head at one of its ends; a *compact* one shows its class
everywhere. Colour, texture and size are drawn without regard to the class.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from freeanchor.shapes_background import between, draw_colour
from freeanchor.shapes_drawing import SAMPLES, Colour, Look, Stencil, Stroke, make_stencil

MIN_ASPECT = 3.0  # of a slender object, along its own axes
MAX_STRETCH = 1.25  # length over width of a compact object
UPRIGHT_SHARE, UPRIGHT_TILT = 0.6, 8.0  # slender objects within so many degrees of the horizontal or vertical
MIN_CONTRAST = 140.0  # between an object's colour and the ground's, summed over the channels


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


CATEGORIES: tuple[Category, ...] = (
    Category(name="lollipop", glyph="disc", is_slender=True),
    Category(name="paddle", glyph="square", is_slender=True),
    Category(name="arrow", glyph="triangle", is_slender=True),
    Category(name="loop", glyph="ring", is_slender=True),
    Category(name="fork", glyph="fork", is_slender=True),
    Category(name="hammer", glyph="tee", is_slender=True),
    Category(name="disc", glyph="disc", is_slender=False),
    Category(name="square", glyph="square", is_slender=False),
    Category(name="triangle", glyph="triangle", is_slender=False),
    Category(name="ring", glyph="ring", is_slender=False),
    Category(name="cross", glyph="cross", is_slender=False),
    Category(name="star", glyph="star", is_slender=False),
)


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One shape in its place."""

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
    """A colour that differs enough from the ground's; the last of 20 draws where none does."""
    for _ in range(20):
        colour = draw_colour(rng, (0.3, 0.85), (0.5, 1.0))
        if all(sum(abs(a - b) for a, b in zip(colour, g, strict=True)) >= MIN_CONTRAST for g in ground_colours):
            break
    return colour


def _draw_look(rng: np.random.Generator, ground_colours: Sequence[Colour], length: float) -> Look:
    """Colours and texture; half of the objects have a part of another colour, half have stripes."""
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
