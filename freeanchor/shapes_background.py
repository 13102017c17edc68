"""The ground of the procedural data set: texture, and clutter that is no object.

Not here: the objects on it (`shapes_objects`).

    ground = draw_background(rng, 192)
    pixels = finish(rng, ground.pixels)
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from freeanchor.shapes_drawing import Colour, Look, Stencil, Stroke, cut_stencil, on_grid, paint

CLUTTER_MARGIN = 32  # px drawn around a background and cut off again, so that clutter crosses the border


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
    """Value noise in [0, 1): random values at the corners of `cells` x `cells` cells, smoothly interpolated."""
    corners = rng.random((cells + 1, cells + 1))
    place = np.arange(size) * (cells / size)
    cell = place.astype(np.int64)
    t = place - cell
    t = t * t * (3.0 - 2.0 * t)
    rows = corners[cell] * (1.0 - t)[:, None] + corners[cell + 1] * t[:, None]
    return rows[:, cell] * (1.0 - t) + rows[:, cell + 1] * t


def _draw_spot(rng: np.random.Generator) -> Stencil:
    """A rounded, irregular spot that is no object."""
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
    """A bent, tapering line without a head, hence no object."""
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
    """A spot or line of low contrast somewhere on the canvas; none where it came out too large for it."""
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
    picture = np.array(first) * (1.0 - mix) + np.array(second) * mix
    picture = paint(picture, [stroke for stroke in clutter if stroke])
    kept = slice(CLUTTER_MARGIN, CLUTTER_MARGIN + size)
    return Background(pixels=picture[kept, kept], colours=(first, second))


def finish(rng: np.random.Generator, picture: Float[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture with a little grain, rounded to bytes."""
    grain = (rng.random(picture.shape[:2]) - 0.5)[..., None] * between(rng, 2.0, 16.0)
    return np.clip(np.floor(picture + grain + 0.5), 0.0, 255.0).astype(np.uint8)
