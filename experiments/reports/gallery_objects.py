"""Which objects the gallery shows: those that only one of two detectors finds, by rules and not by eye.

A detector *finds* an object where COCO's greedy matching at IoU 0.5 gives it a detection of its class whose score is at
least the detector's own: the score at which it has as many detections in the whole split as the split has objects (its
lowest, where it has fewer). So both detectors show equally many boxes, and calibration plays no part.

    compared = compare_found(profile, store)                        # None where either was not run
    objects = objects_frame(compared)                               # a row an object of the split
    slender = choose_alone(objects, "aspect", shown=set(credits))   # the most slender that one detector alone finds
    lot = draw_images(objects, shown=set(credits))                # images drawn by lot

Whose image is it: the licence and source of each image of a data set, as a line to stand below it.

What it is: the fields `license`, `flickr_url` and `coco_url` of a COCO json, looked up in its `licenses`. What it is
not: leave to show a data set's images at all, which its user gives.

    credits = image_credits(Path("photos/val.json"), overall="Aquarium, Roboflow, CC BY 4.0")
    credits[776]        # "Attribution License, http://farm2…"; no entry: must not be shown
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.breakdowns import aspect_ratio, objects_per_image
from analysis.evaluation.matching import MatchTable, find_overlaps, match
from analysis.figures.style import DETECTORS, FREEANCHOR, RETINANET
from experiments.registry.config import Evaluation, Training
from experiments.registry.profile import Profile
from experiments.runs.store import Store
from freeanchor.data.coco import ImageRecord, Split, locate_split, read_split
from freeanchor.data.images import resized_size
from freeanchor.errors import printable
from freeanchor.files import read_json

N_EACH = 3  # objects shown that one detector alone finds, of either detector
NUM_IMAGES = 4  # drawn by lot
SEED = 0  # of the lot
LEAST_SIZE = 12.0  # px in the network's input, the side of a square of the box's area; smaller, nobody can see it
ALONE = {FREEANCHOR: f"{FREEANCHOR} alone", RETINANET: f"{RETINANET} alone"}  # in the order of the rows
BOTH, NEITHER = "both", "neither"
OBJECT_COLUMNS = (
    "image_id", "annotation_id", "category", "x1", "y1", "x2", "y2", "size", "aspect", "num_objects", "found_by",
    "retinanet_score", "retinanet_iou", "freeanchor_score", "freeanchor_iou",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one detector makes of the split's G objects.

    `score` and `iou` are those of the detection that takes an object at IoU 0.5, nan where none does; `least_score` is
    the detector's own, infinite where it has no detections.
    """

    table: MatchTable
    least_score: float
    score: Float[np.ndarray, " G"]
    iou: Float[np.ndarray, " G"]

    @property
    def is_found(self) -> Bool[np.ndarray, " G"]:
        """Whether a detection of at least the detector's own score takes the object."""
        return self.score >= self.least_score  # nan is not


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A validation split and what each detector finds in it, with the run of each."""

    ground_truth: GroundTruth
    split: Split
    runs: dict[str, Evaluation]
    found: dict[str, Found]


def compare_found(profile: Profile, store: Store) -> Compared | None:
    """The first compared pair of a profile; None where either has not been tested."""
    runs = {detector: profile.evaluations[name] for detector, name in zip(DETECTORS, profile.pair, strict=True)}
    if not all((run.directory(store.runs) / "predict.json").exists() for run in runs.values()):
        return None
    data = store.data(runs[RETINANET].training)
    ground_truth = read_ground_truth(locate_split(data, "val")[0])
    found = {}
    for detector, run in runs.items():
        detections = read_detections(run.directory(store.runs) / "detections.json", ground_truth)
        found[detector] = find_objects(ground_truth, detections)
    return Compared(ground_truth=ground_truth, split=read_split(data, "val"), runs=runs, found=found)


def find_objects(ground_truth: GroundTruth, detections: Detections) -> Found:
    """What a detector finds, by the rule above; of crowd regions nothing is said (nan)."""
    overlaps = find_overlaps(ground_truth, detections)
    table = match(overlaps)
    score, iou = np.full((2, len(ground_truth.boxes)), np.nan)
    is_taken = table.matched[0][overlaps.pair_detection] == overlaps.pair_object
    is_taken &= ~ground_truth.iscrowd[overlaps.pair_object]
    taken = overlaps.pair_object[is_taken]
    score[taken] = overlaps.score[overlaps.pair_detection[is_taken]]
    iou[taken] = overlaps.pair_iou[is_taken]
    least = own_score(overlaps.score, int((~ground_truth.iscrowd).sum()))
    return Found(table=table, least_score=least, score=score, iou=iou)


def own_score(scores: Float[np.ndarray, " E"], num_objects: int) -> float:
    """The score that `num_objects` detections reach (more, where several have it); the lowest where there are fewer.

    Infinite where there are no detections, or no objects.
    """
    falling = np.sort(scores)[::-1][:num_objects]
    return float(falling[-1]) if len(falling) else float("inf")


def objects_frame(compared: Compared) -> pd.DataFrame:
    """A row an object of the split, crowd regions left out: `OBJECT_COLUMNS`.

    `size` is the square root of the box's area in the network's input, `aspect` max(w / h, h / w), `num_objects` those
    of its image, `found_by` the detector that alone finds it ("FreeAnchor alone"), "both" or "neither".
    """
    ground_truth = compared.ground_truth
    training = compared.runs[RETINANET].training
    limits = (
        (training.inputs.short_side, training.inputs.max_long_side)
        if isinstance(training, Training)
        else (training.short_side, training.max_long_side)
    )
    scales = {image.image_id: _scale(image, *limits) for image in compared.split.images}
    scale = np.array([scales[image_id] for image_id in ground_truth.image_id.tolist()])
    columns = {
        "image_id": ground_truth.image_id,
        "annotation_id": ground_truth.annotation_id,
        "category": np.array(ground_truth.category_names, dtype=object)[ground_truth.category_index],
        **dict(zip(("x1", "y1", "x2", "y2"), ground_truth.boxes.T, strict=True)),
        "size": np.sqrt(ground_truth.sizes.prod(axis=1)) * scale,
        "aspect": aspect_ratio(ground_truth.sizes),
        "num_objects": objects_per_image(ground_truth)[ground_truth.image_index],
        "found_by": _finders(compared.found),
    }
    for detector, found in compared.found.items():
        columns |= {f"{detector.lower()}_score": found.score, f"{detector.lower()}_iou": found.iou}
    frame = pd.DataFrame(columns)[list(OBJECT_COLUMNS)]
    return frame[~ground_truth.iscrowd].reset_index(drop=True)


def choose_alone(objects: pd.DataFrame, order: str, shown: Collection[int], count: int = N_EACH) -> pd.DataFrame:
    """Of the objects that one detector alone finds, the `count` with the greatest `order`, for either detector.

    FreeAnchor's first; ties go to the lower annotation id; one object an image and detector. Left out are objects
    below `LEAST_SIZE` and images that are not in `shown`. Fewer where there are no more.
    """
    visible = objects[(objects["size"] >= LEAST_SIZE) & objects["image_id"].isin(list(shown))]
    ordered = visible.sort_values([order, "annotation_id"], ascending=[False, True])
    chosen = [ordered[ordered["found_by"] == alone].drop_duplicates("image_id").head(count) for alone in ALONE.values()]
    return pd.concat(chosen, ignore_index=True)


def draw_images(objects: pd.DataFrame, shown: Collection[int], count: int = NUM_IMAGES) -> pd.DataFrame:
    """All objects of `count` images in `shown`, drawn by lot from those with an object, in the order of the draw."""
    images = np.unique(objects.loc[objects["image_id"].isin(list(shown)), "image_id"])
    drawn = np.random.default_rng(SEED).permutation(images)[:count].tolist()
    chosen = [objects[objects["image_id"] == image_id] for image_id in drawn]
    return pd.concat([objects.iloc[:0], *chosen], ignore_index=True)


def _scale(image: ImageRecord, short_side: int, max_long_side: int) -> float:
    """From the file's pixels to the network's input."""
    return resized_size(image.width, image.height, short_side, max_long_side)[0] / image.width


def _finders(found: dict[str, Found]) -> np.ndarray:
    """Who finds each object, in words."""
    retinanet, freeanchor = (found[detector].is_found for detector in DETECTORS)
    cases = [retinanet & freeanchor, retinanet, freeanchor]
    return np.select(cases, [BOTH, ALONE[RETINANET], ALONE[FREEANCHOR]], default=NEITHER).astype(object)


# Boxes drawn on an image make a derivative of it. "Attribution-NoDerivs License", "CC BY-ND 2.0", ".../by-nd/2.0/"
_NO_DERIVATIVES = re.compile(r"no[- ]?deriv|\bnd\b|bynd|all rights reserved", re.IGNORECASE)


def image_credits(annotations: Path, overall: str) -> dict[int, str]:
    """The credit line of every image that may be shown, by image id.

    "<licence name>, <flickr_url or coco_url>" where the image has a licence of its own that the json lists,
    `overall` (the whole data set's) where not. Images whose licence, by its name or address, forbids derivatives
    have no entry.
    """
    content = read_json(annotations)
    licences = content.get("licenses")
    # ids as text: an image that says "3" where the list says 3 means that licence all the same
    known = {str(item["id"]): item for item in licences or [] if isinstance(item, dict) and "id" in item}
    credits = {
        image["id"]: _credit(image, known.get(str(image.get("license"))), overall) for image in content["images"]
    }
    return {image_id: credit for image_id, credit in credits.items() if credit is not None}


def _credit(image: dict[str, Any], licence: dict[str, Any] | None, overall: str) -> str | None:
    """One image's line; None where it must not be shown."""
    if licence is None:
        return overall
    name, address = str(licence.get("name", "")), str(licence.get("url", ""))
    if _NO_DERIVATIVES.search(f"{name} {address}".replace("_", " ")):
        return None
    source = image.get("flickr_url") or image.get("coco_url")
    return printable(", ".join(str(part) for part in (name or address, source) if part))
