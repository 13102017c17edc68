"""`freeanchor nms-recall` and `freeanchor nms`: what suppression costs anybody's candidates, and doing it."""

import dataclasses
import gzip
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles import nms_recall as oracle
from oracles.plain_files import random_sets, results_content, write_files
from oracles.soft_nms import gaussian

from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.nms_recall import DEFINITION_NAMES, TAUS, NmsRecallDefinition, recall_frame, recall_text
from analysis.evaluation.suppression import GaussianSoftNms, HardNms, suppress
from experiments.cli import main

OPTIONS = {
    "": {},
    "_class_aware": {"class_aware": True},
    "_capped": {"max_detections": 100},
    "_class_aware_capped": {"class_aware": True, "max_detections": 100},
}  # in the oracle's words


@pytest.fixture(scope="module")
def sets():
    """A ground truth and candidates, some images with more than 100."""
    return random_sets(num_detections=2500)


@pytest.fixture
def files(tmp_path: Path, sets) -> list[str]:
    """The options that name the same as files."""
    gt, found = write_files(tmp_path, *sets)
    return ["--gt", gt, "--candidates", found]


def rows_of(capsys, command: list[str]) -> list[dict]:
    """What a command prints as json."""
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_four_definitions_side_by_side(sets, files, capsys):
    """Every tau under all four, equal to the paper's wording in loops; the authors' own comes first."""
    rows = rows_of(capsys, ["nms-recall", *files, "--nms", "0.8", "--resamples", "0"])
    assert [row["definition"] for row in rows[::10]] == list(DEFINITION_NAMES.values())
    assert rows[0]["metric"] == "nr_50" and rows[9]["metric"] == "nr"
    for block, (suffix, options) in enumerate(OPTIONS.items()):
        expected = oracle.best_ious(*sets, nms_iou=0.8, **options)
        own = rows[10 * block : 10 * block + 10]
        values = [oracle.nms_recall(expected, tau) for tau in TAUS]
        assert [row["nr"] for row in own] == pytest.approx([*values, np.mean(values)])
        assert [row["metric"] for row in own] == [f"nr_{round(100 * t)}{suffix}" for t in TAUS] + [f"nr{suffix}"]
        assert all(row["nms"] == "NMS 0.8" and row["low"] is None for row in own)
    capped, uncapped = rows[29]["nr"], rows[9]["nr"]
    assert capped < uncapped  # the cap is at work in this data


def test_suppressions_are_compared_with_the_first(sets, files, capsys):
    """Several IoUs and soft-NMS in the order asked for, each with its paired difference from the first."""
    command = ["nms-recall", *files, "--nms", "0.5", "0.7", "0.5", "--soft-nms", "gaussian", "linear"]
    rows = rows_of(capsys, [*command, "--sigma", "0.3", "--resamples", "50"])
    labels = list(dict.fromkeys(row["nms"] for row in rows))
    assert labels == [
        "NMS 0.5", "NMS 0.7", "gaussian soft-NMS 0.3", "linear soft-NMS 0.5", "linear soft-NMS 0.7",
    ]  # fmt: skip
    by_key = {(row["nms"], row["metric"]): row for row in rows}
    for (label, metric), row in by_key.items():
        first = by_key["NMS 0.5", metric]
        if label == "NMS 0.5":
            assert row["difference"] is row["difference_low"] is None
        else:
            assert row["difference"] == pytest.approx(row["nr"] - first["nr"], abs=1e-12)
            assert row["difference_low"] <= row["difference_high"]
        assert 0 <= row["low"] <= row["high"] <= 1
    soft = oracle.best_ious(*sets, decay=gaussian(0.3))
    assert by_key["gaussian soft-NMS 0.3", "nr_70"]["nr"] == pytest.approx(oracle.nms_recall(soft, 0.7))


def test_the_interval_is_over_images(sets):
    """The middle 95 % of what resampled images give, drawn here by hand from the same seed."""
    ground_truth, candidates = sets
    frame = recall_frame(ground_truth, candidates, [HardNms()], num_resamples=40)
    ious = oracle.best_ious(ground_truth, candidates)
    counting = np.flatnonzero(~ground_truth.iscrowd)
    image = {row[0]: int(ground_truth.image_id[g]) for row, g in zip(ious, counting, strict=True)}
    draws = np.random.default_rng(0).integers(12, size=(40, 12))
    samples = []
    for draw in draws:
        drawn = ground_truth.image_ids[draw].tolist()
        samples.append(oracle.nms_recall([row for row in ious for i in drawn if image[row[0]] == i], 0.6))
    row = frame[frame["metric"] == "nr_60"].iloc[0]
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(samples, [0.025, 0.975]))


@pytest.mark.parametrize(
    ("option", "oracles_words", "strict"),
    [
        (["--score-threshold", "0.4"], {"score_threshold": 0.4}, True),
        (["--max-candidates", "4"], {"max_candidates": 4}, True),
        (["--include-crowd"], {"include_crowd": True}, True),
        (["--inclusive"], {}, False),
    ],
)
def test_options_are_heeded(sets, files, option, oracles_words, strict, capsys):
    """Another threshold of score, the best candidates alone, crowd regions as objects, IoU >= tau: as the oracle has them."""
    rows = rows_of(capsys, ["nms-recall", *files, "--resamples", "0", *option])
    expected = oracle.best_ious(*sets, **oracles_words)
    for row, tau in zip(rows, TAUS, strict=False):
        assert row["nr"] == pytest.approx(oracle.nms_recall(expected, tau, strict=strict))
        found = sum(u > tau if strict else u >= tau for _, u, _ in expected) / len(expected)
        assert row["recall_before"] == pytest.approx(found)


def test_inclusive_differs_where_an_iou_meets_tau(tmp_path, capsys):
    """An object half covered is found at tau 0.5 by IoU >= tau alone."""
    gt, found = tmp_path / "gt.json", tmp_path / "c.json"
    item = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}
    gt.write_text(json.dumps({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [item]}))
    found.write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 5], "score": 0.9}]))
    command = ["nms-recall", "--gt", str(gt), "--candidates", str(found), "--resamples", "0"]
    assert rows_of(capsys, command)[0]["nr"] is None
    assert rows_of(capsys, [*command, "--inclusive"])[0]["nr"] == 1.0


def test_a_table_for_people(files, tmp_path, capsys):
    """A table a suppression with rows tau and columns definitions, then the means beside the first's; csv as well."""
    path = tmp_path / "nr.csv"
    command = ["nms-recall", *files, "--resamples", "20", "--soft-nms", "linear", "--csv", str(path)]
    assert main(command) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""  # no terminal, no progress
    assert lines.count("NMS 0.5") == lines.count("linear soft-NMS 0.5") == 1
    assert sum(line.startswith("0.70 ") for line in lines) == 2
    assert "class-agnostic" in lines[3] and "class-aware" in lines[3] and "best 100" in lines[4]
    assert any(line.startswith("linear soft-NMS 0.5 ") and "[" in line for line in lines)
    frame = pd.read_csv(path)
    assert len(frame) == 80 and list(frame.columns[:4]) == ["nms", "definition", "tau", "metric"]


@pytest.mark.parametrize("soft", [None, "gaussian"])
@pytest.mark.parametrize("name", ["d.json", "d.json.gz"])
def test_nms_writes_what_is_kept(sets, files, tmp_path, name, soft, capsys):
    """COCO results of the boxes kept, capped at 100 an image, scores fallen where soft; a line says how many."""
    out = tmp_path / "folder" / name
    options = ["--soft-nms", soft] if soft else []
    assert main(["nms", "--candidates", files[3], "--gt", files[1], "--out", str(out), *options]) == 0
    expected = suppress(sets[1], GaussianSoftNms() if soft else HardNms(), max_detections=100)
    content = out.read_bytes()
    rows = json.loads(gzip.decompress(content) if name.endswith("gz") else content)
    assert rows == results_content(expected)
    assert f"{len(expected)} of 2500 candidates kept by " in capsys.readouterr().out
    assert len(read_detections(out, read_ground_truth(Path(files[1])))) == len(expected)


def test_nms_keeps_all_and_above_on_demand(sets, files, tmp_path):
    """`--max-detections 0` has no cap, and `--score-threshold` decides what is a candidate."""
    out = tmp_path / "d.json"
    options = ["--max-detections", "0", "--score-threshold", "0.5", "--nms", "0.9"]
    assert main(["nms", "--candidates", files[3], "--out", str(out), *options]) == 0
    expected = suppress(sets[1], HardNms(nms_iou=0.9), score_threshold=0.5)
    assert json.loads(out.read_text()) == results_content(expected)
    assert np.bincount(expected.image_id).max() > 100


def test_nms_recall_of_what_nms_kept_is_whole(files, tmp_path, capsys):
    """Detections put through the same NMS again lose nothing."""
    out = str(tmp_path / "d.json")
    assert main(["nms", "--candidates", files[3], "--out", out, "--max-detections", "0"]) == 0
    capsys.readouterr()
    rows = rows_of(capsys, ["nms-recall", *files[:2], "--candidates", out, "--resamples", "0"])
    assert {row["nr"] for row in rows[:20]} <= {1.0, None} and rows[0]["nr"] == 1.0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["nms-recall", "--nms", "0.5", "50"], "--nms must lie in [0, 1], got 50.0"),
        (["nms-recall", "--soft-nms", "gaussian", "--sigma=0"], "--sigma must be greater than 0"),
        (["nms-recall", "--score-threshold=-0.1"], "--score-threshold must be 0 or more"),
        (["nms-recall", "--score-threshold=nan"], "--score-threshold must be 0 or more"),
        (["nms-recall", "--max-candidates=-1"], "--max-candidates must not be negative"),
        (["nms-recall", "--resamples", "1"], "--resamples must be at least 2 (or 0"),
        (["nms", "--out", "d.csv"], "--out must end with .json or .json.gz"),
        (["nms", "--out", "d.json", "--max-detections=-1"], "--max-detections must not be negative"),
        (["nms", "--out", "d.json", "--nms", "nan"], "--nms must lie in [0, 1]"),
    ],
)
def test_options_that_mean_nothing_are_refused(files, command, message, tmp_path, monkeypatch, capsys):
    """One line with the remedy, status 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    given = files if command[0] == "nms-recall" else files[2:]
    assert main([command[0], *given, *command[1:]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_nms_checks_ids_where_it_can(files, tmp_path, capsys):
    """With a ground truth unknown images are refused; without one they cannot be known."""
    content = [{"image_id": 999, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.9}]
    found, out = tmp_path / "c.json", tmp_path / "d.json"
    found.write_text(json.dumps(content))
    assert main(["nms", "--candidates", str(found), "--out", str(out)]) == 0
    assert main(["nms", "--candidates", str(found), "--out", str(out), "--gt", files[1]]) == 2
    assert "image id 999" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "nms-recall", "nms"])
def test_parquet_without_pyarrow_is_one_line(files, command, tmp_path, monkeypatch, capsys):
    """It says what to install, with exit status 2."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1")
    option = "--detections" if command == "evaluate" else "--candidates"
    extra = ["--out", str(tmp_path / "d.json")] if command == "nms" else []
    assert main([command, *files[:2], option, str(path), *extra]) == 2
    error = capsys.readouterr().err
    assert "pip install pyarrow" in error and error.count("\n") == 1


def test_no_candidates_leave_nr_undefined(sets):
    """Where nothing is found before NMS there is no ratio, and no interval of one."""
    empty = suppress(sets[1], HardNms(), score_threshold=2.0)
    frame = recall_frame(sets[0], empty, [HardNms(), GaussianSoftNms()], num_resamples=5)
    assert frame[["nr", "low", "high", "difference"]].isna().all(axis=None)
    assert (frame["recall_before"] == 0).all()
    assert math.isnan(recall_frame(sets[0], empty, [HardNms()], base=NmsRecallDefinition(), num_resamples=0)["nr"][0])


def test_what_is_undefined_is_a_dash_in_the_text(sets):
    """Without candidates, or without an object, every ratio is undefined: a dash for people, and never `nan`."""
    empty = suppress(sets[1], HardNms(), score_threshold=2.0)
    crowds = dataclasses.replace(sets[0], iscrowd=np.ones(len(sets[0].iscrowd), bool))
    for ground_truth, candidates in ((sets[0], empty), (crowds, sets[1])):
        text = recall_text(recall_frame(ground_truth, candidates, [HardNms(), GaussianSoftNms()], num_resamples=5))
        assert "nan" not in text
        assert text.splitlines()[-1].split()[-4:] == ["-"] * 4
