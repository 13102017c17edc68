"""The gallery: the same images under both detectors, objects that only one of them finds, and their match maps.

A detector *finds* an object where COCO's greedy matching at IoU 0.5 gives it a detection of its class whose score is at
least the detector's own: the score at which it has as many detections in the whole split as the split has objects (its
lowest, where it has fewer). So both detectors show equally many boxes, and calibration plays no part. Objects are
chosen by rules, never by eye. Where `store.images` is false, figures hold no images and frames no labelled boxes;
images whose own licence forbids derivatives are passed over everywhere.

    figure, frame = gallery("slender", profile, store)  # the most slender objects that one detector alone finds
    image_credits(Path("photos/val.json"), overall="Aquarium, CC BY 4.0")[776]      # "Attribution License, http…"
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from analysis.coco.columns import Detections, GroundTruth, box_areas
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.breakdowns import aspect_ratio, objects_per_image
from analysis.evaluation.matching import MatchTable, find_overlaps, match
from analysis.figures.gallery import Exhibit, ShownDetections, gallery_figure, message_figure, photographs_figure
from analysis.figures.lettering import shortened
from analysis.figures.style import DETECTORS, FREEANCHOR, RETINANET, write_figure
from experiments.registry.config import Evaluation, Training
from experiments.registry.profile import Profile
from experiments.reports.report import Report
from experiments.runs.store import Store, stored_frame
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import ImageRecord, Split, locate_split, read_split
from freeanchor.data.images import open_image, resized_size
from freeanchor.errors import printable
from freeanchor.files import read_json, write_csv
from freeanchor.inference.bags import bag_rows
from freeanchor.losses.free_anchor import FreeAnchorLoss

SLENDER, CROWDED, RANDOM = "slender", "crowded", "random"
N_EACH = 3  # objects shown that one detector alone finds, of either detector
NUM_IMAGES = 4  # drawn at random
SEED = 0  # of that draw
LEAST_SIZE = 12.0  # px in the network's input, the side of a square of the box's area; smaller, nobody can see it
DIGITS = 5  # decimals kept in the frames
ALONE = {FREEANCHOR: f"{FREEANCHOR} alone", RETINANET: f"{RETINANET} alone"}  # in the order of the rows
BOTH, NEITHER = "both", "neither"
OBJECT_COLUMNS = (
    "image_id", "annotation_id", "category", "x1", "y1", "x2", "y2", "size", "aspect", "num_objects", "found_by",
    "retinanet_score", "retinanet_iou", "freeanchor_score", "freeanchor_iou",
)  # fmt: skip
COLUMNS = (
    "gallery", "place", *OBJECT_COLUMNS, "retinanet_least_score", "freeanchor_least_score", "num_alike", "num_all",
    "credit",
)  # fmt: skip
NO_IMAGES = "The licence of this data set does not allow its images to be shown here."
CAPTION = (
    "A detector finds an object where COCO's greedy matching at IoU 0.5 gives it a detection of its class whose score "
    "is at least the detector's own: the score at which it has as many detections in the whole split as the split has "
    "objects. So both show about equally many boxes, and calibration plays no part. Seed 0. Images whose licence "
    "forbids derivatives are passed over."
)
_ALONE_CAPTION = (
    f"Up to {N_EACH} objects that FreeAnchor alone finds and as many that RetinaNet alone finds, one per image; left "
    f"out are boxes smaller than {LEAST_SIZE:g} x {LEAST_SIZE:g} px by area in the network's input, which nobody can "
    "see. Right: the object's bag of 50 anchors, opacity by share in Mean-max; above it, how many of them Mean-max "
    "really uses. "
)
_TITLES = {
    SLENDER: "The most slender objects that one detector alone finds",
    CROWDED: "Objects of the most crowded images that one detector alone finds",
    RANDOM: "Images drawn at random",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one detector makes of the split's G objects.

    `score` and `iou` are those of the detection that takes an object at IoU 0.5, nan where none does; `least_score` is
    the detector's own, infinite where it has no detections.
    """

    table: MatchTable
    boxes: Float[np.ndarray, "E 4"]  # of the table's detections
    least_score: float
    score: Float[np.ndarray, " G"]
    iou: Float[np.ndarray, " G"]

    @property
    def is_found(self) -> Bool[np.ndarray, " G"]:
        """Whether a detection of at least the detector's own score takes the object."""
        return self.score >= self.least_score  # nan is not


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A validation split under both detectors: their runs, what they find, its objects, the credits of its images."""

    ground_truth: GroundTruth
    split: Split
    runs: dict[str, Evaluation]
    found: dict[str, Found]
    objects: pd.DataFrame
    credits: dict[int, str]
    store: Store

    def image(self, image_id: int) -> ImageRecord:
        """The image of that id."""
        return next(image for image in self.split.images if image.image_id == image_id)

    def counts(self) -> str:
        """How many objects of the split each detector alone finds, and both do, in words."""
        counts = self.objects["found_by"].value_counts()
        freeanchor, retinanet, both = (int(counts.get(name, 0)) for name in (*ALONE.values(), BOTH))
        return (
            f"In the whole split, found by FreeAnchor alone: {freeanchor:,} of {len(self.objects):,}, "
            f"by RetinaNet alone: {retinanet:,}, by both: {both:,}."
        )


def _compare(profile: Profile, store: Store) -> _Compared | None:
    """The first compared pair of a profile; None where either has not been tested."""
    runs = {detector: profile.evaluations[name] for detector, name in zip(DETECTORS, profile.pair, strict=True)}
    if not all((run.directory(store.runs) / "predict.json").exists() for run in runs.values()):
        return None
    data = store.data(runs[RETINANET].training)
    ground_truth, split = read_ground_truth(locate_split(data, "val")[0]), read_split(data, "val")
    found = {}
    for detector, run in runs.items():
        detections = read_detections(run.directory(store.runs) / "detections.json", ground_truth)
        found[detector] = find_objects(ground_truth, detections)
    return _Compared(
        ground_truth=ground_truth,
        split=split,
        runs=runs,
        found=found,
        objects=_objects_frame(ground_truth, split, runs[RETINANET], found),
        credits=image_credits(split.annotations, store.credit),
        store=store,
    )


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
    return Found(table=table, boxes=detections.boxes[table.detection_row], least_score=least, score=score, iou=iou)


def own_score(scores: Float[np.ndarray, " E"], num_objects: int) -> float:
    """The score that `num_objects` detections reach (more, where several have it); the lowest where there are fewer.

    Infinite where there are no detections, or no objects.
    """
    falling = np.sort(scores)[::-1][:num_objects]
    return float(falling[-1]) if len(falling) else float("inf")


def _objects_frame(ground_truth: GroundTruth, split: Split, run: Evaluation, found: dict[str, Found]) -> pd.DataFrame:
    """One row per object of the split, crowd regions left out: `OBJECT_COLUMNS`.

    `size` is the square root of the box's area in the network's input, `aspect` max(w / h, h / w), `num_objects` those
    of its image, `found_by` the detector that alone finds it ("FreeAnchor alone"), "both" or "neither".
    """
    inputs = run.training.inputs if isinstance(run.training, Training) else run.training
    limits = inputs.short_side, inputs.max_long_side
    scales = {it.image_id: resized_size(it.width, it.height, *limits)[0] / it.width for it in split.images}
    scale = np.array([scales[image_id] for image_id in ground_truth.image_id.tolist()])
    columns = {
        "image_id": ground_truth.image_id,
        "annotation_id": ground_truth.annotation_id,
        "category": np.array(ground_truth.category_names, dtype=object)[ground_truth.category_index],
        **dict(zip(("x1", "y1", "x2", "y2"), ground_truth.boxes.T, strict=True)),
        "size": np.sqrt(box_areas(ground_truth.sizes)) * scale,
        "aspect": aspect_ratio(ground_truth.sizes),
        "num_objects": objects_per_image(ground_truth)[ground_truth.image_index],
        "found_by": _finders(found),
    }
    for detector, own in found.items():
        columns |= {f"{detector.lower()}_score": own.score, f"{detector.lower()}_iou": own.iou}
    frame = pd.DataFrame(columns)[list(OBJECT_COLUMNS)]
    return frame[~ground_truth.iscrowd].reset_index(drop=True)


def _finders(found: dict[str, Found]) -> np.ndarray:
    """Who finds each object, in words."""
    retinanet, freeanchor = (found[detector].is_found for detector in DETECTORS)
    cases = [retinanet & freeanchor, retinanet, freeanchor]
    return np.select(cases, [BOTH, ALONE[RETINANET], ALONE[FREEANCHOR]], default=NEITHER).astype(object)


def choose_alone(objects: pd.DataFrame, order: str, shown: Collection[int], count: int = N_EACH) -> pd.DataFrame:
    """Of the objects that one detector alone finds, the `count` with the greatest `order`, for either detector.

    FreeAnchor's first; ties go to the lower annotation id; one object per image and detector. Left out are objects
    below `LEAST_SIZE` and images that are not in `shown`. Fewer where there are no more.
    """
    visible = objects[(objects["size"] >= LEAST_SIZE) & objects["image_id"].isin(list(shown))]
    ordered = visible.sort_values([order, "annotation_id"], ascending=[False, True])
    chosen = [ordered[ordered["found_by"] == alone].drop_duplicates("image_id").head(count) for alone in ALONE.values()]
    return pd.concat(chosen, ignore_index=True)


def draw_images(objects: pd.DataFrame, shown: Collection[int], count: int = NUM_IMAGES) -> pd.DataFrame:
    """All objects of `count` images in `shown`, drawn at random from those with an object, in the order of the draw."""
    images = np.unique(objects.loc[objects["image_id"].isin(list(shown)), "image_id"])
    drawn = np.random.default_rng(SEED).permutation(images)[:count].tolist()
    chosen = [objects[objects["image_id"] == image_id] for image_id in drawn]
    return pd.concat([objects.iloc[:0], *chosen], ignore_index=True)


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


def _chosen(compared: _Compared, name: str) -> pd.DataFrame:
    """The objects of one gallery, one row per object shown: `COLUMNS`.

    `place` says where it is shown; `num_alike` of the split's `num_all` objects are found by the same. Score and IoU
    are those of the detection that takes the object, whether or not it reaches the detector's `…_least_score`.
    """
    if name == RANDOM:
        frame = draw_images(compared.objects, compared.credits)
        place = pd.factorize(frame["image_id"])[0] + 1
    else:
        order = {SLENDER: "aspect", CROWDED: "num_objects"}[name]
        frame = choose_alone(compared.objects, order, compared.credits)
        place = np.arange(len(frame)) + 1
    frame = frame.assign(
        gallery=name,
        place=place,
        retinanet_least_score=compared.found[RETINANET].least_score,
        freeanchor_least_score=compared.found[FREEANCHOR].least_score,
        num_alike=frame["found_by"].map(compared.objects["found_by"].value_counts()),
        num_all=len(compared.objects),
        credit=frame["image_id"].map(compared.credits),
    )
    return frame[list(COLUMNS)].round(DIGITS)


def gallery_stage(profile: Profile, store: Store) -> None:
    """Ask both models about the bags that the galleries show, where their images may be shown; once."""
    compared = _compare(profile, store) if store.images else None
    if compared is not None:
        for name in (SLENDER, CROWDED):
            frame = _chosen(compared, name)
            for detector in DETECTORS if len(frame) else ():
                _bags(compared, detector, name, frame)


def gallery(name: str, profile: Profile, store: Store) -> tuple[Figure, pd.DataFrame]:
    """One gallery's figure, and the rows of the objects in it."""
    compared = _compare(profile, store)
    if compared is None:
        return message_figure("not run"), pd.DataFrame(columns=list(COLUMNS))
    frame = _chosen(compared, name)
    title = _TITLES[name], compared.counts()
    if not store.images:
        boxes = dict.fromkeys(("x1", "y1", "x2", "y2"), math.nan)  # labels belong to whom the images do
        return message_figure(NO_IMAGES, *title), frame.assign(**boxes)
    if frame.empty:
        return message_figure("There is no such object in an image that may be shown.", *title), frame
    if name == RANDOM:
        drawn = [_drawn_exhibit(compared, rows) for _, rows in frame.groupby("place")]
        return photographs_figure(drawn, *title), frame
    bags = {detector: _bags(compared, detector, name, frame) for detector in DETECTORS}
    return gallery_figure([_object_exhibit(compared, row, bags) for row in frame.to_dict("records")], *title), frame


def _object_exhibit(compared: _Compared, row: dict[Any, Any], bags: dict[str, dict[int, pd.DataFrame]]) -> Exhibit:
    """An object that one detector alone finds."""
    return Exhibit(
        image=np.array(open_image(compared.image(row["image_id"]).path)),
        title=f"{shortened(row['category'])}, {row['aspect']:.1f}:1, {_count(row['num_objects'])} in the image",
        subtitle=_finding(row),
        credit=row["credit"],
        shown={detector: _shown(compared, detector, row["image_id"]) for detector in DETECTORS},
        gt_box=np.array([row[corner] for corner in ("x1", "y1", "x2", "y2")]),
        bags={detector: own[row["annotation_id"]] for detector, own in bags.items() if row["annotation_id"] in own},
    )


def _drawn_exhibit(compared: _Compared, rows: pd.DataFrame) -> Exhibit:
    """An image drawn at random, with all its objects."""
    image_id, counts = int(rows["image_id"].iloc[0]), rows["found_by"].value_counts()
    retinanet, freeanchor = (int(counts.get(ALONE[name], 0) + counts.get(BOTH, 0)) for name in DETECTORS)
    names = rows["category"].value_counts()
    commonest = ", ".join(f"{count} {shortened(str(name))}" for name, count in names.head(3).items())
    return Exhibit(
        image=np.array(open_image(compared.image(image_id).path)),
        title=f"{_count(len(rows))}: {commonest}{' …' if len(names) > 3 else ''}",
        subtitle=f"RetinaNet finds {retinanet}, FreeAnchor {freeanchor}",
        credit=rows["credit"].iloc[0],
        shown={detector: _shown(compared, detector, image_id, with_missed=True) for detector in DETECTORS},
    )


def _count(number: int) -> str:
    return f"{number} object{'' if number == 1 else 's'}"


def _finding(row: dict[Any, Any]) -> str:
    """Who finds an object with which score and IoU, and what the other has there."""
    finder = next(name for name, alone in ALONE.items() if alone == row["found_by"])
    (other,) = set(DETECTORS) - {finder}
    score, iou = row[f"{finder.lower()}_score"], row[f"{finder.lower()}_iou"]
    others = row[f"{other.lower()}_score"]
    there = (
        f"{other}: no box of the class takes it at IoU 0.5"
        if np.isnan(others)
        else f"{other}: score {others:.3f}, below its {row[f'{other.lower()}_least_score']:.3f}"
    )
    return f"Found by {finder} alone, score {score:.3f}, IoU {iou:.2f}. {there}."


def _shown(compared: _Compared, detector: str, image_id: int, *, with_missed: bool = False) -> ShownDetections:
    """The boxes that a detector shows in an image, at its own score."""
    ground_truth, found = compared.ground_truth, compared.found[detector]
    table = found.table
    own = (table.score >= found.least_score) & (table.image_ids[table.image_index] == image_id)
    missed = (ground_truth.image_id == image_id) & ~ground_truth.iscrowd & ~found.is_found & with_missed
    return ShownDetections(
        boxes=found.boxes[own],
        is_correct=((table.matched[0] >= 0) & ~table.ignored[0])[own],
        missed=ground_truth.boxes[missed],
    )


def _bags(compared: _Compared, detector: str, name: str, frame: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The bag of each object of a frame under one detector, by annotation id; none where its model was not kept.

    The model is asked once about the objects of a gallery; the answer lies beside its detections.
    """
    run, store = compared.runs[detector], compared.store
    path = run.directory(store.runs) / f"gallery_{name}.csv"
    known = stored_frame(path, ["annotation_id"])["annotation_id"] if path.exists() else ()
    is_known = path.exists() and set(frame["annotation_id"]) <= set(known)
    if not is_known and store.network(run.training).exists():
        write_csv(path, _asked(compared, run, frame))
    if not path.exists():
        return {}
    unknown = dict.fromkeys(("step", "num_steps", "part_x", "part_y"), np.nan)
    rows = stored_frame(path).assign(run=run.name, detector=detector, **unknown)
    return {number: rows[rows["annotation_id"] == number] for number in rows["annotation_id"].unique().tolist()}


def _asked(compared: _Compared, run: Evaluation, frame: pd.DataFrame) -> pd.DataFrame:
    """What a trained run says about the bags of a frame's objects: one row per anchor."""
    model, config = load_model(compared.store.weights(run.training))
    frames = []
    for image_id in frame["image_id"].unique().tolist():
        rows = pd.DataFrame(bag_rows(model, config, compared.image(image_id), FreeAnchorLoss()))
        frames.append(rows[rows["annotation_id"].isin(frame["annotation_id"])])
    return pd.concat(frames, ignore_index=True)


def _gallery_report(name: str, title: str, caption: str) -> Report:
    def build(profile: Profile, store: Store, stem: Path) -> None:
        write_figure(*gallery(name, profile, store), stem)

    return Report(
        name=f"gallery_{name}", title=f"Gallery: {title}", caption=f"{caption}{CAPTION}", kinds=("figure",), build=build
    )


REPORTS = (
    _gallery_report(
        SLENDER,
        "slender objects that one detector alone finds",
        f"The most slender first, by max(w/h, h/w) of the box. {_ALONE_CAPTION}",
    ),
    _gallery_report(
        CROWDED,
        "objects in crowds that one detector alone finds",
        f"Those of the images with most objects first, ties by annotation id. {_ALONE_CAPTION}",
    ),
    _gallery_report(
        RANDOM,
        "images drawn at random",
        f"{NUM_IMAGES} images drawn with a fixed seed from all with an object, nothing chosen. ",
    ),
)
