"""AP and AR under many weights of the images, as loops that numba compiles: what `curves` computes with numpy.

    interpolated_precisions(curve, by_image, num_objects)       # [T, R], equal up to rounding, several times as fast
    final_recalls(curve, by_image, num_objects)                 # likewise

The extra `fast` brings numba. Compiled code is kept on disk, so that only the first process waits for it.
Resamplings are taken a few at a time, whose arrays stay in the processor's cache.
"""

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
        factor, doubtful = level_factor(num_objects), doubtful_levels(num_objects)
        rows = curve.images, curve.landmarks, *curve.end_to_end
        _fill(*rows, by_image, num_objects, factor, doubtful, values)  # type: ignore[call-arg]  # untyped
    return values


def final_recalls(
    curve: ClassCurve, by_image: Int[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    """Final recall at each threshold; `num_objects` must be positive."""
    images = curve.images[curve.landmarks]
    found = [sums(by_image, images[right]) for right in curve.right]
    return np.stack(found) / num_objects


def narrowed(weights: Int[np.ndarray, "N R"]) -> Int[np.ndarray, "N R"]:
    """The weights as bytes where they fit: a row of them is one line of the cache then."""
    return weights.astype(np.uint8) if weights.min(initial=0) >= 0 and weights.max(initial=0) < 256 else weights


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def sums(by_image: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The weights [N, R] of some images, added up: [R]."""
    total = np.zeros(by_image.shape[1])
    for image in images:
        _add(total, by_image[image])
    return total


# Short inner loops, of one operation each, are what the compiler turns into vector instructions.


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _add(total: np.ndarray, weights: np.ndarray) -> None:
    for r in range(len(total)):
        total[r] += weights[r]


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
    """Write AP [T, R] to `values`."""
    longest = np.max(np.diff(right_starts))
    num_right = np.empty((longest, by_image.shape[1]))
    precision = np.empty_like(num_right)
    seen = _seen_up_to(landmarks, images, by_image)
    for t in range(len(values)):
        own = right[right_starts[t] : right_starts[t + 1]]
        skipped = ignored[ignored_starts[t] : ignored_starts[t + 1]]
        _count(own, skipped, images, landmarks, by_image, seen, num_right, precision)
        _add_up(num_right[: len(own)], precision, num_objects, factor, doubtful, values[t])


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _seen_up_to(landmarks: np.ndarray, images: np.ndarray, by_image: np.ndarray) -> np.ndarray:
    """The weight of all rows up to each landmark: [U, R]."""
    row, total = 0, np.zeros(by_image.shape[1])
    seen = np.empty((len(landmarks), len(total)))
    for u in range(len(landmarks)):
        while row <= landmarks[u]:
            _add(total, by_image[images[row]])
            row += 1
        seen[u] = total
    return seen


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _count(
    right: np.ndarray,
    ignored: np.ndarray,
    images: np.ndarray,
    landmarks: np.ndarray,
    by_image: np.ndarray,
    seen: np.ndarray,
    num_right: np.ndarray,
    precision: np.ndarray,
) -> None:
    """The weight of right rows up to each of them, and precision there, at one threshold."""
    width, place = by_image.shape[1], 0
    total, skipped = np.zeros(width), np.zeros(width)
    for i in range(len(right)):
        row = landmarks[right[i]]
        while place < len(ignored) and ignored[place] < row:
            _add(skipped, by_image[images[ignored[place]]])
            place += 1
        _add(total, by_image[images[row]])
        own_right, own_precision, own_seen = num_right[i], precision[i], seen[right[i]]
        for r in range(width):
            own_right[r] = total[r]
        for r in range(width):
            own_precision[r] = total[r] / (own_seen[r] - skipped[r] + EPSILON)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _add_up(
    num_right: np.ndarray,
    precision: np.ndarray,
    num_objects: np.ndarray,
    factor: np.ndarray,
    doubtful: np.ndarray,
    values: np.ndarray,
) -> None:
    """The best precision from each row on, times the levels of recall first reached there, over all levels."""
    width, count = num_right.shape[1], len(num_right)
    best, above, below = np.zeros((3, width))
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
                values[r] += (above[r] - below[r]) * best[r]
        above[:] = below
    values /= NUM_LEVELS


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def _levels_reached(recall: float) -> float:
    """`curves.levels_reached` of one number."""
    nearest = np.floor(recall * 100 + 0.5)
    return nearest + 1.0 if nearest * FIRST_LEVEL <= recall else nearest
