"""Evaluation at COCO's size: its time beside pycocotools', intervals, and how time and memory grow.

What it is: rows for `make bench`. What it is not: a timed test; that the statistics are equal is asserted here too.

    rows = evaluation_rows()                                                # made-up objects, as many as val2017's
    rows = evaluation_rows(gt=Path("instances_val2017.json"))               # its own objects, made-up detections
    rows = evaluation_rows(QUICK)
    rows = bench_evaluation(gt)                                             # the same for `experiments.bench`

A row is a dict: name, what, unit, ours, peer, ratio (peer / ours: larger is better), aim (of the ratio at least; where
there is no peer, of ours at most), repetitions, note; None where there is none. Everything is measured in processes
that start fresh, ours and the peer's in turn: seconds of processor time, without imports, where one process does the
work, by the clock where several do; memory at its peak, over what the imports hold.
"""

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from analysis.coco.reading import read_ground_truth, read_json
from analysis.evaluation.processes import usable_processors
from experiments.bench_objects import first_pictures, made_up_detections, made_up_ground_truth
from experiments.bench_rows import BenchRow, growth_exponent

Row = dict[str, Any]
_LARGEST_DIFFERENCE = 1e-12  # between a statistic of ours and pycocotools'


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large and how often."""

    num_images: int = 5000
    num_objects: int = 36_781  # drawn where no file gives them
    num_detections: int = 500_000
    num_resamples: int = 1000
    repetitions: int = 3
    num_doublings: int = 3
    seed: int = 0


FULL = Setting()
QUICK = Setting(
    num_images=40, num_objects=300, num_detections=1500, num_resamples=10, repetitions=1, num_doublings=1
)  # seconds


def evaluation_rows(setting: Setting = FULL, *, gt: Path | None = None) -> list[Row]:
    """Measures everything; `gt` is a COCO instances file (its first pictures are taken), None draws the objects.

    Raises `ArithmeticError` where a statistic of ours is not pycocotools', `subprocess.CalledProcessError` where a
    process fails, `DataError` for a file that cannot be read.
    """
    content = _content(setting, gt)
    generator = np.random.default_rng(setting.seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        files = _written(Path(folder), content, *(_found(content, setting, generator) for _ in range(2)))
        rows = [*_speed_rows(files, setting), _interval_row(files, setting)]
    return rows + _growth_rows(content, setting, generator)


def bench_evaluation(gt: Path | None = None, setting: Setting = FULL) -> list[BenchRow]:
    """The rows of `evaluation_rows` as `experiments.bench` shows them: ratios, and aims of them, the other way up."""
    return [
        BenchRow(
            subject="evaluation",
            what=row["what"],
            unit=row["unit"],
            ours=row["ours"],
            peer="pycocotools" if row["peer"] is not None else "",
            theirs=math.nan if row["peer"] is None else row["peer"],
            aim=row["aim"] if row["peer"] is None else 1 / row["aim"],
            repetitions=row["repetitions"],
            note=row["note"],
        )
        for row in evaluation_rows(setting, gt=gt)
    ]


def _content(setting: Setting, gt: Path | None) -> dict[str, Any]:
    """The data set that is evaluated."""
    if gt is None:
        return made_up_ground_truth(
            num_images=setting.num_images,
            num_objects=setting.num_objects,
            generator=np.random.default_rng(setting.seed),
        )
    read_ground_truth(gt)  # for its refusals
    return first_pictures(read_json(gt), setting.num_images)


def _found(content: dict[str, Any], setting: Setting, generator: np.random.Generator) -> list[dict[str, Any]]:
    return made_up_detections(content, setting.num_detections, generator)


def _written(folder: Path, content: dict[str, Any], *detections: list[dict[str, Any]]) -> list[Path]:
    """The files of a data set and of detectors on it."""
    paths = [folder / "gt.json", *(folder / f"detections{i}.json" for i in range(len(detections)))]
    for path, rows in zip(paths, (content, *detections), strict=True):
        path.write_text(json.dumps(rows))
    return paths


def _speed_rows(files: list[Path], setting: Setting) -> list[Row]:
    """Evaluation with all breakdowns against pycocotools' twelve statistics, from files and from arrays."""
    ours, theirs = [], []
    for _ in range(setting.repetitions):
        ours.append(_in_a_process("ours", files[:2]))
        theirs.append(_in_a_process("pycocotools", files[:2]))
    far = max(_difference(one["statistics"], other["statistics"]) for one, other in zip(ours, theirs, strict=True))
    if far > _LARGEST_DIFFERENCE:
        raise ArithmeticError(f"a statistic differs from pycocotools' by {far}; the times are of no use")
    size = f"{setting.num_images} pictures, {setting.num_detections} detections"
    note = f"{size}; processor time; largest difference of a statistic {far:g}"
    whats = {"from files": ("reading", "evaluating"), "in memory": ("evaluating",)}
    rows = []
    for where, parts in whats.items():
        mine, peer = (median(sum(one[part] for part in parts) for one in answers) for answers in (ours, theirs))
        what = f"twelve statistics, slenderness and crowdedness {where}, against pycocotools' twelve alone"
        rows.append(_row(f"evaluation_{where.replace(' ', '_')}", what, "s", mine, peer, 10.0, setting, note))
    own, other = (median(one["peak"] for one in answers) for answers in (ours, theirs))
    what = "peak memory of the same, from files"
    return [*rows, _row("evaluation_memory", what, "MB", own / 1e6, other / 1e6, 1.0, setting, size)]


def _difference(ours: list[float], theirs: list[float]) -> float:
    """The largest between two lists of statistics; infinite where one alone is undefined."""
    gaps = np.abs(np.subtract(ours, theirs))
    return float(np.where(np.isnan(ours) & np.isnan(theirs), 0.0, np.nan_to_num(gaps, nan=np.inf)).max())


def _interval_row(files: list[Path], setting: Setting) -> Row:
    """Paired intervals of every metric of two detectors."""
    answer = _in_a_process("intervals", files, str(setting.num_resamples))
    what = f"{setting.num_resamples} paired bootstrap resamples of two detectors, {answer['num_metrics']} metrics each"
    note = (
        f"by the clock, {usable_processors()} processes, {answer['processor']:.3g} s of processor time; without reading"
    )
    return _row("paired_bootstrap", what, "s", answer["evaluating"], None, 60.0, setting, note) | {"repetitions": 1}


def _growth_rows(content: dict[str, Any], setting: Setting, generator: np.random.Generator) -> list[Row]:
    """Exponents of time and memory, read and evaluated, against pictures (with all on them) and detections alone."""
    shares = [2.0 ** (i - setting.num_doublings) for i in range(setting.num_doublings + 1)]
    pictures, detections = (
        [int(total * share) for share in shares] for total in (setting.num_images, setting.num_detections)
    )
    sets = [first_pictures(content, count) for count in pictures]
    rows = []
    for name, counts, contents in (("pictures", pictures, sets), ("detections", detections, sets[:1] * len(shares))):
        costs = [_costs(own, count, generator, setting) for own, count in zip(contents, detections, strict=True)]
        for kind, unit in (("time", "s"), ("memory", "MB")):
            values = [cost[kind] for cost in costs]
            exponent = growth_exponent(counts, values)
            steps = ", ".join(f"{count}: {value:.3g} {unit}" for count, value in zip(counts, values, strict=True))
            what = f"exponent of the {kind} of reading and evaluating, against {name}"
            rows.append(_row(f"growth_{kind}_{name}", what, "", exponent, None, 1.1, setting, steps))
    return rows


def _costs(
    content: dict[str, Any], num_detections: int, generator: np.random.Generator, setting: Setting
) -> dict[str, float]:
    """Seconds of processor time and megabytes at the peak of an evaluation from files; medians."""
    with tempfile.TemporaryDirectory() as folder:
        files = _written(Path(folder), content, made_up_detections(content, num_detections, generator))
        answers = [_in_a_process("ours", files) for _ in range(setting.repetitions)]
    return {
        "time": median(answer["reading"] + answer["evaluating"] for answer in answers),
        "memory": median(answer["peak"] for answer in answers) / 1e6,
    }


def _row(
    name: str, what: str, unit: str, ours: float, peer: float | None, aim: float, setting: Setting, note: str
) -> Row:
    ratio = None if peer is None else peer / ours
    columns = {"name": name, "what": what, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio, "aim": aim}
    return columns | {"repetitions": setting.repetitions, "note": note}


def _in_a_process(task: str, files: list[Path], *options: str) -> dict[str, Any]:
    """What a process that starts fresh measures."""
    command = [sys.executable, "-m", "experiments.bench_task", task, *map(str, files), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
