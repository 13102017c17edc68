"""The endless, seeded stream of training samples: order, flips and scales.

Everything is a function of (seed, position): which image comes, whether it is flipped, how large it is. A run
resumed at step s therefore sees exactly what an uninterrupted one would, with no state to store.

    stream = TrainingStream(split, config.input, AugmentConfig(short_sides=(640, 672, 704)), seed=0)
    sample = stream[position]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from freeanchor.data.coco import InputConfig, Sample, Split, load_sample
from freeanchor.data.images import open_image
from freeanchor.errors import DataError

KEPT = 256_000_000  # bytes of decoded images that a training keeps, where all of them fit
DECODED = 4  # bytes a pixel of Pillow's RGB takes


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training images: horizontal flips, and short sides drawn from a list (authors' code).

    No `short_sides` means the size of the `InputConfig`.
    """

    flip_probability: float = 0.5
    short_sides: tuple[int, ...] = ()


def _epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(num_images)


def _grouped_order(seed: int, epoch: int, size: int, aspects: Sequence[np.ndarray]) -> np.ndarray:
    """An epoch's order in groups of `size` images of one aspect each, the groups of both aspects mixed."""
    generator = np.random.default_rng([seed, 0, epoch])
    groups = []
    for aspect in aspects:
        if len(aspect):
            shuffled = generator.permutation(aspect)
            groups.append(np.resize(shuffled, -(-len(aspect) // size) * size).reshape(-1, size))
    return generator.permutation(np.concatenate(groups)).ravel()


class TrainingStream(Dataset[Sample]):
    """Training samples by position in the stream; position p of epoch p // E is order[p % E], E an epoch's length.

    DEVIATION(D22): groups of one aspect are made where `aspect_group` says how large; the authors always make them, in
    pairs. An epoch then repeats up to `aspect_group` - 1 images of each aspect, to fill its last groups.
    """

    def __init__(
        self, split: Split, inputs: InputConfig, augment: AugmentConfig, seed: int, aspect_group: int = 1
    ) -> None:
        """Images without an object take no part in training, as in the authors' code."""
        self.images = tuple(image for image in split.images if len(image.boxes) > 0)
        if not self.images:
            raise DataError(f"{split.annotations}: no image has an object to train on; add annotations")
        self.inputs, self.augment, self.seed, self.aspect_group = inputs, augment, seed, aspect_group
        is_portrait = np.array([image.height >= image.width for image in self.images])
        self._aspects = [np.flatnonzero(is_portrait), np.flatnonzero(~is_portrait)]
        self._known = -1, np.arange(0)
        pixels = sum(image.width * image.height for image in self.images)
        self._keeps = pixels * DECODED <= KEPT
        self._kept: dict[Path, Image.Image] = {}

    @property
    def epoch_length(self) -> int:
        """Positions in an epoch: the images, and what fills up the last group of each aspect."""
        size = self.aspect_group
        return size * sum(-(-len(aspect) // size) for aspect in self._aspects)

    def __getitem__(self, position: int) -> Sample:
        """The sample at `position`, read and changed as the seed has it."""
        epoch, place = divmod(position, self.epoch_length)
        image = self.images[self._order(epoch)[place]]
        generator = np.random.default_rng([self.seed, 1, position])
        flip = bool(generator.random() < self.augment.flip_probability)
        sides = self.augment.short_sides
        short_side = sides[generator.integers(len(sides))] if sides else None
        return load_sample(image, self.inputs, short_side=short_side, flip=flip, read=self._read)

    def _read(self, path: Path) -> Image.Image:
        """The image, decoded once where all fit; loading processes keep none, since each would keep all."""
        if not self._keeps or get_worker_info() is not None:
            return open_image(path)
        if path not in self._kept:
            self._kept[path] = open_image(path)
        return self._kept[path]

    def _order(self, epoch: int) -> np.ndarray:
        if self._known[0] != epoch:  # the last one is kept: COCO's takes a while to draw
            if self.aspect_group == 1:
                order = _epoch_order(self.seed, epoch, len(self.images))
            else:
                order = _grouped_order(self.seed, epoch, self.aspect_group, self._aspects)
            self._known = epoch, order
        return self._known[1]
