"""`freeanchor evaluate`: every number with an interval and what it rests on, from plain files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles.plain_files import ground_truth_content, random_sets, results_content, write_files

from analysis.coco.record import STATISTICS, coco_statistics
from analysis.evaluation.breakdowns import category_counts, objects_per_image
from analysis.evaluation.evaluate import evaluation_frame
from analysis.evaluation.matching import match_detections
from analysis.evaluation.precision import average_precision, class_precision, precision_curves
from analysis.evaluation.statistics import bootstrap
from experiments.cli import main

COLUMNS = ["metric", "label", "value", "low", "high", "num_objects", "num_images"]


@pytest.fixture(scope="module")
def sets():
    """A ground truth and a detector."""
    return random_sets()


@pytest.fixture
def files(tmp_path: Path, sets) -> list[str]:
    """The options that name the same as files."""
    gt, found = write_files(tmp_path, *sets)
    return ["--gt", gt, "--detections", found]


@pytest.fixture(scope="module")
def frame(sets) -> pd.DataFrame:
    """All metrics, categories included, with few resamplings."""
    return evaluation_frame(*sets, num_resamples=100, per_category=True)


def test_the_twelve_statistics_come_first_and_are_the_record(sets, frame):
    """In COCO's order, with pycocotools' own values."""
    assert frame["metric"].tolist()[:12] == list(STATISTICS)
    expected = coco_statistics(*sets)
    np.testing.assert_array_equal(frame["value"][:12], [expected[name] for name in STATISTICS])


def test_every_defined_number_has_an_interval(frame):
    """Bounds are there exactly where the value is, in order, and inside what the metric can be."""
    assert (frame["low"].isna() == frame["value"].isna()).all()
    assert (frame["high"].isna() == frame["value"].isna()).all()
    defined = frame.dropna(subset=["value"])
    assert (defined["low"] <= defined["high"]).all()
    fractions = defined[~defined["metric"].str.contains("_minus_")]
    assert fractions[["low", "high"]].stack().between(0, 1).all()
    assert (defined["low"] < defined["high"]).sum() > 12


def test_the_interval_is_the_bootstrap_of_the_metric(sets, frame):
    """AP's bounds are those of resampling the images and evaluating again, bias taken off."""
    curves = precision_curves(match_detections(*sets))
    interval = bootstrap(
        lambda weights: average_precision(curves, weights),
        num_images=12, generator=np.random.default_rng(0), num_resamples=100, centred=True,
    )  # fmt: skip
    row = frame[frame["metric"] == "ap"].iloc[0]
    assert (row["low"], row["high"]) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_counts_stand_beside_each_breakdown(sets, frame):
    """Objects without crowd regions, and the images looked at; crowdedness bins add up to images with objects."""
    truth = sets[0]
    by_metric = frame.set_index("metric")
    counting = ~truth.iscrowd
    assert by_metric.loc["ap", "num_objects"] == counting.sum()
    assert by_metric.loc["ap", "num_images"] == 12
    small = counting & (truth.area <= 32**2)
    for name in ("ap_small", "ar_small"):
        assert by_metric.loc[name, "num_objects"] == small.sum()
        assert by_metric.loc[name, "num_images"] == len(set(truth.image_id[small].tolist()))
    bins = by_metric[by_metric.index.str.startswith("ap_objects")]
    assert bins["num_images"].sum() == (objects_per_image(truth) > 0).sum()
    assert bins["num_objects"].sum() == counting.sum()
    assert by_metric.loc[["ap_square", "ap_slender"], "num_objects"].notna().all()


def test_categories_have_their_names(sets, frame):
    """A row a category with its AP, counts and interval, their mean being AP; none unless asked for."""
    rows = frame[frame["metric"] == "ap_category"]
    expected = category_counts(sets[0])
    ap = class_precision(precision_curves(match_detections(*sets))).mean(axis=0)
    assert rows["label"].tolist() == expected["name"].tolist()
    np.testing.assert_allclose(rows["value"], ap)
    assert rows["num_objects"].tolist() == expected["num_objects"].tolist()
    assert rows["value"].mean() == pytest.approx(frame["value"][0])
    assert rows["low"].notna().all()
    assert not (evaluation_frame(*sets, num_resamples=0)["metric"] == "ap_category").any()


def test_without_resamplings_there_are_no_intervals(sets, frame):
    """0 resamplings: the same values, bounds undefined."""
    bare = evaluation_frame(*sets, num_resamples=0, per_category=True)
    assert bare[["low", "high"]].isna().all(axis=None)
    pd.testing.assert_series_equal(bare["value"], frame["value"])


def test_many_processes_change_nothing(sets, frame, monkeypatch):
    """Large input is shared out over processes, with the same numbers."""
    monkeypatch.setattr("analysis.evaluation.evaluate._SMALL", 1)
    monkeypatch.setattr("analysis.evaluation.evaluate.usable_processors", lambda: 2)
    shared = evaluation_frame(*sets, num_resamples=100, per_category=True)
    pd.testing.assert_frame_equal(shared, frame, atol=1e-12)


def test_progress_needs_a_terminal(sets, capfd, monkeypatch):
    """Without one stderr stays empty; with one the resamplings are counted up to the last."""
    evaluation_frame(*sets, num_resamples=20)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    evaluation_frame(*sets, num_resamples=20)
    assert "20/20" in capfd.readouterr().err


def test_json_csv_and_the_table_agree(files, tmp_path, capsys):
    """One frame in three forms; json has null, csv nothing, the table a dash where a number is undefined."""
    path = tmp_path / "new" / "out.csv"
    command = ["evaluate", *files, "--resamples", "10", "--per-category", "--csv", str(path)]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    written = pd.read_csv(path, keep_default_na=False, na_values=[""])
    assert list(rows[0]) == list(written.columns) == COLUMNS
    assert [row["metric"] for row in rows] == written["metric"].tolist()
    np.testing.assert_allclose([np.nan if row["value"] is None else row["value"] for row in rows], written["value"])
    assert [p.name for p in path.parent.iterdir()] == ["out.csv"]  # nothing half-written left
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == COLUMNS
    assert len(lines) == len(rows) + 1
    assert "nan" not in "".join(lines).lower() and "<NA>" not in "".join(lines)
    shown = {line.split()[0]: line.split()[1:] for line in lines[1:13]}
    ap = next(row for row in rows if row["metric"] == "ap")
    assert shown["ap"] == [f"{ap[key]:.4f}" for key in ("value", "low", "high")] + [str(ap["num_objects"]), "12"]


def test_size_may_be_decided_by_the_box(sets, tmp_path, capsys):
    """`--area box` changes what is small; without it the file's area decides."""
    content = ground_truth_content(sets[0])
    for item in content["annotations"]:
        item["area"] = 1.0
    paths = tmp_path / "gt.json", tmp_path / "d.json"
    paths[0].write_text(json.dumps(content))
    paths[1].write_text(json.dumps(results_content(sets[1])))
    small = {}
    for area in ("annotation", "box"):
        command = ["evaluate", "--gt", str(paths[0]), "--detections", str(paths[1]), "--resamples", "0", "--json"]
        assert main([*command, "--area", area]) == 0
        rows = {row["metric"]: row["num_objects"] for row in json.loads(capsys.readouterr().out)}
        small[area] = (rows["ap_small"], rows["ap"])
    assert small["annotation"][0] == small["annotation"][1]
    assert small["box"][0] < small["box"][1]


def test_what_was_mended_is_said_once_on_stderr(sets, tmp_path, capsys):
    """Missing areas and crowd flags, id 0, no detections: a line each, and the table on stdout all the same."""
    content = ground_truth_content(sets[0])
    for item in content["annotations"]:
        del item["area"], item["iscrowd"]
        item["id"] -= 1
    paths = tmp_path / "gt.json", tmp_path / "d.json"
    paths[0].write_text(json.dumps(content))
    paths[1].write_text("[]")
    command = ["--gt", str(paths[0]), "--resamples", "10"]
    assert main(["evaluate", *command, "--detections", str(paths[1])]) == 0
    captured = capsys.readouterr()
    notes = captured.err.splitlines()
    assert len(notes) == 4
    for note, word in zip(notes, ('no "area"', 'no "iscrowd"', "annotation id 0", "no detections"), strict=True):
        assert note.startswith("freeanchor: ") and word in note
    assert "ap_small" in captured.out
    assert main(["compare", *command, str(paths[1]), str(paths[1])]) == 0
    assert capsys.readouterr().err.splitlines() == notes  # the same file twice is said once


@pytest.mark.parametrize("resamples", ["1", "-5"])
def test_resamplings_that_make_no_interval_are_refused(files, resamples, capsys):
    """One resampling has no spread, fewer than none make no sense; one line, status 2."""
    assert main(["evaluate", *files, f"--resamples={resamples}"]) == 2
    error = capsys.readouterr().err
    assert "--resamples must be at least 2 (or 0, for no intervals)" in error and error.count("\n") == 1


def test_compare_writes_csv(files, tmp_path, capsys):
    """`compare --csv` holds the rows that `--json` prints."""
    path = tmp_path / "out.csv"
    assert main(["compare", *files[:2], files[3], files[3], "--resamples", "5", "--json", "--csv", str(path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert pd.read_csv(path)["metric"].tolist() == [row["metric"] for row in rows]


def test_a_csv_that_cannot_be_written_is_one_line(files, tmp_path, capsys):
    """A folder in the file's place."""
    (tmp_path / "out.csv").mkdir()
    assert main(["evaluate", *files, "--resamples", "0", "--csv", str(tmp_path / "out.csv")]) == 2
    error = capsys.readouterr().err
    assert "out.csv" in error and error.count("\n") == 1


def test_a_folder_in_the_place_of_the_csv_is_one_line(files, tmp_path, monkeypatch, capsys):
    """`--csv` with a folder, or with the one we are in: status 2, what and how to fix it, nothing written."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for folder in (str(tmp_path), "."):
        assert main(["evaluate", *files, "--resamples", "0", "--csv", folder]) == 2
        error = capsys.readouterr().err
        assert "is a folder; give the name of a file in it" in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_check_runs_pycocotools_beside_it(files, capsys, monkeypatch):
    """With --check the same answer comes once pycocotools agrees; a difference is our bug, and says which statistic."""
    assert main(["evaluate", *files, "--resamples", "0", "--json"]) == 0
    plain = capsys.readouterr().out
    assert main(["evaluate", *files, "--resamples", "0", "--json", "--check"]) == 0
    assert capsys.readouterr().out == plain
    monkeypatch.setattr("analysis.evaluation.evaluate.coco_statistics", lambda *sets: dict.fromkeys(STATISTICS, 0.123))
    assert main(["evaluate", *files, "--resamples", "0", "--check"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("freeanchor: --check: ap is ") and error.endswith("please report this\n")
    assert error.count("\n") == 1
