"""The images that the matching explorer shows: drawn by a fixed seed, and those with telling objects.

    sample = choose_images(split, parts, credits, count=40)
    sample.images, sample.groups[annotation_id]         # ("slender", "acentric")

Half the images are drawn at random. The others have the most slender objects, the most objects, and the objects whose
discriminative part lies farthest from their centre; where data record no part, more are drawn. Images whose own licence
forbids derivatives are left out, or shown blurred where asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from analysis.bags.arrays import OFF_CENTRE
from analysis.evaluation.breakdowns import CROWDEDNESS_EDGES, AspectCuts, aspect_ratio
from freeanchor.data.coco import ImageRecord, Split

SLENDER, SQUARE, CROWDED, ACENTRIC = "slender", "square", "crowded", "acentric"
GROUPS = {
    SLENDER: f"longer than {AspectCuts().slender:g}:1",
    SQUARE: "no longer than 4:3",
    CROWDED: f"in an image with {CROWDEDNESS_EDGES[-1]} objects or more",
    ACENTRIC: "what tells its class lies off its centre, as at one end",
}
SPECIAL = 6  # of so many images one is chosen for each of the three kinds
Parts = Mapping[int, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Images with their objects, in the order shown; `groups` of objects and `credits` of images, by id.

    `restricted` are images whose licence forbids derivatives, `num_refused` how many of those were left out.
    """

    images: tuple[ImageRecord, ...]
    groups: dict[int, tuple[str, ...]]
    credits: dict[int, str]
    restricted: frozenset[int]
    num_refused: int


def choose_images(
    split: Split, parts: Parts, credits: Mapping[int, str], *, count: int, seed: int = 0, keeps_restricted: bool = False
) -> Sample:
    """`count` images of a split with objects of more than a pixel's width and height, or all where there are fewer.

    `credits` has a line for each image that may be shown; the others are left out unless `keeps_restricted`.
    """
    with_objects = [image for image in map(_visible, split.images) if len(image.boxes)]
    allowed = [image for image in with_objects if keeps_restricted or image.image_id in credits]
    drawn = [allowed[place] for place in np.random.default_rng(seed).permutation(len(allowed)).tolist()]
    special = _special(allowed, parts, max(1, count // SPECIAL) if count > 3 else 0)
    num_drawn = max(0, count - len(special))
    chosen: dict[int, ImageRecord] = {}
    for image in (*drawn[:num_drawn], *special, *drawn[num_drawn:]):  # what was drawn and is special leaves a place
        if len(chosen) < count:
            chosen.setdefault(image.image_id, image)
    images = tuple(chosen.values())
    return Sample(
        images=images,
        groups={number: names for image in images for number, names in _groups_of(image, parts).items()},
        credits={image.image_id: credits.get(image.image_id, "") for image in images},
        restricted=frozenset(image.image_id for image in images if image.image_id not in credits),
        num_refused=len(with_objects) - len(allowed),
    )


def _visible(image: ImageRecord) -> ImageRecord:
    """Without objects of a pixel's width or height or less: no one sees them, and some networks know no such boxes."""
    keep = ((image.boxes[:, 2:] - image.boxes[:, :2]) > 1).all(dim=1)
    return replace(image, boxes=image.boxes[keep], labels=image.labels[keep], annotation_ids=image.annotation_ids[keep])


def _special(images: list[ImageRecord], parts: Parts, number: int) -> list[ImageRecord]:
    """The first `number` images by each of three orders, each image once."""
    orders: list[Callable[[ImageRecord], float]] = [
        lambda image: float(_aspects(image).max()),
        lambda image: float(len(image.boxes)),
        lambda image: float(np.nan_to_num(_offsets(image, parts)).max()),
    ]
    chosen: dict[int, ImageRecord] = {}
    for order in orders:
        ranked = sorted((image for image in images if order(image) > 0), key=lambda it: (-order(it), it.image_id))
        fresh = [image for image in ranked if image.image_id not in chosen]
        chosen |= {image.image_id: image for image in fresh[:number]}
    return list(chosen.values())


def _aspects(image: ImageRecord) -> Float[np.ndarray, " G"]:
    return aspect_ratio((image.boxes[:, 2:] - image.boxes[:, :2]).double().numpy())


def _offsets(image: ImageRecord, parts: Parts) -> Float[np.ndarray, " G"]:
    """How far each object's part lies from its centre, in diagonals; nan where unknown."""
    unknown = (np.nan, np.nan)
    centres = np.array([parts.get(number, unknown) for number in image.annotation_ids.tolist()], dtype=np.float64)
    boxes = image.boxes.double().numpy()
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.hypot(*(centres.reshape(-1, 2) - middles).T) / np.hypot(*sides.T)


def _groups_of(image: ImageRecord, parts: Parts) -> dict[int, tuple[str, ...]]:
    cuts, aspects, offsets = AspectCuts(), _aspects(image), _offsets(image, parts)
    belongs = {
        SLENDER: aspects >= cuts.slender,
        SQUARE: aspects <= cuts.square,
        CROWDED: np.full(len(aspects), len(aspects) >= CROWDEDNESS_EDGES[-1]),
        ACENTRIC: offsets > OFF_CENTRE,
    }
    return {
        number: tuple(name for name, own in belongs.items() if own[place])
        for place, number in enumerate(image.annotation_ids.tolist())
    }


def relabelled(images: tuple[ImageRecord, ...], names: tuple[str, ...], known: tuple[str, ...]) -> list[ImageRecord]:
    """The images with another detector's labels: the positions of their categories' `names` in `known`.

    Raises ValueError naming a category that is not among them.
    """
    used = {int(label) for image in images for label in image.labels}
    if missing := [names[label] for label in sorted(used) if names[label] not in known]:
        raise ValueError(missing[0])
    table = torch.tensor([known.index(name) if name in known else 0 for name in names])
    return [replace(image, labels=table[image.labels]) for image in images]
