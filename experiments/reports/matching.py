"""Which anchors are matched: Figs. 1 to 4, and the bags of a whole validation split.

    FIGURE1.write(profile, store, Path("reports"))
    frame = bag_box_frame(profile, store)       # detector, anchor, quantity, value, low, high, seeds
    frame = bag_overlap(profile, store)         # data, group, rank, low, value, high: quartiles over objects

COCO's overlap at the paper's 800 px, the reference of `bag_overlap`, was measured once:

    python -m experiments.reports.matching --gt instances_val2017.json    # experiments/reports/coco_bag_overlap.csv
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.bags.arrays import QUANTITIES, BagBoxes
from analysis.bags.matches import MATCH_COLUMNS
from analysis.bags.summaries import concentration_frame, part_distance_frame
from analysis.coco.reading import read_ground_truth
from analysis.evaluation.breakdowns import AspectCuts
from analysis.figures import bags, curves, matching, style
from experiments.registry.config import Evaluation, PublishedCheckpoint
from experiments.registry.profile import Profile
from experiments.reports.anchors import aspects_of
from experiments.reports.comparisons import interval_rows
from experiments.reports.gallery import image_credits
from experiments.reports.report import Report, compared_runs, figure_report, no_runs
from experiments.runs.bags import BOXES, bag_boxes_stage, matches_of, stored_bags, stored_positions
from experiments.runs.measured import SEED_COLUMNS, over_seeds, seeds_of_pairs
from experiments.runs.store import Store, is_measured, stored_frame
from freeanchor.anchors import AnchorConfig
from freeanchor.data.anchor_fit import NUM_RANKS, Objects, anchor_fit
from freeanchor.data.coco import InputConfig, read_split
from freeanchor.data.images import open_image
from freeanchor.errors import DataError
from freeanchor.files import read_json, write_csv
from freeanchor.losses.free_anchor import FreeAnchorLoss, mean_max, saturated_linear


def matches(profile: Profile, store: Store, models: Path | None = None) -> pd.DataFrame:
    """The stored bags of the compared FreeAnchor's run, first object alone; empty where it was not run.

    Where it was not run and an example model lies in the folder `models`, its bags are computed, named as such.
    """
    own = profile.evaluations[profile.pair[-1]]
    path = own.directory(store.runs) / "matches.csv"
    example = None if models is None or not profile.examples else models / profile.examples[-1] / "model.safetensors"
    if path.exists():
        frame = stored_frame(path, ["annotation_id"])
    elif example is not None and example.exists() and store.data(own.training).exists():
        head = {"run": profile.examples[-1], "detector": "FreeAnchor, the committed model", "step": 0, "num_steps": 0}
        frame = matches_of(own.training, store, [(head, example)])
    else:
        return pd.DataFrame(columns=list(MATCH_COLUMNS))
    return frame[frame["annotation_id"] == frame["annotation_id"].iloc[0]] if len(frame) else frame


def image_of(frame: pd.DataFrame, profile: Profile, store: Store) -> tuple[np.ndarray, str]:
    """Pixels [H, W, 3] of the image that a frame of matches is about, and whose it is.

    One grey pixel for an empty frame; all grey where the data set's images, or this one, are not to be shown.
    """
    if frame.empty:
        return np.full((1, 1, 3), 128, dtype=np.uint8), ""
    split = read_split(store.data(profile.evaluations[profile.pair[-1]].training), "val")
    image_id = int(frame["image_id"].iloc[0])
    image = next(image for image in split.images if image.image_id == image_id)
    credit = image_credits(split.annotations, store.credit).get(image_id)
    if not store.images or credit is None:
        return np.full((image.height, image.width, 3), 128, dtype=np.uint8), ""
    return np.array(open_image(image.path)), credit


def _matching_report(
    draw: Callable[[pd.DataFrame, np.ndarray], Figure], *, may_be_example: bool = False, **described: Any
) -> Report:
    """A figure of the stored matches over their image, or of the example model's before anything was trained."""

    def build(profile: Profile, store: Store, stem: Path) -> None:
        frame = matches(profile, store, stem.parent / "models" if may_be_example else None)
        pixels, credit = image_of(frame, profile, store)
        figure = draw(frame, pixels)
        if credit:
            figure.supxlabel(f"Image: {credit}", fontsize=6, x=0.99, ha="right", parse_math=False)
        style.write_figure(figure, frame, stem)

    return Report(kinds=("figure",), build=build, **described)


def saturated_linear_frame(match_iou: float, best_iou: tuple[float, ...] = (0.75, 0.9)) -> pd.DataFrame:
    """Fig. 2: P{a -> b} against IoU, for objects whose best prediction has `best_iou`."""
    x = torch.linspace(0, 1, 401, dtype=torch.float64)
    frames = []
    for t2 in best_iou:
        value = saturated_linear(x, match_iou, torch.tensor(t2, dtype=torch.float64))
        frames.append(pd.DataFrame({"x": x.numpy(), "t1": match_iou, "t2": t2, "value": value.numpy()}))
    return pd.concat(frames, ignore_index=True)


def mean_max_frame(bag_size: int, rest: tuple[float, ...] = (0.1, 0.5)) -> pd.DataFrame:
    """Fig. 3: mean, max and Mean-max of a bag in which one anchor's confidence is x and all others' is `rest`."""
    x = torch.linspace(0, 1, 401, dtype=torch.float64)
    frames = []
    for other in rest:
        bags = torch.cat([x[:, None], torch.full((len(x), bag_size - 1), other, dtype=torch.float64)], dim=1)
        functions = {"mean": bags.mean(dim=1), "max": bags.amax(dim=1), "mean-max": mean_max(bags)}
        title = f"{bag_size} anchors, all others at {other:g}"
        frames += [
            pd.DataFrame({"x": x.numpy(), "function": name, "value": value.numpy(), "bag": title})
            for name, value in functions.items()
        ]
    return pd.concat(frames, ignore_index=True)


FIGURE1 = _matching_report(
    matching.figure1,
    may_be_example=True,
    name="figure1",
    title="Figure 1. Assignment by hand and learned",
    caption="One object of the validation split. Top: the anchors that IoU assignment matches with it, all equal. "
    "Bottom: its bag of 50 under the trained FreeAnchor, opacity by each anchor's share in Mean-max, the chosen one "
    "thick. Before this profile's is trained, the model that is kept with the reports.",
)
FIGURE2 = figure_report(
    lambda profile, store: saturated_linear_frame(FreeAnchorLoss().match_iou),
    curves.figure2,
    name="figure2",
    title="Figure 2. Saturated linear function",
    caption="The probability that a prediction is right, against its IoU, for two values of the best IoU t2; computed "
    "by the function that the loss calls.",
    runs=no_runs,
)
FIGURE3 = figure_report(
    lambda profile, store: mean_max_frame(FreeAnchorLoss().bag_size),
    curves.figure3,
    name="figure3",
    title="Figure 3. Mean-max",
    caption="Mean-max of a bag in which one anchor's confidence grows: the mean at first, the max in the end.",
    runs=no_runs,
)
FIGURE4 = _matching_report(
    matching.figure4,
    name="figure4",
    title="Figure 4. Matching of one object over training",
    caption="Left: confidence of the 16 square anchors of highest IoU under FreeAnchor, darker is higher. Right: the "
    "same anchors by IoU, as hand-crafted assignment ranks them. One row per stage of training. The object is chosen "
    "by a rule on the ground truth: of objects with a box no longer than 4:3, the largest in an image of few objects; "
    "where the data record each object's discriminative part, one with that part off its centre.",
)
POSITIONS = figure_report(
    stored_positions,
    bags.match_positions_figure,
    name="positions",
    title="Where matching happens in objects",
    caption="Share of Mean-max's weight by the place of the anchor's centre in the object's box (drawn), summed over "
    "all objects of the validation split, seed 0: over training, beside the anchors that IoU assignment gives them. "
    "Objects whose discriminative part is recorded and lies off the centre are turned so that it lies at the upper "
    "right.",
    needs=("concentration",),
)


def concentration(profile: Profile, store: Store) -> pd.DataFrame:
    """Entropy, effective anchors and confidence of bags over training, slender beside square, both detectors."""
    return concentration_frame(stored_bags(profile, store))


def part_distance(profile: Profile, store: Store) -> pd.DataFrame:
    """Distances of matched anchors from the discriminative part and from the centre, over training."""
    return part_distance_frame(stored_bags(profile, store), np.random.default_rng(0))


CONCENTRATION = figure_report(
    concentration,
    bags.bag_concentration_figure,
    name="concentration",
    title="Concentration of bags over training",
    caption="Entropy of a bag's weights in Mean-max, how many anchors it really uses, Mean-max itself, and the "
    "confidence of the bag's best anchor, over all objects (median and quartiles), all seeds together.",
)
PART_DISTANCE = figure_report(
    part_distance,
    bags.part_distance_figure,
    name="part_distance",
    title="Distance of the matched anchor from the discriminative part",
    caption="For objects whose class is recorded to show at one end: mean distance of the best-scoring anchor's centre "
    "from that part and from the box's centre, beside the anchor of highest IoU, all seeds together.",
    needs=("concentration",),
)

COLUMNS = ("detector", "anchor", "quantity", "value", "low", "high", *SEED_COLUMNS)
_KEYS = ("anchor", "quantity")


def bag_box_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """One row per detector, anchor and quantity, over seeds; then the gain, paired over images, where both were run.

    `anchor` is a rank in the bag (the same anchor for both detectors), one of the two picked, or their "regret"
    (`analysis.bags.arrays`). Intervals: 95 %, bootstrap over the images with objects; gains over those that both runs
    were asked about. Boxes are decoded and clipped as FreeAnchor's own, those of published checkpoints too.
    """
    runs = [profile.evaluations[name] for name in compared_runs(profile)]
    answers = {run.name: _asked(run, store) for run in runs if _is_there(run, store)}
    asked = {name: answer for name, answer in answers.items() if len(answer)}  # one without objects knows nothing
    frames = [
        over_seeds(seeds, _KEYS).assign(detector=detector)
        for detector, seeds in seeds_of_pairs(profile, asked, _own, _gain)
    ]
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))


def _is_there(run: Evaluation, store: Store) -> bool:
    """Whether a run is done and its network still lies there, or had been asked before."""
    is_asked = (run.directory(store.runs) / BOXES).exists()
    return is_measured(run, store) and (is_asked or store.network(run.training).exists())


def box_rows(runs: Sequence[Evaluation], store: Store) -> pd.DataFrame:
    """One row per anchor and quantity of runs that differ in their seed, over seeds."""
    answers = [answer for answer in (_asked(run, store) for run in runs) if len(answer)]
    return over_seeds([_own(answer) for answer in answers], _KEYS)


def _asked(run: Evaluation, store: Store) -> pd.DataFrame:
    return stored_frame(bag_boxes_stage(run, store), dtype={"anchor": str})  # ranks are names here


def _flat(boxes: BagBoxes, weights: np.ndarray) -> np.ndarray:
    return boxes.values(weights).reshape(len(weights), -1)


def _rows(boxes: Sequence[BagBoxes]) -> pd.DataFrame:
    keys = [(name, quantity) for name in boxes[0].names for quantity in QUANTITIES]
    metrics = [partial(_flat, one) for one in boxes]
    return interval_rows(pd.DataFrame(keys, columns=list(_KEYS)), metrics, len(boxes[0].image_ids))


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    return _rows([BagBoxes.of(frame)])


def _gain(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The second run's means minus the first's, for the images and anchors that both have."""
    first, second = (one[one["image_id"].isin(other["image_id"])] for one, other in ((first, second), (second, first)))
    if first.empty:
        raise DataError("two runs to compare were asked about no common image; both need one validation split")
    common = [anchor for anchor in first["anchor"].unique() if anchor in set(second["anchor"])]
    return _rows([BagBoxes.of(frame, common) for frame in (first, second)])


BAG_BOXES = figure_report(
    bag_box_frame,
    bags.bag_boxes_figure,
    name="bag_boxes",
    title="Boxes and scores of a bag's anchors",
    caption="Left and middle: IoU of the box predicted from an anchor, and the score of the object's class there, by "
    "the anchor's rank in its object's bag: the same anchors for both detectors. Right: the box of the anchor of "
    "highest IoU; then, each detector's own, of the best-scoring anchor, and the best box in the bag. Means over the "
    "validation objects (the first 5,000 of COCO's) and over seeds, 95 % intervals over images.",
)

MAX_IMAGES = 300  # by the split's order: quartiles need no more
REFERENCE = Path(__file__).parent / "coco_bag_overlap.csv"
OVERLAP_COLUMNS = ("data", "group", "rank", "low", "value", "high", "num_objects")
DIGITS = 4


def overlap_frame(data: str, images: Sequence[Objects], inputs: InputConfig, anchors: AnchorConfig) -> pd.DataFrame:
    """Quartiles over objects of the IoU at each rank, for all objects and for slender and square ones."""
    ious = anchor_fit(images[:MAX_IMAGES], inputs, anchors).ious.numpy()
    if not len(ious):
        return pd.DataFrame(columns=list(OVERLAP_COLUMNS))
    aspects = aspects_of(images[:MAX_IMAGES])
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


BAG_OVERLAP = figure_report(
    bag_overlap,
    bags.bag_overlap_figure,
    name="bag_overlap",
    title="What a bag can hold",
    caption="IoU of an object's anchors by rank, the best first: median and quartiles over the validation objects "
    "under this profile's anchors, beside COCO's under the paper's. No detector is asked. Where images are small, the "
    "paper's 50 (dotted) reaches down to anchors that hardly touch their object.",
)


REPORTS = (FIGURE1, FIGURE2, FIGURE3, FIGURE4, POSITIONS, CONCENTRATION, PART_DISTANCE, BAG_BOXES, BAG_OVERLAP)


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
