"""The command `freeanchor anchors`: how anchor grids fit the objects of a data set, and which of them to take."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.reports import anchors as fits
from freeanchor.data.anchor_fit import NUM_RANKS
from freeanchor.errors import UsageError
from freeanchor.files import replacing, write_csv

_SHOWN_GROUPS = ("all", "small", "medium", "large", "square", "middle", "slender")
_SHOWN_RANKS = (1, 25, 50, 100)
_SUFFIXES = (".png", ".pdf", ".svg")
_DPI = 200
_LONGEST, _MOST_STRIDES = 10_000, 64  # far beyond what any network has


def anchors(arguments: argparse.Namespace) -> None:
    """`freeanchor anchors DIR`: the fit of the given grid and of every alternative, and a recommendation."""
    given = _given(arguments)
    _check(arguments)
    torch.set_num_threads(1)  # the operations are small: a second thread would wait more than it works
    sample = fits.read_sample(arguments.gt or arguments.folder, arguments.split, arguments.max_images)
    frame = fits.fit_frame(sample, fits.grids(given))
    best = fits.recommended(frame)
    if arguments.csv:
        write_csv(arguments.csv, frame)
    if arguments.figure:
        _write_figure(arguments.figure, frame, given, best)
    if arguments.json:
        print(json.dumps(_answer(sample, frame, given, best), indent=1))
    else:
        parts = (_heading(sample), _given_table(frame, given), _all_grids(frame, given), _sentence(frame, given, best))
        print("\n\n".join(parts))


def _given(arguments: argparse.Namespace) -> fits.Grid:
    """The grid that the options describe; raises UsageError for one that cannot be."""
    size, short, long = arguments.anchor_strides, arguments.short_side, arguments.max_long_side
    if not 0 < size <= _MOST_STRIDES:
        raise UsageError(f"--anchor-strides must be above 0 and at most {_MOST_STRIDES}, got {size}; RetinaNet has 4")
    for name, value in (("--short-side", short), ("--max-long-side", long)):
        if value is not None and not 1 <= value <= _LONGEST:
            raise UsageError(f"{name} must be 1 to {_LONGEST:,} pixels, got {value}")
    default = fits.GIVEN.short_side, fits.GIVEN.max_long_side
    if short is not None:
        default = short, fits.long_side(short)
    short, long = short or default[0], long or default[1]
    if long < short:
        raise UsageError(f"--max-long-side must be at least the short side, {short}, got {long}")
    return fits.Grid(pyramid=arguments.pyramid, anchor_strides=size, short_side=short, max_long_side=long)


def _check(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that contradict each other or cannot be obeyed."""
    if (arguments.folder is None) == (arguments.gt is None):
        raise UsageError("give either a folder with train.json, or a COCO json by --gt")
    if arguments.gt and arguments.gt.is_dir():
        raise UsageError(f"--gt {arguments.gt} is a folder; give the json in it, or the folder without --gt")
    if arguments.max_images is not None and arguments.max_images < 0:
        raise UsageError(f"--max-images must not be negative, got {arguments.max_images}; 0 takes all")
    if arguments.figure and arguments.figure.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--figure must end in {', '.join(_SUFFIXES)}, got {arguments.figure}")


def _write_figure(path: Path, frame: pd.DataFrame, given: fits.Grid, best: fits.Grid) -> None:
    from analysis.figures.anchors import anchor_fit_figure  # brings matplotlib

    figure = anchor_fit_figure(fits.labelled(frame), str(given), str(best))
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=_DPI)


def _heading(sample: fits.Sample) -> str:
    width, height = (
        round(float(np.median(sides))) for sides in zip(*((w, h) for w, h, _ in sample.images), strict=True)
    )
    split = f"{sample.split} split, " if sample.split else ""
    count = f"{len(sample.images):,} of {sample.num_images:,} images with objects"
    spread = ", evenly spread" if len(sample.images) < sample.num_images else ""
    return f"{sample.name}: {split}{count}{spread}, {sample.num_objects:,} objects; median image {width} x {height} px"


def _columns(table: pd.DataFrame) -> pd.DataFrame:
    """The metrics that are printed, under the headings that they are printed with."""
    shown = {"number": table["num_objects"].map("{:,.0f}".format)} if "num_objects" in table else {}
    if "relative_cost" in table:
        shown["cost"] = table["relative_cost"].map("{:.2f}".format)
    shown["reach 0.5"] = table["share_50"].map("{:.0%}".format)
    shown["anchors >= 0.5"] = table["num_50_median"].map("{:g}".format)
    shown["(mean)"] = table["num_50_mean"].map("{:.1f}".format)
    for rank in _SHOWN_RANKS:
        shown[f"IoU@{rank}"] = table[f"iou_{rank}"].map("{:.2f}".format)
    shown["< 0.44 from"] = table["rank_44"].map(lambda rank: f"> {NUM_RANKS}" if np.isnan(rank) else f"{rank:.0f}")
    return pd.DataFrame(shown, index=table.index)


def _given_table(frame: pd.DataFrame, given: fits.Grid) -> str:
    own = frame[fits.is_of(frame, given)]
    table = own.pivot(index=["group", "num_objects"], columns="metric", values="value").reset_index("num_objects")
    groups = [group for group in _SHOWN_GROUPS if group in table.index]
    shown = _lines(_columns(table.drop(columns="relative_cost").loc[groups]), "objects", groups)
    return f"Given grid: {given} (long side at most {given.max_long_side} px)\n{shown}"


def _all_grids(frame: pd.DataFrame, given: fits.Grid) -> str:
    table = fits.by_grid(frame)
    shown = _columns(table)
    grids = map(fits.grid_of, table.index)
    lines = _lines(shown, "grid", [f"{grid}{' *' if grid == given else ''}" for grid in grids])
    return f"All objects, every grid, cheapest first (*: the given one)\n{lines}"


def _lines(shown: pd.DataFrame, heading: str, names: list[str]) -> str:
    """A table as text: names to the left, numbers to the right."""
    width = max(map(len, (heading, *names)))
    shown.insert(0, heading.ljust(width), [name.ljust(width) for name in names])
    return shown.to_string(index=False)


def _sentence(frame: pd.DataFrame, given: fits.Grid, best: fits.Grid) -> str:
    """The recommendation by the rule."""
    row = fits.by_grid(frame).loc[tuple(vars(best).values())]
    value, cost = row[fits.RULE_METRIC], row["relative_cost"]
    count = frame[list(fits.GRID_COLUMNS)].drop_duplicates().shape[0]
    rule = f"the median object's {fits.BAG_SIZE}th anchor reaches IoU {fits.ENOUGH_IOU:.2f}"
    what = f"{best} (long side at most {best.max_long_side})"
    price = "the given grid" if best == given else f"at {cost:.1f} times the cost of the given grid"
    if value >= fits.ENOUGH_IOU:
        return f"Recommended: {what}: the cheapest of {count} grids under which {rule} ({value:.2f}), {price}."
    return f"Recommended: {what}: under none of {count} grids {rule}; this one comes nearest ({value:.2f}), {price}."


def _answer(sample: fits.Sample, frame: pd.DataFrame, given: fits.Grid, best: fits.Grid) -> dict[str, Any]:
    """The json: every grid with its metrics by group, undefined numbers as null."""
    grids = []
    for key, own in frame.groupby(list(fits.GRID_COLUMNS), sort=False):
        entry: dict[str, Any] = {**dict(zip(fits.GRID_COLUMNS, key, strict=True)), "groups": {}}
        for group, rows in own.groupby("group", sort=False):
            values = dict(
                zip(rows["metric"], rows["value"].astype(object).where(rows["value"].notna(), None), strict=True)
            )
            ious = [values.pop(f"iou_{rank}") for rank in range(1, NUM_RANKS + 1)]
            entry["groups"][group] = {"num_objects": int(rows["num_objects"].iloc[0]), **values, "median_iou": ious}
        grids.append(entry)
    return {
        "data": sample.name,
        "split": sample.split or None,
        "num_images": len(sample.images),
        "num_images_with_objects": sample.num_images,
        "num_objects": sample.num_objects,
        "given": vars(given),
        "recommended": vars(best),
        "recommendation": _sentence(frame, given, best),
        "grids": grids,
    }
