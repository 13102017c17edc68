"""The settings of the synthetic data set, and what stands where in each image, drawn from a generator of its own.

    scene = draw_scene(ShapesConfig(), "train", 17)
    scene.pixels, scene.objects, scene.crowd

A scene has one ground and up to `max_objects` objects, laid one over another in random order.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int16, Int64, UInt8

from freeanchor.shapes.drawing import SAMPLES, Colour, Stencil, paint
from freeanchor.shapes.objects import (
    CATEGORIES,
    MIN_ASPECT,
    Background,
    SceneObject,
    Sizes,
    between,
    draw_background,
    draw_object,
    finish,
)

SPLITS = ("train", "val")
MAX_SAME_IOU = 0.7  # between the boxes of two objects of one class
GROUND, CROWD, FIRST_OBJECT = 0, 1, 2  # codes in a layout's owner map
OWNER_SAMPLES = 2  # per pixel, along both axes, for telling what hides what


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """The settings of the data set; the same settings and packages give the same bytes."""

    num_train: int = 1500
    num_val: int = 500
    image_size: int = 160  # px, both sides
    seed: int = 0
    max_objects: int = 20
    empty_fraction: float = 0.02  # of the images
    crowd_fraction: float = 0.04  # of the images, with one crowd region each
    min_size: float = 32.0  # px, length of the shortest compact object
    max_size: float = 110.0  # px, length of the longest object
    min_head: float = 12.0  # px, width of the thinnest slender object: below, the heads look alike
    max_aspect: float = 8.0  # length over width of the most slender object; the least has 3, as in `slender >= 3`
    max_hidden: float = 0.25  # share of an object that later ones may hide

    def __post_init__(self) -> None:
        """Refuse settings that no image can be drawn from."""
        is_fraction = "lie in [0, 1]; pass a fraction, not a percentage"
        longest, widest_head = (self.image_size - 2) / math.sqrt(2), self.max_size / self.max_aspect
        checks = {
            "num_train": (0 <= self.num_train < 10**6, "lie in 0..999999"),
            "num_val": (0 <= self.num_val < 10**6, "lie in 0..999999"),
            "seed": (self.seed >= 0, "be 0 or more"),
            "image_size": (64 <= self.image_size <= 1024, "lie in 64..1024 px"),
            "max_objects": (1 <= self.max_objects <= 100, "lie in 1..100"),
            "empty_fraction": (0 <= self.empty_fraction <= 1, is_fraction),
            "crowd_fraction": (0 <= self.crowd_fraction <= 1, is_fraction),
            "max_hidden": (0 <= self.max_hidden <= 1, is_fraction),
            "min_size": (4 <= self.min_size < self.max_size, f"be at least 4 px and below max_size, {self.max_size}"),
            "max_size": (self.max_size <= longest, f"be at most {longest:.1f} px, to fit the image when turned"),
            "max_aspect": (self.max_aspect > MIN_ASPECT, f"be above {MIN_ASPECT:g}"),
            "min_head": (4 <= self.min_head <= widest_head, f"be 4 px to max_size / max_aspect = {widest_head:.1f} px"),
        }
        for name, (holds, rule) in checks.items():
            if not holds:
                raise ValueError(f"{name} must {rule}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """A group of tiny objects of one class, annotated as one region."""

    members: tuple[SceneObject, ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Tight around all members, xyxy."""
        x1, y1, x2, y2 = zip(*(member.box for member in self.members), strict=True)
        return min(x1), min(y1), max(x2), max(y2)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What has been placed so far, and what shows at each of the OWNER_SAMPLES^2 samples of a pixel.

    The i-th object owns the codes FIRST_OBJECT + 2 i (body without part) and FIRST_OBJECT + 2 i + 1 (part).
    """

    owner: Int16[np.ndarray, "rows columns"]
    visible: Int64[np.ndarray, " codes"]  # samples that show each code
    drawn: Int64[np.ndarray, " codes"]  # samples that showed it before anything was laid on top
    objects: tuple[SceneObject, ...] = ()

    @property
    def hidden(self) -> tuple[float, ...]:
        """Share of each object that later ones hide."""
        visible, drawn = (counts[FIRST_OBJECT:].reshape(-1, 2).sum(axis=1) for counts in (self.visible, self.drawn))
        return tuple((1.0 - visible / drawn).tolist())


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image, its objects in the order of drawing with the share of each that is hidden, and its crowd if any."""

    pixels: UInt8[np.ndarray, "size size 3"]
    objects: tuple[SceneObject, ...] = ()
    hidden: tuple[float, ...] = ()
    crowd: Crowd | None = None


@dataclass(frozen=True, kw_only=True)
class Theme:
    """What the objects of one image have in common."""

    ground_colours: tuple[Colour, ...] = ()
    categories: tuple[int, ...] = ()  # that occur, all equally likely
    centre: tuple[float, float] = (0.5, 0.5)  # of the group, as a share of the free room
    spread: float = 1.0  # of the group; 1 is all over the image


EVERYWHERE = Theme()


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def _window(stencil: Stencil, origin: tuple[int, int]) -> tuple[slice, slice]:
    # Rows and columns of the owner map.
    (x, y), (width, height) = origin, stencil.size
    rows, columns = (
        slice(y * OWNER_SAMPLES, (y + height) * OWNER_SAMPLES),
        slice(x * OWNER_SAMPLES, (x + width) * OWNER_SAMPLES),
    )
    return rows, columns


def _coarse(mask: np.ndarray) -> np.ndarray:
    step = SAMPLES // OWNER_SAMPLES
    return mask[::step, ::step]


def _fits(layout: Layout, candidate: SceneObject, max_hidden: float) -> bool:
    """Whether the candidate leaves enough of every object and of its part, all of a crowd, and room for NMS."""
    same = [placed.box for placed in layout.objects if placed.category == candidate.category]
    if any(_iou(candidate.box, box) > MAX_SAME_IOU for box in same):
        return False
    under = layout.owner[_window(candidate.stencil, candidate.origin)][_coarse(candidate.stencil.body)]
    covered = np.bincount(under, minlength=len(layout.visible))
    left = (layout.visible - covered)[FIRST_OBJECT:].reshape(-1, 2)
    drawn = layout.drawn[FIRST_OBJECT:].reshape(-1, 2)
    enough = left.sum(axis=1) >= drawn.sum(axis=1) * (1.0 - max_hidden)
    return bool(covered[CROWD] == 0 and enough.all() and (left[:, 1] * 2 >= drawn[:, 1]).all())


def _lay(layout: Layout, placed: SceneObject) -> Layout:
    body, part = _coarse(placed.stencil.body), _coarse(placed.stencil.part)
    code = FIRST_OBJECT + 2 * len(layout.objects)
    owner, window = layout.owner.copy(), _window(placed.stencil, placed.origin)
    covered = np.bincount(owner[window][body], minlength=len(layout.visible))
    owner[window][body] = np.where(part, code + 1, code)[body]
    mine = np.array([np.count_nonzero(body & ~part), np.count_nonzero(part)])
    return Layout(
        owner=owner,
        visible=np.concatenate([layout.visible - covered, mine]),
        drawn=np.concatenate([layout.drawn, mine]),
        objects=(*layout.objects, placed),
    )


def _draw_origin(rng: np.random.Generator, theme: Theme, stencil: Stencil, image_size: int) -> tuple[int, int]:
    # Wholly inside the image, near the theme's centre.
    shares = [centre + (float(rng.random()) - 0.5) * theme.spread for centre in theme.centre]
    room = [image_size - extent for extent in stencil.size]
    x, y = (int(min(max(share, 0.0), 0.9999) * (free + 1)) for share, free in zip(shares, room, strict=True))
    return x, y


def _add_object(rng: np.random.Generator, config: ShapesConfig, theme: Theme, layout: Layout) -> Layout:
    """The layout with one more object, tried in 5 ever shorter forms at 12 places each; as it is where none fits.

    The category is drawn once, so that those which cover much are as frequent as the others.
    """
    index = theme.categories[int(rng.integers(len(theme.categories)))]
    sizes = Sizes(
        min_size=config.min_size, max_size=config.max_size, min_head=config.min_head, max_aspect=config.max_aspect
    )
    for _ in range(5):
        drawn = draw_object(rng, index, sizes, theme.ground_colours)
        for _ in range(12):
            candidate = replace(drawn, origin=_draw_origin(rng, theme, drawn.stencil, config.image_size))
            if _fits(layout, candidate, config.max_hidden):
                return _lay(layout, candidate)
        sizes = replace(sizes, max_size=sizes.max_size * 0.6)
    return layout


def _draw_theme(rng: np.random.Generator, ground: Background) -> Theme:
    # Every third image shows three classes only; every third, independently, has its objects in a group.
    is_themed, is_grouped = rng.random() < 1 / 3, rng.random() < 1 / 3
    order = rng.permutation(len(CATEGORIES)).tolist()
    return Theme(
        ground_colours=ground.colours,
        categories=tuple(order[:3] if is_themed else order),
        centre=(between(rng, 0.3, 0.7), between(rng, 0.3, 0.7)) if is_grouped else (0.5, 0.5),
        spread=between(rng, 0.55, 0.85) if is_grouped else 1.0,
    )


def _draw_crowd(rng: np.random.Generator, config: ShapesConfig, theme: Theme) -> Crowd:
    # 12 to 28 small objects of one class inside a square of 0.3 to 0.5 of the image's side.
    sizes = Sizes(
        min_size=config.min_size * 0.35, max_size=config.min_size * 0.5, min_head=config.min_head * 0.75, max_aspect=3.3
    )
    longest = max(sizes.max_size, sizes.min_head * sizes.max_aspect)
    side = int(max(config.image_size * between(rng, 0.3, 0.5), 1.5 * longest + 2))  # 1.5: a square turned by 45 degrees
    corner = [int(rng.integers(config.image_size - side + 1)) for _ in range(2)]
    members = []
    for _ in range(int(rng.integers(12, 29))):
        member = draw_object(rng, theme.categories[0], sizes, theme.ground_colours)
        x, y = _draw_origin(rng, EVERYWHERE, member.stencil, side)
        members.append(replace(member, origin=(corner[0] + x, corner[1] + y)))
    return Crowd(members=tuple(members))


def _start_layout(config: ShapesConfig, crowd: Crowd | None) -> Layout:
    # Nothing may be laid on the crowd's box.
    side = config.image_size * OWNER_SAMPLES
    owner = np.full((side, side), GROUND, dtype=np.int16)
    if crowd is not None:
        x1, y1, x2, y2 = crowd.box
        rows, columns = (
            slice(int(low * OWNER_SAMPLES), math.ceil(high * OWNER_SAMPLES)) for low, high in ((y1, y2), (x1, x2))
        )
        owner[rows, columns] = CROWD
    samples = np.bincount(owner.ravel(), minlength=FIRST_OBJECT)
    return Layout(owner=owner, visible=samples, drawn=samples)


def draw_scene(config: ShapesConfig, split: str, index: int) -> Scene:
    """The `index`-th image of a split; depends on no other image, nor on how many there are."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([config.seed, SPLITS.index(split), index])))
    ground = draw_background(rng, config.image_size)
    if rng.random() < config.empty_fraction:
        return Scene(pixels=finish(rng, ground.pixels))
    theme = _draw_theme(rng, ground)
    crowd = _draw_crowd(rng, config, theme) if rng.random() < config.crowd_fraction else None
    layout = _start_layout(config, crowd)
    share = float(rng.random())
    for _ in range(
        1 + int(config.max_objects * share * math.sqrt(share))
    ):  # so that images of every crowdedness are frequent
        layout = _add_object(rng, config, theme, layout)
    drawn = (*(crowd.members if crowd else ()), *layout.objects)
    image = paint(ground.pixels, [item.stroke for item in drawn])
    return Scene(pixels=finish(rng, image), objects=layout.objects, hidden=layout.hidden, crowd=crowd)
