"""The benchmark of evaluation: rows as promised, ratios of medians, equal statistics; never how fast it is."""

import gzip
import io
import json
import math
from contextlib import redirect_stdout
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from experiments.bench import evaluation as module
from experiments.bench import large
from experiments.bench import task as bench_task
from experiments.bench.evaluation import QUICK, bench_evaluation, first_images, made_up_detections, made_up_ground_truth
from experiments.bench.large import LARGE, bench_large
from freeanchor.errors import DataError

TINY = replace(QUICK, whole=(), num_images=16, num_objects=60, num_detections=200, num_resamples=4)


def run_here(task, files, *options):
    """The task in this process: starting one takes seconds."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        bench_task.main([task, *map(str, files), *options])
    return json.loads(printed.getvalue().splitlines()[-1])


@pytest.fixture
def here(monkeypatch):
    """No other processes."""
    monkeypatch.setattr(module, "_in_a_process", run_here)


def content(**sizes):
    """A small data set from seed 0."""
    return made_up_ground_truth(generator=np.random.default_rng(0), **({"num_images": 16, "num_objects": 60} | sizes))


@pytest.mark.usefixtures("here")
def test_rows_are_as_promised_and_agree_with_pycocotools():
    """Speed twice, memory, intervals and four exponents; finite numbers, and no statistic differs."""
    rows = bench_evaluation(setting=TINY)
    assert [(row.unit, row.peer) for row in rows] == [
        ("s", "pycocotools"), ("s", "pycocotools"), ("MB", "pycocotools"), *[("s", "")] * 2, *[("", "")] * 4
    ]  # fmt: skip
    against = [row.what.rpartition(" ")[2] for row in rows[5:]]
    assert against == ["images", "images", "detections", "detections"]
    assert [row.what.split()[3] for row in rows[5:]] == ["time", "memory"] * 2
    assert all(math.isfinite(row.ours) and row.aim > 0 and math.isfinite(row.theirs) == bool(row.peer) for row in rows)
    assert all("largest difference of a statistic 0" in row.note for row in rows[:2])
    assert "21 metrics" in rows[3].what
    assert "error types and ten slices" in rows[4].what
    assert int(rows[4].what.split()[-3]) > 21 + 8 + 10


def test_ratios_are_of_medians_and_the_peer_takes_turns(monkeypatch):
    """Three repetitions in turn; what one slow run took does not show; ten times faster meets the aim."""
    times = {"ours": iter([1.0, 50.0, 2.0]), "pycocotools": iter([30.0, 20.0, 900.0])}
    tasks = []

    def told(task, files, *options):
        tasks.append(task)
        return {"reading": 0.0, "evaluating": next(times[task]), "peak": 10**6, "statistics": [0.5] * 12}

    monkeypatch.setattr(module, "_in_a_process", told)
    row = module._speed_rows([], replace(TINY, repetitions=3))[0]
    assert (row.ours, row.theirs, row.ratio) == (2.0, 30.0, 2.0 / median([30.0, 20.0, 900.0]))
    assert (row.aim, row.met, row.peer) == (0.1, True, "pycocotools")
    assert tasks == ["ours", "pycocotools"] * 3


@pytest.mark.parametrize("wrong", [0.5 + 1e-9, float("nan")])
def test_other_statistics_than_pycocotools_are_refused(monkeypatch, wrong):
    """Times of an evaluation that differs, or is undefined where the other is not, are worth nothing."""

    def told(task, files, *options):
        statistics = [wrong if task == "ours" else 0.5, *[0.25] * 11]
        return {"reading": 1.0, "evaluating": 1.0, "peak": 1, "statistics": statistics}

    monkeypatch.setattr(module, "_in_a_process", told)
    with pytest.raises(ArithmeticError, match="differs from pycocotools"):
        module._speed_rows([], TINY)


@pytest.mark.usefixtures("here")
def test_a_files_own_objects_are_taken(tmp_path, monkeypatch):
    """With a ground truth, gzipped or not, its first images and all their objects are evaluated."""
    path = tmp_path / "gt.json.gz"
    path.write_bytes(gzip.compress(json.dumps(content(num_images=20, num_objects=100)).encode()))
    written = []
    monkeypatch.setattr(module, "_speed_rows", lambda files, _: written.append(json.loads(files[0].read_text())) or [])
    monkeypatch.setattr(module, "_interval_rows", lambda *_: [])
    monkeypatch.setattr(module, "_growth_rows", lambda *_: [])
    bench_evaluation(path, TINY)
    assert written == [first_images(content(num_images=20, num_objects=100), 16)]
    with pytest.raises(DataError, match="no such file"):
        bench_evaluation(tmp_path / "none.json", TINY)


def test_a_process_that_starts_fresh_answers(tmp_path):
    """The program behind the figures prints its times, its memory and pycocotools' statistics."""
    files = module._written(tmp_path, content(), made_up_detections(content(), 200, np.random.default_rng(1)))
    answer = module._in_a_process("pycocotools", files)
    assert answer["statistics"] == pytest.approx(run_here("ours", files)["statistics"], abs=1e-12, nan_ok=True)
    assert answer["evaluating"] > 0 and answer["reading"] > 0 and answer["peak"] >= 4096


def test_made_up_objects_are_much_like_val2017s():
    """Small, medium and large, slender and square, crowded and empty images, crowd regions: all occur."""
    objects = content(num_images=500, num_objects=3678)["annotations"]
    area = np.array([row["area"] for row in objects])
    sizes = np.array([row["bbox"][2:] for row in objects])
    aspect = sizes.max(axis=1) / sizes.min(axis=1)
    counts = np.bincount([row["image_id"] for row in objects], minlength=501)[1:]
    for share in ((area < 32**2).mean(), (area > 96**2).mean(), (aspect < 4 / 3).mean()):
        assert 0.2 < share < 0.45
    assert 0.1 < (aspect > 3).mean() < 0.2
    assert counts.max() > 30 and (counts == 0).any() and counts.sum() == 3678
    assert 0 < np.mean([row["iscrowd"] for row in objects]) < 0.02


def test_the_seed_reaches_the_draw():
    """Equal seeds give equal detections, other seeds others; as many as asked for, in images and classes there are."""
    first, again, other = (made_up_detections(content(), 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 50
    assert {row["image_id"] for row in first} <= {row["id"] for row in content()["images"]}
    assert all(0 <= row["score"] <= 1 and min(row["bbox"][2:]) >= 0 for row in first)


def test_whole_processes_stand_beside_each_peer(monkeypatch):
    """One row per peer, those that are not there said so; the aim is hotcoco's alone, and memory is compared with it."""
    monkeypatch.setattr(module, "_installed", lambda: ["hotcoco"])
    monkeypatch.setattr(module, "version", lambda name: "1.0")
    monkeypatch.setattr(
        module, "least_costs", lambda command, repetitions: (2.0 if "evaluate" in command else 1.0, 50.0)
    )
    rows = module._whole_process_rows(QUICK)
    assert [row.peer for row in rows] == ["hotcoco 1.0", "hotcoco 1.0", "", ""]
    assert [row.met for row in rows] == [True, True, None, None]
    assert [row.unit for row in rows] == ["s", "MB", "s", "s"]
    assert all("is not installed" in row.note for row in rows[2:])


def test_a_process_has_its_costs():
    """Seconds and megabytes of a child, and nothing of what this process holds; a child that fails is told."""
    held = np.ones(30_000_000)  # 240 MB
    seconds, peak = module.least_costs(["this"], 1)
    assert seconds > 0
    assert 5 < peak < 100 < held.nbytes / 1e6
    with pytest.raises(module.subprocess.CalledProcessError):
        module.least_costs(["json.tool", "/does/not/exist"], 1)


def test_large_files_are_written_image_by_image_and_measured(tmp_path) -> None:
    """Every box is written once, in the order of the images; both commands take the files and cost something."""
    tiny = [replace(case, num_images=300, num_boxes=1000) for case in LARGE]
    gt, found = large._written(tmp_path, tiny[0], np.random.default_rng(0))
    boxes, images = json.loads(gzip.decompress(found.read_bytes())), json.loads(gt.read_text())["images"]
    assert len(boxes) == 1000 and len(images) == 300
    assert [row["image_id"] for row in boxes] == sorted(row["image_id"] for row in boxes)
    rows = bench_large(tuple(tiny))
    assert [row.unit for row in rows] == ["s", "MB"] * 2
    assert all(row.ours > 0 for row in rows)
