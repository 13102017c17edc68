"""Which anchor grid fits a data set: one frame over a fixed list of grids, and the choice by a rule on boxes alone.

    sample = read_sample(Path("data/doors"), "train")
    frame = fit_frame(sample, grids(GIVEN))  # one row per grid, group of objects and metric
    recommended(frame)  # a Grid

What the command `freeanchor anchors` prints, for several data sets at once, all their images counted:

    python -m experiments.reports.anchors --data doors aquarium --shapes shapes    # reports/anchors.csv

Metrics: `share_50`, the objects whose best anchor reaches IoU 0.5; `num_50_median` and `num_50_mean`, their anchors of
IoU 0.5 or more; `iou_1` to `iou_100`, the median object's IoU by rank; `rank_44`, the first rank whose median is below
COCO's 0.44 (nan: none of 100); of a grid as a whole `cells` and `anchors` per image and `relative_cost`.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.evaluation.breakdowns import AspectCuts
from analysis.tables.markup import pipe_table
from experiments.registry.sizes import shapes
from freeanchor.anchors import AnchorConfig
from freeanchor.data.anchor_fit import NUM_RANKS, AnchorFit, Objects, anchor_fit
from freeanchor.data.coco import InputConfig, read_split_file
from freeanchor.data.images import resized_size
from freeanchor.data.json_check import split_paths
from freeanchor.detector.retinanet import PYRAMIDS
from freeanchor.errors import DataError
from freeanchor.files import write_csv

ENOUGH_IOU, BAG_SIZE = 0.40, 50  # the rule: the median object's 50th anchor
COCO_IOU = 0.44  # of COCO's median 50th anchor at 800 px: coco_bag_overlap.csv
ENOUGH_OBJECTS = 3000  # for medians to 0.005; of more a sample is taken
COCO_LONG_SIDE = 1333 / 800
STRIDES = {f"P{levels[0]}-P{levels[-1]}": strides for strides, levels in PYRAMIDS.items()}
ANCHOR_STRIDES = (4.0, 3.0, 2.0)  # smallest side of a level's square anchor, in strides
SHORT_SIDES = (224, 320, 448, 640, 800)
# CPU seconds of a training step per image: EfficientNet-Lite0, 96 channels, heads of two convolutions, 224 x 320 px,
# one core in float32: 0.27 on P3 to P7 (1,496 cells) and 0.55 on P2 to P6 (5,970).
SECONDS_PER_CELL = (0.55 - 0.27) / (5970 - 1496)
SECONDS_PER_PIXEL = (0.27 - 1496 * SECONDS_PER_CELL) / (224 * 320)
COCO_SIDES = (32, 96)  # that part small, medium and large objects: square roots of their areas
GRID_COLUMNS = ("pyramid", "anchor_strides", "short_side", "max_long_side")
COLUMNS = (*GRID_COLUMNS, "group", "metric", "value", "num_objects")
RULE_METRIC = f"iou_{BAG_SIZE}"
KEPT_METRICS = ("relative_cost", "share_50", "num_50_median", "num_50_mean", "iou_1", RULE_METRIC, "iou_100", "rank_44")
_HEAD = ("reach 0.5", "anchors", "50th")
TABLE_HEAD = ("Set", "Objects", "Given grid", *_HEAD, "Recommended", *_HEAD, "Cost")
DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A pyramid ("P3-P7"), the size of its anchors in strides, and the size of its input."""

    pyramid: str = "P3-P7"
    anchor_strides: float = 4.0
    short_side: int = 224
    max_long_side: int = 336

    def __str__(self) -> str:
        return f"{self.pyramid}, {self.anchor_strides:g} strides, {self.short_side} px"

    @property
    def anchors(self) -> AnchorConfig:
        """Its anchors: RetinaNet's three ratios and three octaves."""
        strides = STRIDES[self.pyramid]
        return AnchorConfig(sizes=tuple(self.anchor_strides * stride for stride in strides), strides=strides)

    @property
    def inputs(self) -> InputConfig:
        """How images are resized for it."""
        return InputConfig(short_side=self.short_side, max_long_side=self.max_long_side)


GIVEN = Grid()


def long_side(short_side: int) -> int:
    """The limit of the long side that goes with a short side, in COCO's ratio of 1333 to 800."""
    return round(short_side * COCO_LONG_SIDE)


def grids(given: Grid) -> list[Grid]:
    """The given grid, then every alternative: pyramids, sizes in strides, and the given input beside the fixed ones."""
    sides = {side: long_side(side) for side in SHORT_SIDES} | {given.short_side: given.max_long_side}
    alternatives = [
        Grid(pyramid=pyramid, anchor_strides=size, short_side=short, max_long_side=long)
        for pyramid in STRIDES
        for short, long in sorted(sides.items())
        for size in ANCHOR_STRIDES
    ]
    return [given, *(grid for grid in alternatives if grid != given)]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The images with objects that are looked at, evenly spread over the `num_images` that the split has."""

    name: str
    split: str
    images: tuple[Objects, ...]
    num_images: int

    @property
    def num_objects(self) -> int:
        """Objects in the images that are looked at."""
        return sum(len(boxes) for *_, boxes in self.images)


def read_sample(source: Path, split: str = "train", max_images: int | None = None) -> Sample:
    """The boxes of a folder's split, or of one COCO json; no image is read, and the images need not be there.

    Crowd regions and boxes without area are left out. `max_images` None takes as many images as hold about 3,000
    objects, 0 takes all. Raises DataError in one line.
    """
    path = source
    if source.is_dir():
        path = split_paths(source, split)[0]
        if not path.is_file():
            other = {"train": "val", "val": "train"}[split]
            remedy = f"give --split {other}" if split_paths(source, other)[0].is_file() else "give a folder that does"
            raise DataError.at(source, f"holds no {split}.json", remedy)
    elif not source.exists():
        raise DataError.at(source, "no such data folder", "give one that holds train.json, or a COCO json by --gt")
    records = read_split_file(path, source).images
    found = [(record.width, record.height, record.boxes) for record in records if len(record.boxes)]
    if not found:
        raise DataError.at(path, "holds no object, so no anchor can fit one", "give a file with boxes")
    wanted = max_images or len(found)
    if max_images is None:
        total = sum(len(boxes) for *_, boxes in found)
        wanted = max(1, round(len(found) * min(1, ENOUGH_OBJECTS / total)))
    places = np.unique(np.linspace(0, len(found) - 1, min(wanted, len(found))).round().astype(int))
    name = source.resolve().name if source.is_dir() else source.name
    chosen = tuple(found[place] for place in places)
    return Sample(name=name, split=split if source.is_dir() else "", images=chosen, num_images=len(found))


def aspects_of(images: Sequence[Objects]) -> np.ndarray:
    """max(w/h, h/w) of every object [G], in the order of the images."""
    boxes = torch.cat([torch.zeros(0, 4), *(boxes for *_, boxes in images)])
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    return torch.maximum(sides[:, 0] / sides[:, 1], sides[:, 1] / sides[:, 0]).numpy()


def _side_lengths(images: Sequence[Objects], inputs: InputConfig | None = None) -> np.ndarray:
    """The square root of every object's area [G], in the file's pixels or in those of the resized image."""
    lengths = [np.zeros(0)]
    for width, height, boxes in images:
        w, h = (
            resized_size(width, height, inputs.short_side, inputs.max_long_side, rule=inputs.resize)
            if inputs
            else (width, height)
        )
        sides = (boxes[:, 2:] - boxes[:, :2]).double().numpy() * (w / width, h / height)
        lengths.append(np.sqrt(sides.prod(axis=1)))
    return np.concatenate(lengths)


def _groups(images: Sequence[Objects], inputs: InputConfig) -> dict[str, np.ndarray]:
    """Which objects belong to each group [G]: all, by size in the file and as resized, by aspect ratio."""
    aspects = aspects_of(images)
    groups = {"all": aspects >= 1}
    low, high = COCO_SIDES
    for suffix, sides in (("", _side_lengths(images)), ("_resized", _side_lengths(images, inputs))):
        groups[f"small{suffix}"] = sides <= low
        groups[f"medium{suffix}"] = (sides >= low) & (sides <= high)
        groups[f"large{suffix}"] = sides >= high
    for name, (least, most) in AspectCuts().ranges().items():
        groups[name] = (aspects >= least) & (aspects <= most)
    return groups


def _metrics(fit: AnchorFit, chosen: np.ndarray) -> dict[str, float]:
    """Every metric of a group that has objects."""
    ious, num_fitting = fit.ious.numpy()[chosen], fit.num_fitting.numpy()[chosen]
    medians = np.median(ious, axis=0)
    below = np.flatnonzero(medians < COCO_IOU)
    return {
        "share_50": float((num_fitting > 0).mean()),
        "num_50_median": float(np.median(num_fitting)),
        "num_50_mean": float(num_fitting.mean()),
        "rank_44": float(below[0] + 1) if len(below) else float("nan"),
        **{f"iou_{rank}": float(medians[rank - 1]) for rank in range(1, NUM_RANKS + 1)},
    }


def _seconds(fit: AnchorFit) -> float:
    return SECONDS_PER_PIXEL * fit.num_pixels + SECONDS_PER_CELL * fit.num_cells


def _rows(sample: Sample, grid: Grid, fit: AnchorFit, given_seconds: float) -> Iterator[dict[str, Any]]:
    """The rows of one grid: of each group that has objects, and of the grid as a whole in the group "all"."""
    whole = {"cells": fit.num_cells, "anchors": fit.num_cells * grid.anchors.num_per_cell}
    whole["relative_cost"] = _seconds(fit) / given_seconds
    for group, chosen in _groups(sample.images, grid.inputs).items():
        num_objects = int(chosen.sum())
        if num_objects:
            metrics = (whole if group == "all" else {}) | _metrics(fit, chosen)
            for metric, value in metrics.items():
                row = {**vars(grid), "group": group, "metric": metric, "value": round(value, DIGITS)}
                yield {**row, "num_objects": num_objects}


def fit_frame(sample: Sample, compared: Sequence[Grid]) -> pd.DataFrame:
    """One row per grid, group and metric; costs are relative to the first grid's."""
    fits = [anchor_fit(sample.images, grid.inputs, grid.anchors) for grid in compared]
    rows: list[dict[str, Any]] = []
    for grid, fit in zip(compared, fits, strict=True):
        rows += _rows(sample, grid, fit, _seconds(fits[0]))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def is_of(frame: pd.DataFrame, grid: Grid) -> pd.Series:
    """Which rows are of a grid."""
    return (frame[list(GRID_COLUMNS)] == list(vars(grid).values())).all(axis=1)


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with each row's grid in one column, `grid`, as it is printed."""
    return frame.assign(grid=[str(grid_of(key)) for key in frame[list(GRID_COLUMNS)].itertuples(index=False)])


def grid_of(key: Iterable[Any]) -> Grid:
    """The grid whose values, in the order of `GRID_COLUMNS`, a frame has."""
    pyramid, size, short, long = key
    return Grid(pyramid=pyramid, anchor_strides=float(size), short_side=int(short), max_long_side=int(long))


def by_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """All objects' metrics as columns, a row per grid: cheapest first, of equal cost the one with the best 50th."""
    table = frame[frame["group"] == "all"].pivot(index=list(GRID_COLUMNS), columns="metric", values="value")
    return table.assign(_worst=-table[RULE_METRIC]).sort_values(["relative_cost", "_worst"]).drop(columns="_worst")


def recommended(frame: pd.DataFrame) -> Grid:
    """The cheapest grid under which the median object's 50th anchor reaches IoU 0.40, or the nearest to it."""
    table = by_grid(frame)
    value = table[RULE_METRIC]
    best: Any = value.ge(ENOUGH_IOU).idxmax() if value.max() >= ENOUGH_IOU else value.idxmax()  # the first such
    return grid_of(best)


def anchors_table(root: Path) -> str:
    """A Markdown table of the sets in `reports/anchors.csv`: the given grid beside the recommended one.

    Each with the share of objects that reach IoU 0.5, the median object's anchors of 0.5, and its 50th anchor's IoU.
    """
    lines = [list(TABLE_HEAD), ["---", "--:", "---", *["--:"] * 3, "---", *["--:"] * 4]]
    rows = pd.read_csv(root / "reports" / "anchors.csv")
    for data, own in rows.groupby("data", sort=False):
        given = own[(own[list(GRID_COLUMNS)] == own.iloc[0][list(GRID_COLUMNS)]).all(axis=1)]
        best = own[own["recommended"]]
        cells = [str(data), f"{own['num_objects'].iloc[0]:,}"]
        for part in (given, best):
            values = part.set_index("metric")["value"]
            cells += [str(grid_of(part.iloc[0][list(GRID_COLUMNS)])), f"{values['share_50']:.0%}"]
            cells += [f"{values['num_50_median']:g}", f"{values[RULE_METRIC]:.2f}"]
        lines.append([*cells, format(values["relative_cost"], ".1f")])
    return pipe_table(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the fit of every grid to the objects of several data sets, one row per set, grid and metric."""
    parser = argparse.ArgumentParser(description="Measure how anchor grids fit the objects of several data sets.")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders with train.json, at 224 px")
    parser.add_argument("--shapes", type=Path, help="folder of the synthetic data set, at its profile's input size")
    parser.add_argument("--out", type=Path, default=Path("reports/anchors.csv"), help="default: reports/anchors.csv")
    options = parser.parse_args(arguments)
    own = shapes().inputs
    sets = dict.fromkeys(options.data, GIVEN)
    if options.shapes:
        sets[options.shapes] = Grid(short_side=own.short_side, max_long_side=own.max_long_side)
    frames = []
    for folder, given in sets.items():
        sample = read_sample(folder, max_images=0)
        frame = fit_frame(sample, grids(given))
        frame["recommended"] = is_of(frame, recommended(frame))
        kept = frame[(frame["group"] == "all") & frame["metric"].isin(KEPT_METRICS)].drop(columns="group")
        kept.insert(0, "data", "shapes" if folder == options.shapes else sample.name)
        frames.append(kept)
    write_csv(options.out, pd.concat(frames, ignore_index=True))


if __name__ == "__main__":
    main()
