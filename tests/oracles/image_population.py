"""A large made-up population of images, from which data sets are drawn; shares nothing with `analysis`.

Images differ in difficulty, which all objects of an image and both detectors share: resampling objects instead of
images, or the two detectors apart, would give intervals of another length. A metric of the whole population is the
truth that intervals from drawn data sets should cover.
"""

from dataclasses import dataclass

import numpy as np

NUM_CLASSES = 2
CELL = 200.0  # objects stand this far apart, in pixels


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Boxes xyxy of many images in the order of the images, numbered from 0; `scores` is empty for objects."""

    num_images: int
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Population:
    """Objects, and what two detectors find in the same images; the second one is the better."""

    objects: Rows
    first: Rows
    second: Rows


def population(num_images: int, generator: np.random.Generator) -> Population:
    """Images with one to four objects, harder ones with worse boxes, more misses and more false alarms."""
    difficulty = generator.normal(size=num_images)
    objects = _objects(num_images, generator)
    shared = generator.normal(size=(len(objects.image), 5))  # what both detectors see alike
    first, second = (_found(objects, difficulty, shared, skill, generator) for skill in (0.0, 0.5))
    return Population(objects=objects, first=first, second=second)


def _objects(num_images: int, generator: np.random.Generator) -> Rows:
    count = 1 + np.minimum(generator.poisson(0.6, num_images), 3)
    image = np.repeat(np.arange(num_images), count)
    place = np.arange(len(image)) - np.repeat(np.cumsum(count) - count, count)
    corner = np.stack([CELL * (1 + place), np.full(len(image), CELL)], axis=1)
    return Rows(
        num_images=num_images,
        image=image,
        label=generator.choice(NUM_CLASSES, len(image), p=[0.7, 0.3]),
        boxes=np.hstack([corner, corner + generator.uniform(40, 100, (len(image), 2))]),
        scores=np.empty(0),
    )


def _found(
    objects: Rows, difficulty: np.ndarray, shared: np.ndarray, skill: float, generator: np.random.Generator
) -> Rows:
    """One detector: a box or none for every object, and false alarms where nothing stands.

    The better the score, the better the box, so that precision tends to 1 at the top. Were it to level off below, AP
    would have no limit: its value at recall 0, 1/101 of it, would hang on the single best scored box at any size.
    """
    hard = difficulty[objects.image]
    noise = 0.8 * shared + 0.6 * generator.normal(size=shared.shape)
    is_found = noise[:, 4] < 1.3 + skill - hard
    size = np.tile(objects.boxes[:, 2:] - objects.boxes[:, :2], 2)
    score = 1.0 - 0.5 * hard + generator.normal(size=len(hard))
    reach = np.minimum(0.1 * np.exp(-0.5 * skill - 0.6 * score), 0.12)[:, None]  # more would turn boxes inside out
    num_false = generator.poisson(np.exp(0.5 * difficulty - skill))
    wrong = np.repeat(np.arange(objects.num_images), num_false)
    corner = generator.uniform(0, CELL / 2, (len(wrong), 2)) + np.array([0, 3 * CELL])  # below all objects
    image = np.concatenate([objects.image[is_found], wrong])
    order = np.argsort(image, kind="stable")
    scores = np.concatenate([score[is_found], generator.normal(-0.5, 1.0, len(wrong))])
    return Rows(
        num_images=objects.num_images,
        image=image[order],
        label=np.concatenate([objects.label[is_found], generator.integers(NUM_CLASSES, size=len(wrong))])[order],
        boxes=np.vstack([(objects.boxes + reach * size * noise[:, :4])[is_found], np.hstack([corner, corner + 50.0])])[
            order
        ],
        scores=scores[order],
    )


def crowded_candidates(objects: Rows, generator: np.random.Generator, num_each: int = 6) -> tuple[Rows, Rows]:
    """Objects with a neighbour of their class close by for one in three, and candidates before NMS for all of them."""
    beside = np.flatnonzero(generator.random(len(objects.image)) < 1 / 3)
    shift = (objects.boxes[beside, 2:] - objects.boxes[beside, :2]) * generator.uniform(0.2, 0.7, (len(beside), 1))
    boxes = np.vstack([objects.boxes, objects.boxes[beside] + np.tile(shift * np.array([1, 0]), 2)])
    rows = np.concatenate([np.arange(len(objects.image)), beside])
    both = _sorted(objects.num_images, objects.image[rows], objects.label[rows], boxes, np.empty(0))
    size = np.repeat(both.boxes[:, 2:] - both.boxes[:, :2], num_each, axis=0)
    shaken = np.repeat(both.boxes, num_each, axis=0) + 0.08 * np.tile(size, 2) * generator.normal(size=(len(size), 4))
    candidates = Rows(
        num_images=both.num_images,
        image=np.repeat(both.image, num_each),
        label=np.repeat(both.label, num_each),
        boxes=shaken,
        scores=generator.uniform(0.06, 1, len(size)),  # says nothing about the box: NMS often keeps a bad one
    )
    return both, candidates


def _sorted(num_images: int, image: np.ndarray, label: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> Rows:
    order = np.argsort(image, kind="stable")
    scores = scores[order] if len(scores) else scores
    return Rows(num_images=num_images, image=image[order], label=label[order], boxes=boxes[order], scores=scores)


def drawn(rows: Rows, chosen: np.ndarray) -> Rows:
    """The rows of the chosen images, one data set: image i of it is `chosen[i]`, more than once if chosen so."""
    start, end = (np.searchsorted(rows.image, chosen, side=side) for side in ("left", "right"))
    count = end - start
    index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start, count)
    return Rows(
        num_images=len(chosen),
        image=np.repeat(np.arange(len(chosen)), count),
        label=rows.label[index],
        boxes=rows.boxes[index],
        scores=rows.scores[index] if len(rows.scores) else rows.scores,
    )
