"""The commands on detections in plain files: evaluate, compare, nms-recall, nms.

Each takes the parsed command line and prints a table, or json where asked.

The answer of a command on plain files: a frame as a table for people, as json for programs, as a csv file.

What it is: the last step of `experiments.plain`. What it is not: the reports' tables (`analysis.tables`).

    answer(frame, arguments)        # heeds --json and --csv
"""

import argparse
import gzip
import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from analysis.coco.reading import read_detections, read_ground_truth, results_json
from analysis.evaluation.evaluate import compare_detections, evaluation_frame
from analysis.evaluation.nms_recall import NmsRecallDefinition, recall_frame, recall_text
from analysis.evaluation.suppression import GaussianSoftNms, HardNms, LinearSoftNms, Suppression, suppress
from freeanchor.errors import UsageError
from freeanchor.files import write_bytes, write_csv


def answer(frame: pd.DataFrame, arguments: argparse.Namespace, text: str | None = None) -> None:
    """Prints the frame and, with `--csv FILE`, writes it there whole or not at all.

    With `--json` a list of rows, undefined numbers as null; else `text`, or the frame in lines, columns that hold
    nothing left out.
    """
    if arguments.csv:
        write_csv(arguments.csv, frame)
    if arguments.json:
        print(json.dumps([_json_row(row) for row in frame.to_dict("records")], indent=1))
    else:
        print(table_text(frame) if text is None else text)


def table_text(frame: pd.DataFrame) -> str:
    """A frame in aligned lines: fractions with four digits, `-` for what is undefined, empty columns left out."""
    filled = frame.loc[:, [not (frame[name].isna() | (frame[name] == "")).all() for name in frame.columns]]
    return filled.astype(object).map(_cell).to_string(index=False)


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Within it, what the readers of files have to say stands on stderr, each once, a line each."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(note.message) for note in notes):
        print(f"freeanchor: {text}", file=sys.stderr)


def _cell(value: Any) -> str:
    """One entry of the table for people."""
    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _json_row(row: dict[Any, Any]) -> dict[str, Any]:
    """A row of a frame without what json does not know."""
    return {str(name): _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    """None for nan and for a missing count, a bare number otherwise."""
    if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def evaluate(arguments: argparse.Namespace) -> None:
    """`freeanchor evaluate --gt G --detections D`."""
    _check_resamples(arguments, allow_none=True)
    with notes_on_stderr():
        ground_truth = read_ground_truth(arguments.gt, area=arguments.area)
        detections = read_detections(arguments.detections, ground_truth)
    frame = evaluation_frame(
        ground_truth,
        detections,
        num_resamples=arguments.resamples,
        per_category=arguments.per_category,
        check=arguments.check,
    )
    answer(frame, arguments)


def compare(arguments: argparse.Namespace) -> None:
    """`freeanchor compare --gt G A B`: B minus A, paired over images."""
    _check_resamples(arguments, allow_none=False)
    with notes_on_stderr():
        ground_truth = read_ground_truth(arguments.gt, area=arguments.area)
        first, second = (read_detections(path, ground_truth) for path in (arguments.first, arguments.second))
    frame = compare_detections(ground_truth, first, second, num_resamples=arguments.resamples)
    answer(frame.rename(columns={"value": "difference"}), arguments)


def nms_recall(arguments: argparse.Namespace) -> None:
    """`freeanchor nms-recall --gt G --candidates C`."""
    _check_resamples(arguments, allow_none=True)
    suppressions: list[Suppression] = [HardNms(nms_iou=iou) for iou in _checked_ious(arguments)]
    for kind in arguments.soft_nms:
        suppressions += _soft(kind, arguments)
    if arguments.max_candidates < 0:
        raise UsageError(f"--max-candidates must not be negative, got {arguments.max_candidates}; 0 takes all")
    base = NmsRecallDefinition(
        score_threshold=_checked_threshold(arguments),
        max_candidates=arguments.max_candidates or None,
        include_crowd=arguments.include_crowd,
        strict=not arguments.inclusive,
    )
    with notes_on_stderr():
        ground_truth = read_ground_truth(arguments.gt)
        candidates = read_detections(arguments.candidates, ground_truth)
    frame = recall_frame(ground_truth, candidates, suppressions, base=base, num_resamples=arguments.resamples)
    limit = f"at most {base.max_candidates} candidates of an image\n" if base.max_candidates else ""
    answer(frame, arguments, limit + recall_text(frame))


def nms(arguments: argparse.Namespace) -> None:
    """`freeanchor nms --candidates C --out D.json`."""
    if not arguments.out.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--out must end with .json or .json.gz, got {arguments.out}; it holds COCO results")
    if arguments.max_detections < 0:
        raise UsageError(f"--max-detections must not be negative, got {arguments.max_detections}; 0 keeps all")
    suppression: Suppression = HardNms(nms_iou=_checked_ious(arguments)[0])
    if arguments.soft_nms:
        suppression = _soft(arguments.soft_nms, arguments)[0]
    threshold = _checked_threshold(arguments)
    with notes_on_stderr():
        ground_truth = read_ground_truth(arguments.gt) if arguments.gt else None
        candidates = read_detections(arguments.candidates, ground_truth)
    kept = suppress(candidates, suppression, score_threshold=threshold, max_detections=arguments.max_detections or None)
    content = json.dumps(results_json(kept)).encode()
    write_bytes(arguments.out, gzip.compress(content, mtime=0) if arguments.out.suffix == ".gz" else content)
    print(f"{len(kept)} of {len(candidates)} candidates kept by {suppression.label}, in {arguments.out}")


def _soft(kind: str, arguments: argparse.Namespace) -> list[Suppression]:
    """Soft-NMS of one kind: linear once for each IoU, gaussian once for each sigma asked for."""
    if kind == "linear":
        return [LinearSoftNms(nms_iou=iou) for iou in _checked_ious(arguments)]
    if not 0 < arguments.sigma < float("inf"):
        raise UsageError(f"--sigma must be greater than 0, got {arguments.sigma}; 0.5 is usual")
    return [GaussianSoftNms(sigma=arguments.sigma)]


def _checked_ious(arguments: argparse.Namespace) -> list[float]:
    """The IoUs of `--nms`, each once."""
    for iou in arguments.nms:
        if not 0 <= iou <= 1:
            raise UsageError(f"--nms must lie in [0, 1], got {iou}; it is a fraction")
    return list(dict.fromkeys(arguments.nms))


def _checked_threshold(arguments: argparse.Namespace) -> float:
    """The score that candidates must exceed."""
    if not 0 <= arguments.score_threshold < float("inf"):
        raise UsageError(f"--score-threshold must be 0 or more, got {arguments.score_threshold}; the paper's is 0.05")
    return arguments.score_threshold


def _check_resamples(arguments: argparse.Namespace, *, allow_none: bool) -> None:
    """Refuses numbers of resamplings that make no interval."""
    if arguments.resamples < 2 and not (allow_none and arguments.resamples == 0):
        none = " (or 0, for no intervals)" if allow_none else ""
        raise UsageError(f"--resamples must be at least 2{none}, got {arguments.resamples}; 1000 is usual")
