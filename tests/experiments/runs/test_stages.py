"""Stages: what each leaves behind, that a marker means done, and that nothing is done twice."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import Mini

from analysis.coco.reading import read_ground_truth
from analysis.evaluation.nms_recall import ObjectRecall
from experiments.cli import main
from experiments.registry.config import Evaluation
from experiments.reports.index import run_records
from experiments.runs import measured, testing, training
from experiments.runs.bags import bag_boxes_stage, bags_stage, choose_objects
from experiments.runs.measured import compare_stage, measure_stage
from experiments.runs.store import Store
from experiments.runs.testing import RECALL_COLUMNS, curve_stage, predict_stage
from experiments.runs.training import data_stage, train_stage
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import Split, read_split
from freeanchor.errors import DataError
from freeanchor.files import read_json
from freeanchor.runtime import Runtime


@pytest.fixture
def run(mini: Mini) -> Evaluation:
    """The FreeAnchor of the miniature."""
    return mini.profile.evaluations["freeanchor-small-s0"]


def _chosen_from(mini: Mini, run: Evaluation) -> tuple[Split, dict[int, tuple[float, float]]]:
    """The validation split, and where each object's discriminative part lies."""
    split = read_split(mini.store.data(run.training), "val")
    content = read_json(split.annotations)
    return split, {item["id"]: tuple(item["part"]) for item in content["annotations"]}


def _refuse(*_arguments: object, **_keywords: object) -> None:
    raise AssertionError("done a second time")


def test_training_leaves_a_model_and_its_record(mini: Mini, run: Evaluation) -> None:
    """The model describes itself, the record says how it came about, and the state to resume from is gone."""
    directory = run.training.directory(mini.store.runs)
    model, detector = load_model(directory / "model.safetensors")
    assert model.config == detector.model == run.training.model
    assert detector.inputs == run.training.inputs
    record = read_json(directory / "train.json")
    assert record["fingerprint"] == run.training.fingerprint
    assert record["config"] == json.loads(run.training.describe())
    assert record["seconds"] > 0
    assert {"commit", "date", "hardware", "torch"} <= set(record["provenance"])
    assert not (directory / "state.safetensors").exists()
    snapshots = sorted(path.name for path in (directory / "snapshots").iterdir())
    assert snapshots == [f"step-{step:06d}.safetensors" for step in (1, 4, 12, 40)]
    assert [path for path in directory.rglob("*") if path.name.endswith((".tmp", ".partial"))] == []


def test_predicting_leaves_coco_results_and_each_objects_recall(mini: Mini, run: Evaluation) -> None:
    """Detections name known images and categories; recall has a row for every object that is no crowd."""
    directory = run.directory(mini.store.runs)
    split = read_split(mini.store.data(run.training), "val")
    detections = read_json(directory / "detections.json")
    assert {row["image_id"] for row in detections} <= {image.image_id for image in split.images}
    assert {row["category_id"] for row in detections} <= set(split.category_ids)
    for row in detections:
        x, y, width, height = row["bbox"]
        assert 0 <= x <= x + width <= 128.01
        assert 0 <= y <= y + height <= 128.01
        assert 0.05 < row["score"] <= 1
    recall = pd.read_csv(directory / "object_recall.csv")
    expected = [number for image in split.images for number in image.annotation_ids.tolist()]
    assert recall["annotation_id"].tolist() == expected
    assert bool(recall[list(RECALL_COLUMNS[2:])].stack().between(0, 1).all())
    for before, after in (("before", "after"), ("before", "after_capped"), ("before_same_class", "after_same_class")):
        ObjectRecall(
            image_id=recall["image_id"].to_numpy(),
            annotation_id=recall["annotation_id"].to_numpy(),
            iou_before=recall[before].to_numpy(dtype=float),
            iou_after=recall[after].to_numpy(dtype=float),
        )  # refuses an IoU that grew
    assert read_json(directory / "predict.json")["num_pictures"] == len(split.images)


def test_measuring_leaves_numbers_and_matches(mini: Mini, run: Evaluation) -> None:
    """Training time beside the metrics, and the bags of the chosen objects at each snapshot."""
    directory = run.directory(mini.store.runs)
    frame = pd.read_csv(directory / "measurements.csv").set_index("metric")
    seconds = read_json(run.training.directory(mini.store.runs) / "train.json")["seconds"]
    assert frame.loc["training_seconds", "value"] == pytest.approx(seconds)
    assert {"ap", "ar_100", "nr", "nr_90_class_aware_capped", "recall_before_50", "ap_category"} <= set(frame.index)
    matches = pd.read_csv(directory / "matches.csv")
    chosen = choose_objects(*_chosen_from(mini, run))
    assert set(matches["annotation_id"]) == {annotation_id for _, annotation_id in chosen}
    np.testing.assert_allclose(matches.groupby(["annotation_id", "step"])["weight"].sum(), 1, atol=1e-4)
    assert matches["part_x"].notna().all()


def test_chosen_objects_are_large_and_their_parts_off_centre(mini: Mini, run: Evaluation) -> None:
    """By the rule on the ground truth: at most 4:3, in uncrowded images, parts off centre first, then largest."""
    split, parts = _chosen_from(mini, run)
    rows = []
    for image in split.images:
        for number, (x1, y1, x2, y2) in zip(image.annotation_ids.tolist(), image.boxes.tolist(), strict=True):
            width, height = x2 - x1, y2 - y1
            part_x, part_y = parts[number]
            distance = ((part_x - (x1 + x2) / 2) ** 2 + (part_y - (y1 + y2) / 2) ** 2) ** 0.5
            is_off_centre = distance > 0.25 * (width**2 + height**2) ** 0.5
            if len(image.boxes) <= 6 and max(width / height, height / width) <= 4 / 3:
                rows.append((not is_off_centre, -width * height, number, image.image_id))
    expected, seen = [], set()
    for *_, number, image_id in sorted(rows):
        if image_id not in seen:
            expected.append(number)
            seen.add(image_id)
    assert expected
    assert [number for _, number in choose_objects(split, parts)] == expected[:4]


def test_objects_are_chosen_without_parts_too(mini: Mini, run: Evaluation) -> None:
    """Photographs record no parts: the largest objects are shown, each from an image of its own."""
    split, _ = _chosen_from(mini, run)
    chosen = choose_objects(split, {}, count=3)
    assert len({image.image_id for image, _ in chosen}) == 3


def test_nothing_is_done_twice(mini: Mini, run: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its marker there, each stage returns at once and leaves every byte as it is."""
    directory = run.training.directory(mini.store.runs)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    work = {training: ("train",), testing: ("predict", "load_model"), measured: ("measure", "matches_frame")}
    for module, names in work.items():
        for name in names:
            monkeypatch.setattr(module, name, _refuse)
    train_stage(run.training, mini.store, Runtime())
    predict_stage(run, mini.store, Runtime())
    measure_stage(run, mini.store)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


def test_a_marker_is_touched_when_it_is_met(mini: Mini, run: Evaluation) -> None:
    """Make must see it as younger than what it is made from, or it would ask again for ever."""
    marker = run.training.directory(mini.store.runs) / "train.json"
    os.utime(marker, (1, 1))
    train_stage(run.training, mini.store, Runtime())
    assert marker.stat().st_mtime > 1_000_000_000


def test_without_its_marker_a_stage_is_done_again(mini: Mini, run: Evaluation, tmp_path: Path) -> None:
    """Interrupted after its results but before its marker: the same results once more, byte for byte."""
    copy = Store(runs=tmp_path / "runs", drawn=mini.store.drawn)
    source, target = run.training.directory(mini.store.runs), run.training.directory(copy.runs)
    for path in (path for path in source.rglob("*") if path.is_file()):
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        (target / path.relative_to(source)).write_bytes(path.read_bytes())
    directory, original = run.directory(copy.runs), run.directory(mini.store.runs)
    for name in ("predict.json", "measurements.csv", "object_recall.csv"):
        (directory / name).unlink()
    predict_stage(run, copy, Runtime(precision="float32"))
    measure_stage(run, copy)
    for name in ("detections.json", "object_recall.csv", "measurements.csv", "matches.csv"):
        assert (directory / name).read_bytes() == (original / name).read_bytes()


def test_comparisons_are_computed_once(mini: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept under both fingerprints: asked again, they are read."""
    first, second = (mini.profile.evaluations[name] for name in mini.profile.pair)
    store = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, store.runs, ignore=shutil.ignore_patterns("comparisons"))
    frame = compare_stage(first, second, store)
    assert set(frame.columns) == {"metric", "value", "low", "high"}
    monkeypatch.setattr(measured, "compare", _refuse)
    pd.testing.assert_frame_equal(frame, compare_stage(first, second, store))
    with pytest.raises(AssertionError, match="second time"):
        compare_stage(second, first, store)  # the other way round is another comparison


def test_a_run_that_found_something_else_is_compared_anew(mini: Mini, tmp_path: Path) -> None:
    """A folder removed and trained again, or unpacked, has the fingerprint that it had: what it found decides."""
    first, second = (mini.profile.evaluations[name] for name in mini.profile.pair)
    copy = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, copy.runs)
    before = compare_stage(first, second, copy)
    path = second.directory(copy.runs) / "detections.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found[::3]))
    assert not compare_stage(first, second, copy).equals(before)
    path.write_text(json.dumps(found))
    recall = pd.read_csv(second.directory(copy.runs) / "object_recall.csv")
    lost = {column: 0.0 for column in recall if column.startswith("after")}
    recall.assign(**lost).to_csv(second.directory(copy.runs) / "object_recall.csv", index=False)
    assert not compare_stage(first, second, copy).equals(before)


def test_drawing_twice_draws_once(mini: Mini, run: Evaluation) -> None:
    """The data set stands where its fingerprint says, complete, and is left alone."""
    path = mini.store.data(run.training) / "val.json"
    before = path.stat().st_mtime_ns
    assert data_stage(run.training, mini.store) == path
    assert path.stat().st_mtime_ns == before
    assert len(read_ground_truth(path).image_ids) == 16


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"seconds": 1.0, "finger',
    "zeros": b"\0" * 4096,
    "another value": b"[]\n",
    "without its fields": b"{}\n",
    "not text": b"\xff\xfe\x00",
}


@pytest.fixture
def own(mini: Mini, run: Evaluation, tmp_path: Path) -> Mini:
    """A copy of one run, to be damaged."""
    store = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(run.training.directory(mini.store.runs), run.training.directory(store.runs))
    return Mini(profile=mini.profile, store=store)


def _stages(own: Mini, run: Evaluation) -> None:
    train_stage(run.training, own.store, Runtime())
    predict_stage(run, own.store, Runtime())
    measure_stage(run, own.store)
    curve_stage(run, own.store, Runtime())
    bags_stage(run, own.store)
    bag_boxes_stage(run, own.store)
    run_records(own.profile, own.store)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_marker_is_no_finished_stage(own: Mini, run: Evaluation, damage: bytes) -> None:
    """Nor an unfinished one: it is named in one line, with what to remove, and stays as it is."""
    trained, tested = run.training.directory(own.store.runs), run.directory(own.store.runs)
    _stages(own, run)
    names = ("predict.json", "measurements.csv", "curve.csv", "bags.csv", "bag_boxes.csv")
    for path, removed in ((trained / "train.json", "it"), *((tested / name, str(tested)) for name in names)):
        whole = path.read_bytes()
        path.write_bytes(damage)
        remedy = rf"; remove {re.escape(removed)}, and the same command makes it again$"
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: damaged \([^\n]+\){remedy}"):
            _stages(own, run)
        assert path.read_bytes() == damage
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("train.json", r'"seconds": [\d.]+', '"seconds": "1"', "seconds is '1'"),
        ("train.json", r'"commit"', '"commits"', "it does not say where it comes from"),
        ("predict.json", r'"num_pictures": \d+', '"num_pictures": []', r"num_pictures is \[\]"),
        ("measurements.csv", r"(?m)^ap,[\d.]+", "ap,x", "its column value holds more than numbers"),
        ("measurements.csv", r"(?s)\n.*", "\n", "it has no rows"),
    ],
)
def test_a_marker_of_other_values_is_damaged(
    own: Mini, run: Evaluation, name: str, old: str, new: str, said: str
) -> None:
    """Its fields are there, and would end a report in the middle."""
    folder = (run.training if name == "train.json" else run).directory(own.store.runs)
    text = (folder / name).read_text()
    assert re.sub(old, new, text) != text
    (folder / name).write_text(re.sub(old, new, text))
    with pytest.raises(DataError, match=rf"{name}: damaged \({said}\); remove "):
        _stages(own, run)


def test_a_marker_of_another_run_is_refused(own: Mini, run: Evaluation) -> None:
    """A record copied beside another run's weights would make them its own."""
    path = run.training.directory(own.store.runs) / "train.json"
    path.write_text(path.read_text().replace(run.training.fingerprint, "0123456789"))
    with pytest.raises(DataError, match=r"it is of another run than freeanchor-small-s0-[0-9a-f]{10}\); remove it"):
        train_stage(run.training, own.store, Runtime())


def test_results_that_lost_a_file_are_made_again(own: Mini, run: Evaluation) -> None:
    """The marker tells that the stage has ended, not that nobody removed what it left."""
    paths = [run.directory(own.store.runs) / name for name in ("detections.json", "object_recall.csv")]
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    predict_stage(run, own.store, Runtime(precision="float32"))
    assert [path.read_bytes() for path in paths] == whole


def test_a_damaged_marker_ends_every_command_in_one_line(
    own: Mini, run: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 from the command line; a snapshot that is not the recipe's is not looked at."""
    places = ["--profile", "mini", "--runs", str(own.store.runs), "--drawn", str(own.store.drawn)]
    (run.training.directory(own.store.runs) / "snapshots" / "step-1000000.safetensors").write_bytes(b"")
    (run.directory(own.store.runs) / "curve.csv").unlink()
    assert main(["predict", run.name, *places, "--precision", "float32"]) == 0
    (run.training.directory(own.store.runs) / "train.json").write_bytes(b"")
    for command in ("train", "predict"):
        capsys.readouterr()
        assert main([command, run.name, *places]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("freeanchor: ")]
        assert "train.json: damaged (" in line
