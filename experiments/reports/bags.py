"""Where a detector's boxes come from: IoU of the predicted box and class score by an anchor's rank in its bag.

A rank is the same anchor for both detectors, so that what differs is what each has learned to make of it.

    frame = bag_box_frame(profile, store)       # detector, anchor, quantity, value, low, high, seeds

Boxes are decoded and cut at the borders as FreeAnchor's own; what published checkpoints do otherwise there (an
inclusive last pixel, a limit of shrinkage) is left out.

Frames of the bags of a whole validation split, for the figures of the matching explorer and the claims.

bags = stored_bags(profile, store)                   # a row an object, run and snapshot
positions = stored_positions(profile, store)         # where FreeAnchor's weight lies in objects' boxes

What a bag can hold at a profile's image size: IoU of an object's anchors by rank, the best first.

No detector is asked. A bag of 50 means something else where images are small: strides stay what they are, and the
fiftieth anchor of an object overlaps it less. COCO at the paper's 800 px stands beside as the reference, measured once:

    python -m experiments.reports.bags --gt instances_val2017.json       # experiments/reports/coco_bag_overlap.csv
    frame = bag_overlap(profile, store)         # object, group, rank, low, value, high: quartiles over objects
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.bags.arrays import QUANTITIES, BagBoxes
from analysis.bags.summaries import concentration_frame, part_distance_frame
from analysis.coco.reading import read_ground_truth
from analysis.evaluation.breakdowns import AspectCuts
from analysis.evaluation.statistics import Interval, bootstrap, paired_bootstrap
from experiments.registry.config import Evaluation, PublishedCheckpoint
from experiments.registry.profile import Profile
from experiments.runs.bags import bag_boxes_stage, stored_bags
from experiments.runs.measured import SEED_COLUMNS, over_seeds, seeds_of_pairs
from experiments.runs.store import Store, is_measured
from freeanchor.anchors import SIZE_DIVISOR, AnchorConfig, grid_anchors
from freeanchor.boxes import pairwise_iou
from freeanchor.data.coco import InputConfig, read_split
from freeanchor.data.images import resized_size
from freeanchor.files import read_json, write_csv

COLUMNS = ("detector", "anchor", "quantity", "value", "low", "high", *SEED_COLUMNS)
_KEYS = ("anchor", "quantity")
_SEED = 0  # of the resampling: every run meets the same images


def bag_box_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """A row a detector, anchor and quantity, over seeds; then the gain, paired over images, where both were run.

    `anchor` is a rank in the bag, one of the two picked, or their "regret" (`analysis.bag_boxes`). Intervals: 95 %,
    bootstrap over the images with objects; gains over those that both runs were asked about.
    """
    runs = [profile.evaluations[name] for pair in profile.pairs for name in pair]
    answers = {run.name: _asked(run, store) for run in runs if _is_there(run, store)}
    asked = {name: answer for name, answer in answers.items() if len(answer)}  # one without objects knows nothing
    frames = [
        over_seeds(seeds, _KEYS).assign(detector=detector)
        for detector, seeds in seeds_of_pairs(profile, asked, _own, _gain)
    ]
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))


def _is_there(run: Evaluation, store: Store) -> bool:
    """Whether a run is done and its network still lies there, or had been asked before."""
    is_asked = (run.directory(store.runs) / "bag_boxes.csv").exists()
    return is_measured(run, store) and (is_asked or store.network(run.training).exists())


def _asked(run: Evaluation, store: Store) -> pd.DataFrame:
    """What a run says about its bags; ranks are names here."""
    return pd.read_csv(bag_boxes_stage(run, store), dtype={"anchor": str})


def _flat(boxes: BagBoxes, weights: np.ndarray) -> np.ndarray:
    """`boxes.values` with all that is measured in one axis."""
    return boxes.values(weights).reshape(len(weights), -1)


def _rows(boxes: BagBoxes, interval: Interval) -> pd.DataFrame:
    """A row an anchor (or regret) and quantity."""
    keys = [(name, quantity) for name in boxes.names for quantity in QUANTITIES]
    return pd.DataFrame(keys, columns=list(_KEYS)).assign(value=interval.value, low=interval.low, high=interval.high)


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """One run's means."""
    boxes, generator = BagBoxes.of(frame), np.random.default_rng(_SEED)
    return _rows(boxes, bootstrap(partial(_flat, boxes), num_images=len(boxes.image_ids), generator=generator))


def _gain(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The second run's means less the first's, paired over images, for the images and anchors that both have."""
    first, second = (one[one["image_id"].isin(other["image_id"])] for one, other in ((first, second), (second, first)))
    if first.empty:
        raise ValueError("two runs to compare were asked about no common image; both need one validation split")
    common = [anchor for anchor in first["anchor"].unique() if anchor in set(second["anchor"])]
    boxes = [BagBoxes.of(frame, common) for frame in (first, second)]
    metrics = [partial(_flat, one) for one in boxes]
    generator = np.random.default_rng(_SEED)
    return _rows(boxes[0], paired_bootstrap(*metrics, num_images=len(boxes[0].image_ids), generator=generator))


def concentration(profile: Profile, store: Store) -> pd.DataFrame:
    """Entropy, effective anchors and confidence of bags over training, slender beside square, both detectors."""
    return concentration_frame(stored_bags(profile, store))


def part_distance(profile: Profile, store: Store) -> pd.DataFrame:
    """Distances of matched anchors from the telling part and from the centre, over training, both detectors."""
    return part_distance_frame(stored_bags(profile, store), np.random.default_rng(0))


NUM_RANKS = 100  # the largest bag that the paper tries
MAX_IMAGES = 300  # by the split's order: quartiles need no more
REFERENCE = Path(__file__).parent / "coco_bag_overlap.csv"
OVERLAP_COLUMNS = ("data", "group", "rank", "low", "value", "high", "num_objects")
DIGITS = 4
Boxes = tuple[int, int, torch.Tensor]  # width, height, objects as xyxy in the file's pixels


def _ious(
    images: Sequence[Boxes], inputs: InputConfig, anchors: AnchorConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each image, its objects' aspects [G] and the IoUs of their best anchors [G, NUM_RANKS]."""
    for width, height, boxes in images[:MAX_IMAGES]:
        w, h = resized_size(width, height, inputs.short_side, inputs.max_long_side, rule=inputs.resize)
        padded = tuple(-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (h, w))
        grids = tuple((-(-padded[0] // stride), -(-padded[1] // stride)) for stride in anchors.strides)
        grid = grid_anchors(anchors, grids, (padded[0], padded[1]))
        scaled = boxes * torch.tensor([w / width, h / height] * 2)
        best = pairwise_iou(scaled, grid).topk(min(NUM_RANKS, len(grid)), dim=1).values
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
        aspects = torch.maximum(sides[:, 0] / sides[:, 1], sides[:, 1] / sides[:, 0])
        yield aspects.numpy(), torch.nn.functional.pad(best, (0, NUM_RANKS - best.shape[1])).numpy()


def overlap_frame(data: str, images: Sequence[Boxes], inputs: InputConfig, anchors: AnchorConfig) -> pd.DataFrame:
    """Quartiles over objects of the IoU at each rank, for all objects and for slender and square ones."""
    found = [pair for pair in _ious(images, inputs, anchors) if len(pair[0])]
    if not found:
        return pd.DataFrame(columns=list(OVERLAP_COLUMNS))
    aspects, ious = (np.concatenate(part) for part in zip(*found, strict=True))
    cuts = AspectCuts()
    groups = {"all": aspects >= 1, "slender": aspects >= cuts.slender, "square": aspects <= cuts.square}
    frames = []
    for group, chosen in groups.items():
        if chosen.any():
            low, value, high = np.percentile(ious[chosen], (25, 50, 75), axis=0).round(DIGITS)
            columns = {"data": data, "group": group, "rank": np.arange(1, NUM_RANKS + 1), "low": low, "value": value}
            frames.append(pd.DataFrame({**columns, "high": high, "num_objects": int(chosen.sum())}))
    return pd.concat(frames, ignore_index=True)[list(OVERLAP_COLUMNS)]


def bag_overlap(profile: Profile, store: Store) -> pd.DataFrame:
    """The profile's own validation objects under its own anchors, and the reference; `data` tells them apart."""
    training = profile.evaluations[profile.pair[1]].training
    reference = pd.read_csv(REFERENCE)
    folder = store.data(training)
    if isinstance(training, PublishedCheckpoint) or not folder.exists():
        return reference
    split = read_split(folder, "val")
    images = [(image.width, image.height, image.boxes) for image in split.images]
    own = overlap_frame(str(profile.report_name), images, training.inputs, training.model.anchors)
    return pd.concat([own, reference], ignore_index=True) if len(own) else reference  # empty, it has no types


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the reference: COCO's validation objects at the paper's size, under the paper's anchors."""
    parser = argparse.ArgumentParser(description="Measure the overlap of COCO's objects with their bags.")
    parser.add_argument("--gt", type=Path, required=True, help="COCO json of val2017")
    path = parser.parse_args(arguments).gt
    truth = read_ground_truth(path)
    sizes = {item["id"]: (item["width"], item["height"]) for item in read_json(path)["images"]}
    images = []
    for image_id in truth.image_ids.tolist():
        chosen = (truth.image_id == image_id) & ~truth.iscrowd
        images.append((*sizes[image_id], torch.tensor(truth.boxes[chosen], dtype=torch.float32).reshape(-1, 4)))
    write_csv(REFERENCE, overlap_frame("COCO val2017 at 800 px", images, InputConfig(), AnchorConfig()))


if __name__ == "__main__":
    main()
