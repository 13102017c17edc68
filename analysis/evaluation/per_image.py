"""What happens in each image, and which classes are taken for which: tables to find the images to look at.

images_frame(context)           # AP50 and errors by type of every image, the worst first
confusion_frame(context, 0.3)   # true class, predicted class, number; background on either side
"""

from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.evaluation.curves import RECALL_LEVELS, levels_reached
from analysis.evaluation.errors import CLASSIFICATION, MAIN, RIGHT, TypedErrors, best_of_each
from analysis.evaluation.parts import Context
from analysis.evaluation.working_point import best_threshold

BACKGROUND = "background"


def images_frame(context: Context) -> pd.DataFrame:
    """image_id, ap_50, num_objects, num_right, then the errors of each type; the worst AP50 and most errors first.

    AP50 of an image is the mean over the classes that it has objects of, nan where it has none.
    """
    typed = context.typed
    num_images = len(context.ground_truth.image_ids)
    counts = pd.DataFrame(typed.num_by_image[:, : len(MAIN)], columns=list(MAIN))
    is_object, is_right = typed.counts, typed.kind == RIGHT
    frame = pd.DataFrame(
        {
            "image_id": context.ground_truth.image_ids,
            "ap_50": image_precision(typed),
            "num_objects": np.bincount(context.ground_truth.image_index[is_object], minlength=num_images),
            "num_right": np.bincount(typed.ranking.image_index[is_right], minlength=num_images),
        }
    ).join(counts)
    order = np.lexsort((frame["image_id"], -counts.sum(axis=1), frame["ap_50"].fillna(2.0)))
    return frame.iloc[order].reset_index(drop=True)


def images_compared(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Two detectors' `images_frame` side by side: image_id, num_objects, ap_50_first, ap_50_second, difference, errors.

    Columns such as `missed_first` and `missed_second` count errors. Where the second is worst beside the first, first.
    """
    both = first.merge(second.drop(columns="num_objects"), on="image_id", suffixes=("_first", "_second"))
    names = [f"{name}_{side}" for name in ("ap_50", "num_right", *MAIN) for side in ("first", "second")]
    both.insert(2, "difference", both["ap_50_second"] - both["ap_50_first"])
    sums = [both[[f"{name}_{side}" for name in MAIN]].to_numpy().sum(axis=1) for side in ("first", "second")]
    order = np.lexsort((both["image_id"], sums[0] - sums[1], both["difference"].fillna(0.0)))
    return both.iloc[order][["image_id", "num_objects", "difference", *names]].reset_index(drop=True)


def image_precision(typed: TypedErrors) -> Float[np.ndarray, " N"]:
    """AP50 of every image by itself: all pairs of image and class at once, each a curve of its own."""
    truth, ranking = typed.ground_truth, typed.ranking
    num_classes = len(truth.category_ids)
    own = typed.counts
    groups, num_objects = np.unique(
        truth.image_index[own] * num_classes + truth.category_index[own], return_counts=True
    )
    rows = np.flatnonzero(~typed.ignored & np.isin(ranking.image_index * num_classes + ranking.category_index, groups))
    group = np.searchsorted(groups, ranking.image_index[rows] * num_classes + ranking.category_index[rows])
    order = np.lexsort((ranking.detection_row[rows], -ranking.score[rows], group))
    group, is_right = group[order], typed.kind[rows[order]] == RIGHT
    values = np.bincount(group, _shares(group, is_right, num_objects), minlength=len(groups))
    image = groups // num_classes
    num_groups = np.bincount(image, minlength=len(truth.image_ids))
    total = np.bincount(image, values, minlength=len(truth.image_ids))
    return np.divide(total, num_groups, out=np.full(len(total), np.nan), where=num_groups > 0)


def _shares(group: np.ndarray, is_right: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    """What each ranked row adds to the AP of its group: its best precision from there on, times the levels reached."""
    if not len(group):
        return np.empty(0)
    start = np.searchsorted(group, group)
    right = np.cumsum(is_right)
    right -= np.where(start > 0, right[start - 1], 0)
    precision = right / (np.arange(len(group)) - start + 1 + np.spacing(1))
    apart = 2.0 * (group[-1] - group)  # so that a group's maximum is not a later one's
    best = np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart
    levels = np.where(right > 0, levels_reached(right / num_objects[group]), 0.0)  # recall 0 is reached by a right one
    before = np.where(np.arange(len(group)) > start, np.append(0.0, levels[:-1]), 0.0)
    return np.where(is_right, best * (levels - before), 0.0) / len(RECALL_LEVELS)


def confusion_frame(context: Context, threshold: float | Literal["f1"]) -> pd.DataFrame:
    """true, predicted, num: one row per pair that occurs, of detections that score `threshold` or more, at IoU 0.5.

    "f1" takes the threshold that is best for F1 over all classes.

    An object that nothing of its class takes is confused with the class of the best-scoring detection that is wrong by
    class alone, and with background where there is none; what is left of the wrong detections is background taken for
    their class. Every object stands in one row, and so does every detection that is not ignored.
    """
    truth = context.ground_truth
    typed = context.above(best_threshold(context) if threshold == "f1" else threshold).typed
    no_object = BACKGROUND if BACKGROUND not in truth.category_names else f"({BACKGROUND})"  # a class of that name
    names = np.array([*truth.category_names, no_object], dtype=object)
    nothing = len(names) - 1
    found = np.flatnonzero(~typed.ignored)
    kind = typed.kind[found]
    at_free_object = (typed.kind == CLASSIFICATION) & ~np.append(typed.is_found, True)[typed.target]
    is_confused = best_of_each(
        typed.ranking, typed.target, at_free_object & np.append(typed.counts, False)[typed.target]
    )[found]
    target = np.where(kind == RIGHT, typed.taken[found], np.where(is_confused, typed.target[found], -1))
    is_met = np.zeros(len(truth.boxes) + 1, dtype=bool)
    is_met[target] = True
    unmet = np.flatnonzero(typed.counts & ~is_met[:-1])
    true_class = np.append(truth.category_index, nothing)[np.append(target, unmet)]
    predicted = np.append(typed.ranking.category_index[found], np.full(len(unmet), nothing))
    pairs, counts = np.unique(np.stack([true_class, predicted]), axis=1, return_counts=True)
    return pd.DataFrame({"true": names[pairs[0]], "predicted": names[pairs[1]], "num": counts})


def confusions_compared(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Two detectors' `confusion_frame` side by side: true, predicted, first, second, difference."""
    on = ["true", "predicted"]
    both = first.rename(columns={"num": "first"}).merge(second.rename(columns={"num": "second"}), on=on, how="outer")
    both = both.fillna({"first": 0, "second": 0}).astype({"first": int, "second": int})
    return both.assign(difference=both["second"] - both["first"])
