"""AP under many weights of the images, as loops that numba compiles: what `curves.interpolated_precisions` computes.

    interpolated_precisions(curve, by_image, num_objects)       # [T, R], equal up to rounding, several times as fast

The extra `fast` brings numba. Compiled code is kept on disk, so that only the first process waits for it.
Resamplings are taken a few at a time, whose arrays stay in the processor's cache.
"""

from collections.abc import Sequence

import numba
import numpy as np
from jaxtyping import Float, Int

from analysis.evaluation.curves import EPSILON, RECALL_LEVELS, ClassCurve, doubtful_levels, level_factor

LANES = 64  # resamplings at a time: their arrays stay in the processor's cache
NUM_LEVELS = len(RECALL_LEVELS)
FIRST_LEVEL = float(RECALL_LEVELS[1])


def interpolated_precisions(
    curve: ClassCurve, by_image: Int[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    """AP at each threshold (pycocotools' `accumulate`) under whole weights; `num_objects` must be positive."""
    values = np.zeros((len(curve.right), by_image.shape[1]))
    if len(curve.landmarks):
        rows = curve.images, curve.landmarks, *_end_to_end(curve.right), *_end_to_end(curve.ignored)
        factor, doubtful = level_factor(num_objects), doubtful_levels(num_objects)
        _fill(*rows, by_image, num_objects, factor, doubtful, values)
    return values


def narrowed(weights: Int[np.ndarray, "N R"]) -> Int[np.ndarray, "N R"]:
    """The weights as bytes where they fit: a row of them is one line of the cache then."""
    return weights.astype(np.uint8) if weights.min(initial=0) >= 0 and weights.max(initial=0) < 256 else weights


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def sums(by_image: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The weights [N, R] of some images, added up: [R]."""
    total = np.zeros(by_image.shape[1])
    for image in images:
        weights = by_image[image]
        for r in range(len(total)):
            total[r] += weights[r]
    return total


def _end_to_end(parts: Sequence[Int[np.ndarray, " _"]]) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " T+1"]]:
    """The parts one after the other, and where each begins."""
    return np.concatenate(parts), np.append(0, np.cumsum([len(part) for part in parts]))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _fill(
    images: np.ndarray,
    landmarks: np.ndarray,
    right: np.ndarray,
    right_starts: np.ndarray,
    ignored: np.ndarray,
    ignored_starts: np.ndarray,
    by_image: np.ndarray,
    num_objects: np.ndarray,
    factor: np.ndarray,
    doubtful: np.ndarray,
    values: np.ndarray,
) -> None:
    """Write AP [T, R] to `values`. Short inner loops, of one operation each, are what becomes vector instructions."""
    width = by_image.shape[1]
    longest = 0
    for t in range(len(values)):
        longest = max(longest, right_starts[t + 1] - right_starts[t])
    seen = np.empty((len(landmarks), width))
    num_right = np.empty((longest, width))
    precision = np.empty((longest, width))
    total, skipped, best, above, below = np.zeros((5, width))
    row = 0
    for u in range(len(landmarks)):
        while row <= landmarks[u]:
            weights = by_image[images[row]]
            for r in range(width):
                total[r] += weights[r]
            row += 1
        seen[u] = total
    for t in range(len(values)):
        begin, count = right_starts[t], right_starts[t + 1] - right_starts[t]
        skipping, skip_end = ignored_starts[t], ignored_starts[t + 1]
        total[:] = 0
        skipped[:] = 0
        for i in range(count):
            mark = right[begin + i]
            while skipping < skip_end and ignored[skipping] < landmarks[mark]:
                weights = by_image[images[ignored[skipping]]]
                for r in range(width):
                    skipped[r] += weights[r]
                skipping += 1
            weights = by_image[images[landmarks[mark]]]
            own_right, own_precision, own_seen = num_right[i], precision[i], seen[mark]
            for r in range(width):
                total[r] += weights[r]
            for r in range(width):
                own_right[r] = total[r]
            for r in range(width):
                own_precision[r] = total[r] / (own_seen[r] - skipped[r] + EPSILON)
        best[:] = 0
        own = values[t]
        for i in range(count, -1, -1):  # the row before the one whose precision counts, none at last
            if i > 0:
                own_right = num_right[i - 1]
                for r in range(width):
                    below[r] = np.floor(own_right[r] * factor[r]) + 1.0
                for r in doubtful:
                    below[r] = _levels_reached(own_right[r] / num_objects[r])
            else:
                below[:] = 0
            if i < count:
                own_precision = precision[i]
                for r in range(width):
                    best[r] = own_precision[r] if own_precision[r] > best[r] else best[r]
                for r in range(width):
                    own[r] += (above[r] - below[r]) * best[r]
            above[:] = below
        for r in range(width):
            own[r] /= NUM_LEVELS


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _levels_reached(recall: float) -> float:
    """`curves.levels_reached` of one number."""
    nearest = np.floor(recall * 100 + 0.5)
    return nearest + 1.0 if nearest * FIRST_LEVEL <= recall else nearest
