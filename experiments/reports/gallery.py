"""The gallery: the same images under both detectors, objects that only one of them finds, and their match maps.

What it is: three figures of the first compared pair of runs, with the frames behind them. What it is not: the rules by
which objects are chosen (`experiments.gallery_objects`), credits (`image_credits`) or drawing
(`analysis.gallery_figures`).

    figure, frame = gallery_slender(profile, store)     # the most slender objects that one detector alone finds
    figure, frame = gallery_crowded(profile, store)     # those of the most crowded images
    figure, frame = gallery_random(profile, store)      # images drawn by lot
    frame = gallery_frame(profile, store)               # the rows of all three

A detector finds an object where COCO's greedy matching at IoU 0.5 gives it a detection of its class with at least the
detector's own score, at which it has as many detections in the whole split as the split has objects. Nothing is picked
by eye; `CAPTION` says the rules on the page. Where `store.images` is false the figures hold no images, and the
frames hold no labelled boxes; images whose own licence forbids derivatives are passed over everywhere.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.gallery import Exhibit, ShownDetections, gallery_figure, message_figure, photographs_figure
from analysis.figures.style import DETECTORS, FREEANCHOR, RETINANET
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.reports.gallery_objects import (
    ALONE,
    BOTH,
    LEAST_SIZE,
    N_EACH,
    NUM_IMAGES,
    OBJECT_COLUMNS,
    Compared,
    choose_alone,
    compare_found,
    draw_images,
    image_credits,
    objects_frame,
)
from experiments.runs.store import Store
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import ImageRecord
from freeanchor.data.images import open_image
from freeanchor.files import write_csv
from freeanchor.inference.bags import bag_rows
from freeanchor.losses.free_anchor import FreeAnchorLoss

SLENDER, CROWDED, RANDOM = GALLERIES = ("slender", "crowded", "random")
COLUMNS = (
    "gallery", "place", *OBJECT_COLUMNS, "retinanet_least_score", "freeanchor_least_score", "num_alike", "num_all",
    "credit",
)  # fmt: skip
DIGITS = 5  # decimals kept in the frames
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
FIGURE_TEXTS = {
    "gallery_slender": (
        "Gallery: slender objects that one detector alone finds",
        f"The most slender first, by max(w/h, h/w) of the box. {_ALONE_CAPTION}{CAPTION}",
    ),
    "gallery_crowded": (
        "Gallery: objects in crowds that one detector alone finds",
        f"Those of the images with most objects first, ties by annotation id. {_ALONE_CAPTION}{CAPTION}",
    ),
    "gallery_random": (
        "Gallery: images drawn by lot",
        f"{NUM_IMAGES} images drawn with a fixed seed from all with an object, nothing chosen. {CAPTION}",
    ),
}
_TITLES = {
    SLENDER: "The most slender objects that one detector alone finds",
    CROWDED: "Objects of the most crowded images that one detector alone finds",
    RANDOM: "Images drawn by lot",
}


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """All that the figures draw on: the split under both detectors, its objects, and the credits of its images."""

    compared: Compared
    objects: pd.DataFrame
    credits: dict[int, str]
    store: Store

    def image(self, image_id: int) -> ImageRecord:
        """The image of that id."""
        return next(image for image in self.compared.split.images if image.image_id == image_id)

    def counts(self) -> str:
        """How many objects of the split each detector alone finds, and both do, in words."""
        counts = self.objects["found_by"].value_counts()
        freeanchor, retinanet, both = (int(counts.get(name, 0)) for name in (*ALONE.values(), BOTH))
        return (
            f"In the whole split, found by FreeAnchor alone: {freeanchor:,} of {len(self.objects):,}, "
            f"by RetinaNet alone: {retinanet:,}, by both: {both:,}."
        )


def gallery_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """The objects of all three galleries, a row an object shown: `COLUMNS`; empty where either run is not there.

    `gallery` and `place` say where it is shown; `found_by` is "FreeAnchor alone", "RetinaNet alone", "both" or
    "neither", and `num_alike` of the split's `num_all` objects are found so. Score and IoU are those of the detection
    that takes the object, whether or not it reaches the detector's `…_least_score`; nan where none does.
    """
    seen = _look(profile, store)
    frames = [_chosen(seen, gallery) for gallery in GALLERIES] if seen else []
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def gallery_slender(profile: Profile, store: Store) -> tuple[Figure, pd.DataFrame]:
    """The most slender objects that one detector alone finds, with their match maps, and their rows."""
    return _build(SLENDER, profile, store)


def gallery_crowded(profile: Profile, store: Store) -> tuple[Figure, pd.DataFrame]:
    """Objects of the most crowded images that one detector alone finds, with their match maps, and their rows."""
    return _build(CROWDED, profile, store)


def gallery_random(profile: Profile, store: Store) -> tuple[Figure, pd.DataFrame]:
    """A few images drawn by lot under both detectors, and the rows of all their objects."""
    return _build(RANDOM, profile, store)


def _look(profile: Profile, store: Store) -> _Seen | None:
    """Everything read; None where either run is not there."""
    compared = compare_found(profile, store)
    if compared is None:
        return None
    credits = image_credits(compared.split.annotations, store.credit)
    return _Seen(compared=compared, objects=objects_frame(compared), credits=credits, store=store)


def _chosen(seen: _Seen, gallery: str) -> pd.DataFrame:
    """The rows of one gallery."""
    if gallery == RANDOM:
        frame = draw_images(seen.objects, seen.credits)
        place = pd.factorize(frame["image_id"])[0] + 1
    else:
        order = {SLENDER: "aspect", CROWDED: "num_objects"}[gallery]
        frame = choose_alone(seen.objects, order, seen.credits)
        place = np.arange(len(frame)) + 1
    found = seen.compared.found
    frame = frame.assign(
        gallery=gallery,
        place=place,
        retinanet_least_score=found[RETINANET].least_score,
        freeanchor_least_score=found[FREEANCHOR].least_score,
        num_alike=frame["found_by"].map(seen.objects["found_by"].value_counts()),
        num_all=len(seen.objects),
        credit=frame["image_id"].map(seen.credits),
    )
    return frame[list(COLUMNS)].round(DIGITS)


def gallery_stage(profile: Profile, store: Store) -> None:
    """Ask both models about the bags that the galleries show, where their images may be shown; once."""
    seen = _look(profile, store) if store.images else None
    if seen is not None:
        for gallery in (SLENDER, CROWDED):
            frame = _chosen(seen, gallery)
            for detector in DETECTORS if len(frame) else ():
                _bags(seen, detector, gallery, frame)


def _build(gallery: str, profile: Profile, store: Store) -> tuple[Figure, pd.DataFrame]:
    """One gallery's figure and frame."""
    seen = _look(profile, store)
    if seen is None:
        return message_figure("not run"), pd.DataFrame(columns=list(COLUMNS))
    frame = _chosen(seen, gallery)
    title = _TITLES[gallery], seen.counts()
    if not store.images:
        boxes = dict.fromkeys(("x1", "y1", "x2", "y2"), math.nan)  # labels belong to whom the images do
        return message_figure(NO_IMAGES, *title), frame.assign(**boxes)
    if frame.empty:
        return message_figure("There is no such object in an image that may be shown.", *title), frame
    if gallery == RANDOM:
        drawn = [_drawn_exhibit(seen, rows) for _, rows in frame.groupby("place")]
        return photographs_figure(drawn, *title), frame
    bags = {detector: _bags(seen, detector, gallery, frame) for detector in DETECTORS}
    return gallery_figure([_object_exhibit(seen, row, bags) for row in frame.to_dict("records")], *title), frame


def _object_exhibit(seen: _Seen, row: dict[Any, Any], bags: dict[str, dict[int, pd.DataFrame]]) -> Exhibit:
    """An object that one detector alone finds."""
    return Exhibit(
        image=np.array(open_image(seen.image(row["image_id"]).path)),
        title=f"{row['category']}, {row['aspect']:.1f}:1, {_count(row['num_objects'])} in the image",
        subtitle=_finding(row),
        credit=row["credit"],
        shown={detector: _shown(seen.compared, detector, row["image_id"]) for detector in DETECTORS},
        gt_box=np.array([row[corner] for corner in ("x1", "y1", "x2", "y2")]),
        bags={detector: own[row["annotation_id"]] for detector, own in bags.items() if row["annotation_id"] in own},
    )


def _drawn_exhibit(seen: _Seen, rows: pd.DataFrame) -> Exhibit:
    """An image drawn by lot, with all its objects."""
    image_id, counts = int(rows["image_id"].iloc[0]), rows["found_by"].value_counts()
    retinanet, freeanchor = (int(counts.get(ALONE[name], 0) + counts.get(BOTH, 0)) for name in DETECTORS)
    names = rows["category"].value_counts()
    return Exhibit(
        image=np.array(open_image(seen.image(image_id).path)),
        title=f"{_count(len(rows))}: {', '.join(f'{count} {name}' for name, count in names.head(3).items())}"
        + (" …" if len(names) > 3 else ""),
        subtitle=f"RetinaNet finds {retinanet}, FreeAnchor {freeanchor}",
        credit=rows["credit"].iloc[0],
        shown={detector: _shown(seen.compared, detector, image_id, with_missed=True) for detector in DETECTORS},
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


def _shown(compared: Compared, detector: str, image_id: int, *, with_missed: bool = False) -> ShownDetections:
    """The boxes that a detector shows in an image, at its own score."""
    ground_truth, found = compared.ground_truth, compared.found[detector]
    table = found.table
    own = table.score >= found.least_score
    own &= table.image_ids[table.image_index] == image_id
    missed = (ground_truth.image_id == image_id) & ~ground_truth.iscrowd & ~found.is_found & with_missed
    return ShownDetections(
        boxes=table.box[own],
        is_correct=((table.matched[0] >= 0) & ~table.ignored[0])[own],
        missed=ground_truth.boxes[missed],
    )


def _bags(seen: _Seen, detector: str, gallery: str, frame: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The bag of each object of a frame under one detector, by annotation id; none where its model was not kept.

    The model is asked once about the objects of a gallery; the answer lies beside its detections.
    """
    run = seen.compared.runs[detector]
    path = run.directory(seen.store.runs) / f"gallery_{gallery}.csv"
    is_known = path.exists() and set(frame["annotation_id"]) <= set(pd.read_csv(path)["annotation_id"])
    if not is_known and seen.store.network(run.training).exists():
        write_csv(path, _asked(seen, run, frame))
    if not path.exists():
        return {}
    unknown = dict.fromkeys(("step", "num_steps", "part_x", "part_y"), np.nan)
    rows = pd.read_csv(path).assign(run=run.name, detector=detector, **unknown)
    return {number: rows[rows["annotation_id"] == number] for number in rows["annotation_id"].unique().tolist()}


def _asked(seen: _Seen, run: Evaluation, frame: pd.DataFrame) -> pd.DataFrame:
    """What a trained run says about the bags of a frame's objects: a row an anchor."""
    model, config = load_model(seen.store.weights(run.training))
    frames = []
    for image_id in frame["image_id"].unique().tolist():
        rows = pd.DataFrame(bag_rows(model, config, seen.image(image_id), FreeAnchorLoss()))
        frames.append(rows[rows["annotation_id"].isin(frame["annotation_id"])])
    return pd.concat(frames, ignore_index=True)
