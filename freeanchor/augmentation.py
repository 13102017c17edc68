"""The endless, seeded stream of training samples: order, flips and scales.

Everything is a function of (seed, position): which picture comes, whether it is flipped, how large it is. A run
resumed at step s therefore sees exactly what an uninterrupted one would, with no state to store.

    stream = TrainingStream(split, config.input, AugmentConfig(short_sides=(640, 672, 704)), seed=0)
    sample = stream[position]
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset

from freeanchor.data import DataError, InputConfig, Sample, Split, load_sample


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to training pictures: horizontal flips, and short sides drawn from a list (FACTS A3).

    No `short_sides` means the size of the `InputConfig`.
    """

    flip_probability: float = 0.5
    short_sides: tuple[int, ...] = ()


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_pictures: int) -> np.ndarray:
    """The order in which an epoch goes through the pictures."""
    return np.random.default_rng([seed, 0, epoch]).permutation(num_pictures)


class TrainingStream(Dataset[Sample]):
    """Training samples by position in the stream; position p of epoch p // N is picture order[p % N].

    DEVIATION(D22): batches are not grouped by aspect ratio.
    """

    def __init__(self, split: Split, inputs: InputConfig, augment: AugmentConfig, seed: int) -> None:
        """Pictures without an object take no part in training, as in the authors' code."""
        self.pictures = tuple(picture for picture in split.pictures if len(picture.boxes) > 0)
        if not self.pictures:
            raise DataError(f"{split.annotations}: no picture has an object to train on; add annotations")
        self.inputs, self.augment, self.seed = inputs, augment, seed

    def __getitem__(self, position: int) -> Sample:
        """The sample at `position`, read and changed as the seed has it."""
        epoch, place = divmod(position, len(self.pictures))
        picture = self.pictures[_epoch_order(self.seed, epoch, len(self.pictures))[place]]
        generator = np.random.default_rng([self.seed, 1, position])
        flip = bool(generator.random() < self.augment.flip_probability)
        sides = self.augment.short_sides
        short_side = sides[generator.integers(len(sides))] if sides else None
        return load_sample(picture, self.inputs, short_side=short_side, flip=flip)
