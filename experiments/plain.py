"""The commands that need no registry: detect, evaluate, compare, nms-recall, on plain files.

Each takes the parsed command line and prints a table, or json where asked.
"""

import argparse
import json
import math
from typing import Any

import pandas as pd

from analysis.breakdowns import crowdedness, slenderness
from analysis.coco import coco_statistics, read_detections, read_ground_truth
from analysis.nms_recall import NmsRecallDefinition, nms_recall_table, object_recall
from experiments.commands import UsageError, runtime_of
from experiments.detect import detect as detect_pictures
from experiments.measure import compare_detections


def _print(values: list[dict[str, Any]], *, as_json: bool) -> None:
    """Rows as json, nan as null, or as an aligned table of fractions."""
    if as_json:
        clean = [
            {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()} for row in values
        ]
        print(json.dumps(clean, indent=1))
    else:
        print(pd.DataFrame(values).to_string(index=False, float_format=lambda value: f"{value:.4f}"))


def detect(arguments: argparse.Namespace) -> None:
    """`freeanchor detect IMAGE… --checkpoint C --out DIR`."""
    if not 0 <= arguments.min_score <= 1:
        raise UsageError(f"--min-score must lie in [0, 1], got {arguments.min_score}; it is a fraction")
    rows = detect_pictures(
        arguments.images,
        arguments.checkpoint,
        arguments.out,
        min_score=arguments.min_score,
        runtime=runtime_of(arguments),
    )
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['file']}: {row['category']} {row['score']:.2f} at {row['bbox']}")
    print(f"{len(rows)} detections in {len(arguments.images)} pictures, drawn in {arguments.out}")


def evaluate(arguments: argparse.Namespace) -> None:
    """`freeanchor evaluate --gt G --detections D`."""
    ground_truth = read_ground_truth(arguments.gt)
    detections = read_detections(arguments.detections, ground_truth)
    rows: list[dict[str, Any]] = [
        {"metric": name, "value": value} for name, value in coco_statistics(ground_truth, detections).items()
    ]
    for frame in (slenderness(ground_truth, detections), crowdedness(ground_truth, detections)):
        rows += [{"metric": row.metric, "value": row.value} for row in frame.itertuples()]
    _print(rows, as_json=arguments.json)


def compare(arguments: argparse.Namespace) -> None:
    """`freeanchor compare --gt G A B`: B minus A, paired over pictures."""
    if arguments.resamples < 2:
        raise UsageError(f"--resamples must be at least 2, got {arguments.resamples}; 1000 is usual")
    ground_truth = read_ground_truth(arguments.gt)
    first, second = (read_detections(path, ground_truth) for path in (arguments.first, arguments.second))
    frame = compare_detections(ground_truth, first, second, num_resamples=arguments.resamples)
    frame = frame.rename(columns={"value": "difference"})
    rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    _print(rows, as_json=arguments.json)


def nms_recall(arguments: argparse.Namespace) -> None:
    """`freeanchor nms-recall --gt G --candidates C`."""
    if not 0 <= arguments.nms <= 1:
        raise UsageError(f"--nms must lie in [0, 1], got {arguments.nms}; it is a fraction")
    ground_truth = read_ground_truth(arguments.gt)
    candidates = read_detections(arguments.candidates, ground_truth)
    definition = NmsRecallDefinition(nms_iou=arguments.nms)
    table = nms_recall_table(object_recall(ground_truth, candidates, definition=definition))
    rows: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    rows.append(
        {
            "tau": math.nan,
            "metric": "nr",
            "recall_before": table["recall_before"].mean(),
            "recall_after": table["recall_after"].mean(),
            "nr": table["nr"].mean(),
        }
    )
    _print(rows, as_json=arguments.json)
