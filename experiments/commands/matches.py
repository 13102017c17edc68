"""`freeanchor matches`: heatmaps of the bags of one image's objects, by one detector or several.

The objects come from `objects`, the bags from `freeanchor.inference.bags`, the drawing from
`analysis.figures.matching`.

    asked = ask_for([Path("snapshots/step-000070.safetensors"), Path("model.safetensors")], runtime)
    frame = explore(objects, asked, bag_size=50, runtime=runtime)
    write_matches(frame, objects, Path("matches"))

A detection taken as the object is a box that one anchor predicts exactly: that anchor's localization is 1, and its bag
looks more decided than an annotated object's would.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.bags.matches import MATCH_COLUMNS, chosen_anchor, preferred_by_iou, summarize_bags
from analysis.figures.lettering import noted_letters, shortened
from analysis.figures.matching import HEATMAP_COLUMNS, match_heatmaps
from analysis.figures.style import figure_bytes
from experiments.commands.compute import runtime_of
from experiments.commands.objects import (
    ImageObjects,
    annotated_objects,
    boxed_object,
    detected_objects,
    image_for,
    select_object,
)
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.images import open_image
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.errors import UsageError
from freeanchor.files import write_bytes, write_csv
from freeanchor.inference.bags import bag_rows
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.runtime import Runtime

MAX_CHECKPOINTS = 8  # columns of a figure
PNG_DPI = 150
_FINGERPRINT = re.compile(r"-[0-9a-f]{10}$")
_SNAPSHOT = re.compile(r"^step-(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A detector that is asked, and what it is called: `step` is nan where its file's name does not tell."""

    path: Path
    run: str
    step: float
    model: RetinaNet
    detector: DetectorConfig


def matches(arguments: argparse.Namespace) -> None:
    """`freeanchor matches IMAGE --checkpoint C … --out DIR`."""
    _check(arguments)
    runtime = runtime_of(arguments)
    asked = ask_for(arguments.checkpoint, runtime)
    objects = _objects(arguments, asked[-1], runtime)
    frame = explore(objects, asked, bag_size=arguments.bag_size, runtime=runtime)
    files = write_matches(frame, objects, arguments.out)
    rows = summaries(frame, objects, files)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    shown = ["object", "category", "run", "step", "entropy", "effective_anchors", "mean_max", "chosen_iou", "best_iou"]
    table = pd.DataFrame([{**row, "step": "" if row["step"] is None else row["step"]} for row in rows])[shown]
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"{len(files)} figure(s) and matches.csv in {arguments.out}")


def ask_for(paths: Sequence[Path], runtime: Runtime) -> list[Asked]:
    """The detectors of those model files, each under a name that no other has."""
    names = checkpoint_names(paths)
    asked = []
    for path, (run, step) in zip(paths, names, strict=True):
        model, detector = load_model(path, runtime.device)
        asked.append(Asked(path=path, run=run, step=step, model=model, detector=detector))
    return asked


def checkpoint_names(paths: Sequence[Path]) -> list[tuple[str, float]]:
    """Run and step of model files, by their paths; the whole path where two would be called the same.

    A run's folder gives the name, without its fingerprint, where the file is called model.safetensors or is a snapshot;
    otherwise the file does.
    """
    names = []
    for path in paths:
        snapshot, parents = _SNAPSHOT.match(path.stem), [folder for folder in path.parts[:-1] if folder != "snapshots"]
        is_of_run = bool(parents) and (snapshot is not None or path.stem == "model")
        run = _FINGERPRINT.sub("", parents[-1]) if is_of_run else path.stem
        names.append((run, float(snapshot[1]) if snapshot else math.nan))
    keys = [(run, str(step)) for run, step in names]
    return [
        (run, step) if keys.count(key) == 1 else (str(path), step)
        for path, key, (run, step) in zip(paths, keys, names, strict=True)
    ]


def explore(objects: ImageObjects, asked: Sequence[Asked], *, bag_size: int, runtime: Runtime) -> pd.DataFrame:
    """One row per anchor of each object's bag and detector: `MATCH_COLUMNS`, then `HEATMAP_COLUMNS`.

    `num_steps` is nan: a model file does not know it. Raises UsageError for an object that a detector has no category
    for, or whose box it does not know (less than a pixel wide or high, under an inclusive convention).
    """
    frames = []
    for one in asked:
        image = image_for(objects, one.detector, str(one.path))
        rows = bag_rows(one.model, one.detector, image, FreeAnchorLoss(bag_size=bag_size), runtime=runtime)
        if len({row["annotation_id"] for row in rows}) < len(objects.annotation_ids):
            raise UsageError(f"{one.path}: knows no boxes of a pixel's width or less; select another with --object")
        named = one.detector.detector or one.run
        frames.append(pd.DataFrame(rows).assign(run=one.run, detector=named, step=one.step, num_steps=math.nan))
    frame = pd.concat(frames, ignore_index=True)
    parts = frame["annotation_id"].map(lambda number: objects.parts.get(number, (math.nan, math.nan)))
    frame[["part_x", "part_y"]] = np.array(parts.tolist(), dtype=np.float64).reshape(-1, 2)
    return frame[[*MATCH_COLUMNS, *HEATMAP_COLUMNS]]


def write_matches(frame: pd.DataFrame, objects: ImageObjects, out: Path) -> dict[int, Path]:
    """One figure per object (IMAGE-N.png), then matches.csv; the figures' files by annotation id."""
    path = objects.image.path
    image = np.array(open_image(path))
    files = {}
    for number, annotation_id in zip(objects.numbers, objects.annotation_ids, strict=True):
        own = frame[frame["annotation_id"] == annotation_id]
        stages = list(own[["run", "step"]].drop_duplicates().itertuples(index=False, name=None))
        file = out / f"{path.stem}-{number}.png"
        figure = match_heatmaps(own, image, stage_labels(stages))
        with noted_letters(file):
            write_bytes(file, figure_bytes(figure, "png"))
        files[annotation_id] = file
    write_csv(out / "matches.csv", frame.astype({"step": "Int64", "num_steps": "Int64"}))
    return files


def stage_labels(stages: Sequence[tuple[str, float]]) -> list[str]:
    """What tells (run, step) pairs apart: the step, the run, or both."""
    runs, steps = ({stage[place] for stage in stages} for place in (0, 1))
    if len(runs) == 1:
        return [_step_label(step) for _, step in stages]
    if len(runs) == len(stages) and len({str(step) for step in steps}) == 1:
        return [shortened(run) for run, _ in stages]
    return [shortened(run) if math.isnan(step) else f"{shortened(run)}, {_step_label(step)}" for run, step in stages]


def summaries(frame: pd.DataFrame, objects: ImageObjects, files: dict[int, Path]) -> list[dict[str, Any]]:
    """Each bag in numbers, ready for json: its concentration, the chosen anchor and the one that IoU prefers."""
    rows = []
    numbers = dict(zip(objects.annotation_ids, objects.numbers, strict=True))
    parts = summarize_bags(frame), chosen_anchor(frame), preferred_by_iou(frame)
    for bag, learned, by_hand in zip(*(part.to_dict("records") for part in parts), strict=True):
        rows.append(
            {
                "object": numbers[bag["annotation_id"]],
                **{name: bag[name] for name in ("image_id", "annotation_id", "category", "run", "detector")},
                "step": None if math.isnan(bag["step"]) else int(bag["step"]),
                "box": _bbox(learned, "gt_"),
                **{name: bag[name] for name in ("num_anchors", "num_assigned", "mean_max", "entropy")},
                "effective_anchors": bag["effective_anchors"],
                "chosen_rank": learned["rank"],
                "chosen_level": learned["level"],
                "chosen_confidence": learned["confidence"],
                "chosen_iou": learned["iou"],
                "chosen_box": _bbox(learned),
                "best_level": by_hand["level"],
                "best_confidence": by_hand["confidence"],
                "best_iou": by_hand["iou"],
                "best_box": _bbox(by_hand),
                "figure": str(files[bag["annotation_id"]]),
            }
        )
    return rows


def _bbox(row: dict[str, Any], prefix: str = "") -> list[float]:
    x1, y1, x2, y2 = (row[f"{prefix}{name}"] for name in ("x1", "y1", "x2", "y2"))
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]


def _step_label(step: float) -> str:
    return "last step" if math.isnan(step) else f"step {int(step):,}"


def _check(arguments: argparse.Namespace) -> None:
    if arguments.bag_size < 1:
        raise UsageError(f"--bag-size must be at least 1 anchor, got {arguments.bag_size}; the paper's is 50")
    if not 0 <= arguments.min_score <= 1:
        raise UsageError(f"--min-score must lie in [0, 1], got {arguments.min_score}; it is a fraction")
    if (arguments.box is None) != (arguments.category is None):
        raise UsageError("--box and --category belong together; give --box X Y W H --category NAME")
    paths = [path.resolve() for path in arguments.checkpoint]
    if len(set(paths)) < len(paths):
        raise UsageError("--checkpoint: a file is given twice; give each once")
    if len(paths) > MAX_CHECKPOINTS:
        raise UsageError(f"--checkpoint: a figure holds {MAX_CHECKPOINTS} detectors, got {len(paths)}; give fewer")


def _objects(arguments: argparse.Namespace, last: Asked, runtime: Runtime) -> ImageObjects:
    if arguments.gt is not None:
        objects = annotated_objects(arguments.image, arguments.gt)
    elif arguments.box is not None:
        objects = boxed_object(arguments.image, tuple(arguments.box), arguments.category)
    else:
        objects = detected_objects(arguments.image, last.model, last.detector, arguments.min_score, runtime)
    return objects if arguments.object is None else select_object(objects, arguments.object)
