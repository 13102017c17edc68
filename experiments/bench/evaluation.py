"""Evaluation at COCO's size: its time beside pycocotools', intervals, and how time and memory grow.

Objects and detections are made up from a seed at val2017's size, or the objects are a file's own; no score made of them
means anything. Everything is measured in processes that start fresh, ours and the peer's in turn: seconds of processor
time, without imports, where one process does the work, by the clock where several do; memory at its peak, over what the
imports hold. That the statistics are pycocotools' own is asserted here too.

    rows = bench_evaluation()                                               # made-up objects, as many as val2017's
    rows = bench_evaluation(gt=Path("instances_val2017.json"))              # its own objects, made-up detections
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from analysis.coco.reading import read_ground_truth
from experiments.bench.rows import BenchRow, growth_exponent
from experiments.bench.task import PEERS
from freeanchor.files import read_json
from freeanchor.workers import usable_processors

NUM_CATEGORIES = 80
_CROWD_SHARE = 0.007  # of val2017's annotations
_STRAYS = 0.5  # share of detections that lie in an image drawn anew
_MISLABELLED = 0.2
_JITTERS = (0.02, 0.08, 0.25)  # of an object's sides, each for a third: sharp, fair and poor boxes


def made_up_ground_truth(*, num_images: int, num_objects: int, generator: np.random.Generator) -> dict[str, Any]:
    """A COCO instances file with much of val2017's spread of objects per image, categories, sizes and aspect ratios.

    Images are of 640 x 480; a third of the objects each is small, medium and large, 13 % are slender.
    """
    crowdedness = generator.gamma(1.2, size=num_images)  # val2017: standard deviation 7.4 where the mean is 7.4
    image = generator.choice(num_images, size=num_objects, p=crowdedness / crowdedness.sum())
    commonness = np.append(1.05, 1 / np.arange(8, NUM_CATEGORIES + 7))  # the first, as val2017's persons, for 30 %
    category = generator.choice(NUM_CATEGORIES, size=num_objects, p=commonness / commonness.sum())
    side = np.exp(generator.normal(np.log(68), 1.0, num_objects)).clip(4, 450)
    stretch = np.exp(generator.normal(0, 0.37, num_objects))  # the root of width over height
    sizes = np.column_stack([side * stretch, side / stretch]).clip(2, [640, 480])
    corners = generator.random((num_objects, 2)) * ([640, 480] - sizes)
    boxes = np.hstack([corners, sizes]).round(2)
    areas = (boxes[:, 2] * boxes[:, 3] * generator.uniform(0.4, 0.9, num_objects)).round(2)  # masks fill boxes in part
    is_crowd = (generator.random(num_objects) < _CROWD_SHARE).astype(int)
    columns = (image + 1, category + 1, boxes, areas, is_crowd)
    return {
        "images": [{"id": i + 1, "file_name": f"{i + 1:012}.jpg"} for i in range(num_images)],
        "categories": [{"id": k + 1, "name": f"category {k + 1}"} for k in range(NUM_CATEGORIES)],
        "annotations": _rows(("image_id", "category_id", "bbox", "area", "iscrowd"), columns, numbered=True),
    }


def made_up_detections(content: dict[str, Any], count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """COCO results: `count` boxes jittered around objects drawn anew, half of them in another image.

    Those that stay score somewhat more, so that precision falls with recall as a detector's does.
    """
    objects = content["annotations"]
    source = generator.integers(len(objects), size=count)
    image_ids, category_ids = (np.array([item["id"] for item in content[key]]) for key in ("images", "categories"))
    image, category = (np.array([item[key] for item in objects])[source] for key in ("image_id", "category_id"))
    boxes = np.array([item["bbox"] for item in objects], dtype=np.float64)[source]
    is_stray, is_mislabelled = generator.random(count) < _STRAYS, generator.random(count) < _MISLABELLED
    image = np.where(is_stray, generator.choice(image_ids, size=count), image)
    category = np.where(is_mislabelled, generator.choice(category_ids, size=count), category)
    jitter = generator.normal(size=(count, 4)) * generator.choice(_JITTERS, size=(count, 1))
    corners = boxes[:, :2] + jitter[:, :2] * boxes[:, 2:]
    sizes = boxes[:, 2:] * np.exp(jitter[:, 2:])
    score = generator.beta(2, 5, count) + 0.3 * ~is_stray * generator.random(count)
    columns = (image, category, np.hstack([corners, sizes]).round(2), score.clip(0, 1).round(5))
    return _rows(("image_id", "category_id", "bbox", "score"), columns)


def first_images(content: dict[str, Any], count: int) -> dict[str, Any]:
    """The data set of the first `count` images alone."""
    images = content["images"][:count]
    ids = {item["id"] for item in images}
    annotations = [item for item in content["annotations"] if item["image_id"] in ids]
    return {"images": images, "categories": content["categories"], "annotations": annotations}


def _rows(names: tuple[str, ...], columns: tuple[np.ndarray, ...], *, numbered: bool = False) -> list[dict[str, Any]]:
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return [row | {"id": i} for i, row in enumerate(rows, start=1)] if numbered else rows


# A process's peak counts what its parent held when it was started, so that a small one has to start it.
_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
LARGEST_DIFFERENCE = 1e-12  # between a statistic of ours and pycocotools'


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large and how often."""

    num_images: int = 5000
    num_objects: int = 36_781  # made up where no file gives them
    num_detections: int = 500_000
    num_resamples: int = 1000
    repetitions: int = 3
    num_doublings: int = 3
    seed: int = 0
    # images, detections, and the aim: times hotcoco's processor time
    whole: tuple[tuple[int, int, float], ...] = ((2880, 162_855, 3.0), (5000, 500_000, 2.0))

    def row(self, what: str, unit: str, ours: float, aim: float, note: str, **peer: Any) -> BenchRow:
        """A row of this subject."""
        told = {"what": what, "unit": unit, "ours": ours, "aim": aim, "note": note, "repetitions": self.repetitions}
        return BenchRow(subject="evaluation", **{**told, **peer})


FULL = Setting()
QUICK = Setting(
    num_images=40,
    num_objects=300,
    num_detections=1500,
    num_resamples=10,
    repetitions=1,
    num_doublings=1,
    whole=((40, 1500, 3.0),),
)  # seconds


def bench_evaluation(gt: Path | None = None, setting: Setting = FULL) -> list[BenchRow]:
    """Measures everything; `gt` is a COCO instances file (its first images are taken), None makes the objects up.

    Raises `ArithmeticError` where a statistic of ours is not pycocotools', `subprocess.CalledProcessError` where a
    process fails, `DataError` for a file that cannot be read.
    """
    content = _content(setting, gt)
    generator = np.random.default_rng(setting.seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        found = (made_up_detections(content, setting.num_detections, generator) for _ in range(2))
        files = _written(Path(folder), content, *found)
        rows = [*_speed_rows(files, setting), *_interval_rows(files, setting)]
    rows += _whole_process_rows(setting)
    return rows + _growth_rows(content, setting, generator)


def _content(setting: Setting, gt: Path | None) -> dict[str, Any]:
    if gt is not None:
        read_ground_truth(gt)  # for its refusals
        return first_images(read_json(gt), setting.num_images)
    generator = np.random.default_rng(setting.seed)
    return made_up_ground_truth(num_images=setting.num_images, num_objects=setting.num_objects, generator=generator)


def _written(folder: Path, content: dict[str, Any], *detections: list[dict[str, Any]]) -> list[Path]:
    paths = [folder / "gt.json", *(folder / f"detections{i}.json" for i in range(len(detections)))]
    for path, rows in zip(paths, (content, *detections), strict=True):
        path.write_text(json.dumps(rows))
    return paths


def _speed_rows(files: list[Path], setting: Setting) -> list[BenchRow]:
    """Evaluation with all breakdowns against pycocotools' twelve statistics, from files and from arrays."""
    ours, theirs = [], []
    for _ in range(setting.repetitions):
        ours.append(_in_a_process("ours", files[:2]))
        theirs.append(_in_a_process("pycocotools", files[:2]))
    far = max(_difference(one["statistics"], other["statistics"]) for one, other in zip(ours, theirs, strict=True))
    if far > LARGEST_DIFFERENCE:
        raise ArithmeticError(f"a statistic differs from pycocotools' by {far}; the times are of no use")

    def row(what: str, unit: str, parts: Sequence[str], aim: float, note: str, scale: float = 1.0) -> BenchRow:
        mine, peer = (median(sum(one[part] for part in parts) for one in answers) / scale for answers in (ours, theirs))
        return setting.row(what, unit, mine, aim, note, peer="pycocotools", theirs=peer)

    size = f"{setting.num_images} images, {setting.num_detections} detections"
    note = f"{size}; processor time; largest difference of a statistic {far:g}"
    what = "twelve statistics, slenderness and crowdedness {}, against pycocotools' twelve alone"
    return [
        row(what.format("from files"), "s", ("reading", "evaluating"), 0.1, note),
        row(what.format("in memory"), "s", ("evaluating",), 0.1, note),
        row("peak memory of the same, from files", "MB", ("peak",), 1.0, size, scale=1e6),
    ]


def _whole_process_rows(setting: Setting) -> list[BenchRow]:
    """`freeanchor evaluate` with all breakdowns against each peer's twelve statistics: whole processes, imports too.

    Peers that are not installed have a row that says so. The least of several processor times counts, in turn: what
    else the machine does adds to them, and takes nothing off.
    """
    rows = []
    for num_images, num_detections, aim in setting.whole:
        generator = np.random.default_rng(setting.seed + 2)
        num_objects = setting.num_objects * num_images // setting.num_images
        content = made_up_ground_truth(num_images=num_images, num_objects=num_objects, generator=generator)
        with tempfile.TemporaryDirectory() as folder:
            files = _written(Path(folder), content, made_up_detections(content, num_detections, generator))
            evaluate = ["experiments.cli", "evaluate", "--gt", str(files[0]), "--detections", str(files[1])]
            commands = {"ours": [*evaluate, "--resamples", "0"]}
            commands |= {name: ["experiments.bench.task", name, *map(str, files)] for name in _installed()}
            costs = {name: least_costs(command, setting.repetitions) for name, command in commands.items()}
        size = f"{num_images:,} images, {num_detections:,} detections"
        for name in PEERS:
            told = {"peer": f"{name} {version(name)}", "theirs": costs[name][0]} if name in costs else {}
            note = "processor time of whole processes, the least of several"
            note = note if told else f"{note}; {name} is not installed"
            what = f"freeanchor evaluate --resamples 0, {size}, against {name}'s twelve"
            limit = aim if name == "hotcoco" and told else math.nan
            rows.append(setting.row(what, "s", costs["ours"][0], limit, note, **told))
            if name == "hotcoco" and told:
                told = told | {"theirs": costs[name][1]}
                rows.append(setting.row(f"peak memory of the same, {size}", "MB", costs["ours"][1], 1.0, "", **told))
    return rows


def _installed() -> list[str]:
    return [name for name, (module, _) in PEERS.items() if find_spec(module) is not None]


def least_costs(command: list[str], repetitions: int) -> tuple[float, float]:
    """Seconds of processor time and megabytes at the peak of a whole process, the least of each."""
    costs = []
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # compiled once
    for _ in range(repetitions):
        launch = [sys.executable, "-c", _LAUNCHER, sys.executable, "-m", *command]
        done = subprocess.run(launch, check=True, stdout=subprocess.PIPE, text=True, env=own)
        status, seconds, peak = done.stdout.split()
        if int(status):
            raise subprocess.CalledProcessError(int(status), command)
        costs.append((float(seconds), float(peak) * (1 if sys.platform == "darwin" else 1024) / 1e6))
    return min(seconds for seconds, _ in costs), min(peak for _, peak in costs)


def _difference(ours: list[float], theirs: list[float]) -> float:
    """The largest between two lists of statistics; infinite where one alone is undefined."""
    gaps = np.abs(np.subtract(ours, theirs))
    return float(np.where(np.isnan(ours) & np.isnan(theirs), 0.0, np.nan_to_num(gaps, nan=np.inf)).max())


def _interval_rows(files: list[Path], setting: Setting) -> list[BenchRow]:
    """Of the default metrics, and with error types and ten slices."""
    rows = []
    _in_a_process("intervals", files, "2", "--all")  # numba compiles once, and keeps that on disk
    for added, options, aim in (("", [], 8.0), (", error types and ten slices", ["--all"], 30.0)):
        answer = _in_a_process("intervals", files, str(setting.num_resamples), *options)
        what = f"{setting.num_resamples} paired bootstrap resamples of two detectors{added}"
        what = f"{what}, {answer['num_metrics']} metrics each"
        work = f"{usable_processors()} processes, {answer['processor']:.3g} s of processor time"
        rows.append(
            setting.row(what, "s", answer["evaluating"], aim, f"by the clock, {work}; without reading", repetitions=1)
        )
    return rows


def _growth_rows(content: dict[str, Any], setting: Setting, generator: np.random.Generator) -> list[BenchRow]:
    """Exponents of time and memory, read and evaluated, against images (with all on them) and detections alone."""
    shares = [2.0 ** (i - setting.num_doublings) for i in range(setting.num_doublings + 1)]
    images, detections = (
        [int(total * share) for share in shares] for total in (setting.num_images, setting.num_detections)
    )
    sets = [first_images(content, count) for count in images]
    rows = []
    for name, counts, contents in (("images", images, sets), ("detections", detections, sets[:1] * len(shares))):
        costs = [_costs(own, count, generator, setting) for own, count in zip(contents, detections, strict=True)]
        for kind, unit, values in zip(("time", "memory"), ("s", "MB"), zip(*costs, strict=True), strict=True):
            steps = ", ".join(f"{count}: {value:.3g} {unit}" for count, value in zip(counts, values, strict=True))
            what = f"exponent of the {kind} of reading and evaluating, against {name}"
            rows.append(setting.row(what, "", growth_exponent(counts, values), 1.1, steps))
    return rows


def _costs(
    content: dict[str, Any], num_detections: int, generator: np.random.Generator, setting: Setting
) -> tuple[float, float]:
    """Seconds of processor time and megabytes at the peak of an evaluation from files; medians."""
    with tempfile.TemporaryDirectory() as folder:
        files = _written(Path(folder), content, made_up_detections(content, num_detections, generator))
        answers = [_in_a_process("ours", files) for _ in range(setting.repetitions)]
    seconds = median(answer["reading"] + answer["evaluating"] for answer in answers)
    return seconds, median(answer["peak"] for answer in answers) / 1e6


def _in_a_process(task: str, files: list[Path], *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments.bench.task", task, *map(str, files), *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])
