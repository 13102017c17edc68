"""What a bag can hold at a profile's picture size: IoU of an object's anchors by rank, the best first.

No detector is asked. A bag of 50 means something else where pictures are small: strides stay what they are, and the
fiftieth anchor of an object overlaps it less. COCO at the paper's 800 px stands beside as the reference, measured once:

    python -m experiments.bag_overlap --gt instances_val2017.json       # experiments/coco_bag_overlap.csv
    frame = bag_overlap(profile, store)         # object, group, rank, low, value, high: quartiles over objects
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from analysis.coco.reading import read_ground_truth
from analysis.evaluation.breakdowns import AspectCuts
from experiments.registry.config import PublishedCheckpoint
from experiments.registry.profile import Profile
from experiments.runs.store import Store
from freeanchor.anchors import SIZE_DIVISOR, AnchorConfig, grid_anchors
from freeanchor.boxes import pairwise_iou
from freeanchor.data.coco import InputConfig, read_split
from freeanchor.data.resizing import resized_size
from freeanchor.files import read_json, write_csv

NUM_RANKS = 100  # the largest bag that the paper tries
MAX_PICTURES = 300  # by the split's order: quartiles need no more
REFERENCE = Path(__file__).parent / "coco_bag_overlap.csv"
COLUMNS = ("data", "group", "rank", "low", "value", "high", "num_objects")
DIGITS = 4

Boxes = tuple[int, int, torch.Tensor]  # width, height, objects as xyxy in the file's pixels


def _ious(
    pictures: Sequence[Boxes], inputs: InputConfig, anchors: AnchorConfig
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each picture, its objects' aspects [G] and the IoUs of their best anchors [G, NUM_RANKS]."""
    for width, height, boxes in pictures[:MAX_PICTURES]:
        w, h = resized_size(width, height, inputs.short_side, inputs.max_long_side, rule=inputs.resize)
        padded = tuple(-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (h, w))
        grids = tuple((-(-padded[0] // stride), -(-padded[1] // stride)) for stride in anchors.strides)
        grid = grid_anchors(anchors, grids, (padded[0], padded[1]))
        scaled = boxes * torch.tensor([w / width, h / height] * 2)
        best = pairwise_iou(scaled, grid).topk(min(NUM_RANKS, len(grid)), dim=1).values
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
        aspects = torch.maximum(sides[:, 0] / sides[:, 1], sides[:, 1] / sides[:, 0])
        yield aspects.numpy(), torch.nn.functional.pad(best, (0, NUM_RANKS - best.shape[1])).numpy()


def overlap_frame(data: str, pictures: Sequence[Boxes], inputs: InputConfig, anchors: AnchorConfig) -> pd.DataFrame:
    """Quartiles over objects of the IoU at each rank, for all objects and for slender and square ones."""
    found = [pair for pair in _ious(pictures, inputs, anchors) if len(pair[0])]
    if not found:
        return pd.DataFrame(columns=list(COLUMNS))
    aspects, ious = (np.concatenate(part) for part in zip(*found, strict=True))
    cuts = AspectCuts()
    groups = {"all": aspects >= 1, "slender": aspects >= cuts.slender, "square": aspects <= cuts.square}
    frames = []
    for group, chosen in groups.items():
        if chosen.any():
            low, value, high = np.percentile(ious[chosen], (25, 50, 75), axis=0).round(DIGITS)
            columns = {"data": data, "group": group, "rank": np.arange(1, NUM_RANKS + 1), "low": low, "value": value}
            frames.append(pd.DataFrame({**columns, "high": high, "num_objects": int(chosen.sum())}))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)]


def bag_overlap(profile: Profile, store: Store) -> pd.DataFrame:
    """The profile's own validation objects under its own anchors, and the reference; `data` tells them apart."""
    training = profile.evaluations[profile.pair[1]].training
    reference = pd.read_csv(REFERENCE)
    folder = store.data(training)
    if isinstance(training, PublishedCheckpoint) or not folder.exists():
        return reference
    split = read_split(folder, "val")
    pictures = [(picture.width, picture.height, picture.boxes) for picture in split.pictures]
    own = overlap_frame(str(profile.report_name), pictures, training.inputs, training.model.anchors)
    return pd.concat([own, reference], ignore_index=True) if len(own) else reference  # empty, it has no types


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the reference: COCO's validation objects at the paper's size, under the paper's anchors."""
    parser = argparse.ArgumentParser(description="Measure the overlap of COCO's objects with their bags.")
    parser.add_argument("--gt", type=Path, required=True, help="COCO json of val2017")
    path = parser.parse_args(arguments).gt
    truth = read_ground_truth(path)
    sizes = {item["id"]: (item["width"], item["height"]) for item in read_json(path)["images"]}
    pictures = []
    for image_id in truth.image_ids.tolist():
        chosen = (truth.image_id == image_id) & ~truth.iscrowd
        pictures.append((*sizes[image_id], torch.tensor(truth.boxes[chosen], dtype=torch.float32).reshape(-1, 4)))
    write_csv(REFERENCE, overlap_frame("COCO val2017 at 800 px", pictures, InputConfig(), AnchorConfig()))


if __name__ == "__main__":
    main()
