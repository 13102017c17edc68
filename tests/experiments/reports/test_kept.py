"""Kept runs are small, the same every time, and enough for all reports without a training; models are rounded."""

import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pandas as pd
import pytest
import torch
from miniature import Mini, fabricate

from experiments.cli import main
from experiments.registry.build import build_profile
from experiments.registry.profile import Cell
from experiments.reports.catalogue import REPORTS
from experiments.reports.kept import FOLDER, pack_runs, unpack_runs, write_models
from experiments.runs.bags import has_bags
from experiments.runs.cost import cost_file
from experiments.runs.learning import can_be_asked, learning_stage
from experiments.runs.store import Store, is_measured
from experiments.runs.testing import predict_stage
from freeanchor.checkpoints.native import load_model
from freeanchor.errors import BusyError, CheckpointError, DownloadError, UsageError
from freeanchor.files import alone_at
from freeanchor.runtime import Runtime

RUN = "freeanchor-small-s0"


def _files(folder: Path) -> dict[str, bytes]:
    """All files under a folder with what they hold."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def kept(mini: Mini, tmp_path: Path) -> Path:
    """The miniature's runs, kept in `reports`."""
    list(pack_runs(mini.profile, mini.store, tmp_path / "reports"))
    return tmp_path / "reports" / mini.profile.report_name / FOLDER


@pytest.fixture
def elsewhere(mini: Mini, tmp_path: Path) -> Store:
    """An empty store beside the same drawn data."""
    return replace(mini.store, runs=tmp_path / "elsewhere")


@pytest.fixture
def fabricated(empty_store: Store) -> Mini:
    """A profile one run of which has numbers, none of them measured."""
    profile = build_profile("shapes", num_seeds=2)
    fabricate(profile, empty_store, "freeanchor-small-n40-s0", 0.4)
    return Mini(profile=profile, store=empty_store)


def test_what_is_packed_is_what_was_measured(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """Each file of a run but weights comes back as it was, under the folder's own name; nothing hidden is taken."""
    evaluation = mini.profile.evaluations[RUN]
    source = evaluation.training.directory(mini.store.runs)
    (source / ".left.tmp").write_text("half")
    try:
        list(pack_runs(mini.profile, mini.store, tmp_path / "reports"))
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    finally:
        (source / ".left.tmp").unlink()
    expected = {name: content for name, content in _files(source).items() if not name.endswith(".safetensors")}
    assert _files(evaluation.training.directory(elsewhere.runs)) == expected
    assert {"train.json", "metrics.jsonl"} < set(expected)
    assert is_measured(evaluation, elsewhere)


def _pack(fabricated: Mini, tmp_path: Path) -> Path:
    """The zip of the one run that there is."""
    (line,) = pack_runs(fabricated.profile, fabricated.store, tmp_path)
    path = Path(line.split(": ")[0])
    assert line == f"{path}: {path.stat().st_size:,} bytes"
    return path


def test_packing_again_leaves_what_has_not_changed(fabricated: Mini, tmp_path: Path) -> None:
    """The same bytes from the same run, whenever it was run; another measurement is another zip."""
    path = _pack(fabricated, tmp_path)
    first, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert _pack(fabricated, tmp_path) == path
    assert path.stat().st_mtime_ns == changed
    path.unlink()
    measured = next(fabricated.store.runs.rglob("measurements.csv"))
    os.utime(measured, (1_500_000_000, 1_500_000_000))
    assert _pack(fabricated, tmp_path).read_bytes() == first
    measured.write_text(measured.read_text().replace("0.4", "0.5"))
    _pack(fabricated, tmp_path)
    assert b"0.5" in _zipped(path)[measured.relative_to(fabricated.store.runs / "shapes").as_posix()]


def test_published_checkpoints_are_not_asked_who_learns(empty_store: Store) -> None:
    """Measured, their weights there: packing asks about their bags alone, since nobody knows what assigned anchors."""
    profile = build_profile("coco", chosen="zoo")
    (run, _) = profile.pair
    fabricate(profile, empty_store, run, 0.4)
    training = profile.evaluations[run].training
    empty_store.network(training).touch()
    assert has_bags(profile.evaluations[run], empty_store)
    assert not can_be_asked(profile.evaluations[run], empty_store)


def test_runs_of_the_grids_are_asked_too(mini: Mini, tmp_path: Path) -> None:
    """One that no pair compares, but a cell of the two by two has: its bags are kept, who learns there is not asked."""
    retinanet, _ = mini.profile.pair
    store = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, store.runs)
    for path in [*store.runs.rglob("bag*.csv"), *store.runs.rglob("learning.csv")]:
        path.unlink()
    cells = (Cell(grid="any", detector="FreeAnchor", bag_size=50, runs=(RUN,)),)
    profile = replace(mini.profile, comparisons={"small": ((retinanet, retinanet),)}, grids=cells)
    list(pack_runs(profile, store, tmp_path / "reports"))
    names = {path.name for path in profile.evaluations[RUN].directory(store.runs).iterdir()}
    assert {"bags.csv", "bag_boxes.csv"} < names and "learning.csv" not in names


def _zipped(path: Path) -> dict[str, bytes]:
    """What a zip holds by name."""
    with ZipFile(path) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_zip_is_written_anew(fabricated: Mini, tmp_path: Path, harm: str) -> None:
    """One that an interrupted copy, or a bad disk, left is not taken for what it should hold."""
    path = _pack(fabricated, tmp_path)
    whole = path.read_bytes()
    flipped = whole[:100] + bytes(byte ^ 0xFF for byte in whole[100:140]) + whole[140:]
    path.write_bytes({"cut": whole[: len(whole) // 2], "flipped": flipped}[harm])
    assert _pack(fabricated, tmp_path).read_bytes() == whole


def test_a_test_that_the_store_has_no_more_stays_kept(fabricated: Mini, tmp_path: Path) -> None:
    """The zip may hold the only copy; once the run was trained again, what it found before is of other weights."""
    path = _pack(fabricated, tmp_path)
    directory = next(fabricated.store.runs.rglob("train.json")).parent
    test = next(directory.glob("val-*"))
    (test / "curve.csv").write_text("step")
    name = f"{directory.name}/{test.name}/curve.csv"
    _pack(fabricated, tmp_path)
    (test / "curve.csv").unlink()
    assert _zipped(_pack(fabricated, tmp_path))[name] == b"step"
    (directory / "train.json").write_text((directory / "train.json").read_text().replace("120.0", "121.0"))
    assert name not in _zipped(_pack(fabricated, tmp_path))
    assert path.exists()


def test_runs_of_other_configurations_stay_and_are_named(fabricated: Mini, tmp_path: Path) -> None:
    """The same run under another fingerprint is said to be there; runs with longer names are other runs."""
    path = _pack(fabricated, tmp_path)
    forerunner = path.with_name("freeanchor-small-n40-s0-0123456789.zip")
    namesake = path.with_name("freeanchor-small-n40-s0-wide-0123456789.zip")
    for other in (forerunner, namesake):
        other.write_bytes(b"")
    lines = list(pack_runs(fabricated.profile, fabricated.store, tmp_path))
    assert lines[1:] == [f"{forerunner}: of another configuration or other data, left"]
    assert all(it.exists() for it in (forerunner, namesake, path))


def test_models_that_no_report_has_asked_yet_are_asked(mini: Mini, elsewhere: Store, tmp_path: Path) -> None:
    """Weights are gone once a run is packed: bags, who learns there and the galleries are in it whatever was drawn."""
    asked, unasked = (replace(mini.store, runs=tmp_path / name) for name in ("asked", "unasked"))
    shutil.copytree(mini.store.runs, asked.runs)
    for run in mini.profile.pair:
        learning_stage(mini.profile.evaluations[run], asked)
    shutil.copytree(asked.runs, unasked.runs)
    of_bags = ("bags.csv", "positions.csv", "bag_boxes.csv", "learning.csv", "shares.csv")
    for name in (*of_bags, "gallery_slender.csv", "gallery_crowded.csv"):
        for path in unasked.runs.rglob(name):
            path.unlink()
    list(pack_runs(mini.profile, unasked, tmp_path / "reports"))
    list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    runs = {name: data for name, data in _files(asked.runs).items() if name.startswith(("mini/free", "mini/retina"))}
    assert _files(elsewhere.runs) == {name: data for name, data in runs.items() if not name.endswith(".safetensors")}
    name = "gallery_slender"  # that every report comes out again is in tests/test_end_to_end.py
    pngs = [
        REPORTS[name].write(mini.profile, store, tmp_path / store.runs.name).with_suffix(".png").read_bytes()
        for store in (mini.store, elsewhere)
    ]
    assert pngs[0] == pngs[1]


def test_hidden_images_keep_their_galleries_boxes(mini: Mini, kept: Path, tmp_path: Path) -> None:
    """Labelled boxes of the galleries belong to whom the images do: left out, of an earlier zip too."""
    assert any("/gallery_" in name for path in kept.glob("*.zip") for name in _zipped(path))
    list(pack_runs(mini.profile, replace(mini.store, images=False), tmp_path / "reports"))
    assert not any("/gallery_" in name for path in kept.glob("*.zip") for name in _zipped(path))


def test_nothing_measured_is_nothing_to_pack(empty_store: Store, tmp_path: Path) -> None:
    """One line, and no folder."""
    with pytest.raises(UsageError, match="none of the profile's runs is measured yet"):
        list(pack_runs(build_profile("shapes"), empty_store, tmp_path / "reports"))
    assert not (tmp_path / "reports").exists()


def test_unfinished_tests_are_left_out(fabricated: Mini, tmp_path: Path) -> None:
    """What another process is about to write beside them has no marker yet."""
    directory = next(fabricated.store.runs.rglob("train.json")).parent
    (directory / "val-0000000000").mkdir()
    (directory / "val-0000000000" / "detections.json").write_text("[")
    assert not [name for name in _zipped(_pack(fabricated, tmp_path)) if "0000000000/" in name]


def test_runs_that_are_there_stay(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """A training that goes on is not overwritten by an older one of the same fingerprint."""
    directory = mini.profile.evaluations[RUN].training.directory(elsewhere.runs)
    directory.mkdir(parents=True)
    (directory / "state.safetensors").write_bytes(b"at step 7")
    said = dict(line.split(": ") for line in unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    assert said[directory.name] == "is there already"
    assert _files(directory) == {"state.safetensors": b"at step 7"}
    assert sorted(value.split(",")[0] for value in said.values()) == ["is there already", "unpacked"]


def test_runs_of_other_data_are_refused(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """Where none is of this configuration there is an error that says what to look at; where some are, a word each."""
    names = sorted(path.stem for path in kept.glob("*.zip"))
    first, second = (kept / f"{name}.zip" for name in names)
    other = kept / f"{RUN}-0123456789.zip"
    first.rename(other) if first.stem.startswith("freeanchor") else second.rename(other)
    unasked = kept / "freeanchor-small-s7-0123456789.zip"
    shutil.copy(other, unasked)
    said = dict(line.split(": ") for line in unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    assert said[other.stem] == "left, kept of another configuration or other data"
    assert said[unasked.stem] == "left, not asked for (SEEDS?)"
    for path in kept.glob("retinanet*.zip"):
        path.unlink()
    with pytest.raises(UsageError, match="none of its 2 kept runs is of this data and configuration; give DATA"):
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    with pytest.raises(UsageError, match="holds no kept runs; make pack"):
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "nowhere"))


def test_tests_that_were_not_kept_are_named(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """A zip without any test that this version knows is left; one without some of them says which need a training."""
    profile, evaluation = mini.profile, mini.profile.evaluations[RUN]
    twice = replace(evaluation, name="freeanchor-twice", inference=replace(evaluation.inference, max_detections=7))
    more = replace(profile, evaluations={**profile.evaluations, twice.name: twice})
    said = list(unpack_runs(more, elsewhere, tmp_path / "reports"))
    assert [line for line in said if line.endswith("; without its test freeanchor-twice, which needs a training")]
    other = replace(profile, evaluations={**profile.evaluations, RUN: replace(twice, name=RUN)})
    nowhere = replace(elsewhere, runs=tmp_path / "nowhere")
    said = list(unpack_runs(other, nowhere, tmp_path / "reports"))
    assert [line for line in said if line.endswith("left, tested by another version of this program")]
    assert not list(nowhere.runs.rglob(f"{RUN}-*"))


def test_a_training_under_way_is_not_unpacked_over(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """One that has just taken its folder, and written nothing yet, keeps it."""
    directory = mini.profile.evaluations[RUN].training.directory(elsewhere.runs)
    with alone_at(directory), pytest.raises(BusyError, match="another process is at work"):
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    assert not list(directory.glob("*"))


def test_times_that_are_there_stay(mini: Mini, elsewhere: Store, tmp_path: Path) -> None:
    """Steps that were timed here are not replaced by those of another machine; where there are none, these are taken."""
    pair = mini.profile.pair
    for store, times in ((mini.store, "theirs"), (elsewhere, "ours")):
        cost_file(mini.profile, pair, store).parent.mkdir(parents=True, exist_ok=True)
        cost_file(mini.profile, pair, store).write_text(times)
    try:
        list(pack_runs(mini.profile, mini.store, tmp_path / "reports"))
    finally:
        cost_file(mini.profile, pair, mini.store).unlink()
    list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    assert cost_file(mini.profile, pair, elsewhere).read_text() == "ours"
    cost_file(mini.profile, pair, elsewhere).unlink()
    list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    assert cost_file(mini.profile, pair, elsewhere).read_text() == "theirs"


def test_a_damaged_kept_run_is_named_and_stays(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """Nothing of it gets into the store; the file is somebody's, and not ours to remove."""
    for path in kept.glob("*.zip"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"is damaged \(.*\); take it again from where it came from"):
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    assert len(list(kept.glob("*.zip"))) == 2
    assert not list((elsewhere.runs / mini.profile.name).iterdir())


def test_a_kept_run_that_swells_is_refused_by_its_list(
    mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path
) -> None:
    """Its members are named without being read: memory stays far below what they would take."""
    (path, *_) = sorted(kept.glob(f"{RUN}-*.zip"))
    with ZipFile(path, "a", ZIP_DEFLATED) as bundle:
        bundle.writestr(f"{path.stem}/log.csv", bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(DownloadError, match=r"\.zip: swells from [\d,]+ bytes to more than [\d,]+, the limit .*;"):
            list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert not list(elsewhere.runs.rglob(f"{path.stem}*"))


def test_what_needs_weights_says_that_they_are_gone(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """Testing an unpacked run anew is refused with what to do, and so are its snapshots."""
    list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    evaluation = mini.profile.evaluations[RUN]
    (evaluation.directory(elsewhere.runs) / "predict.json").unlink()
    with pytest.raises(CheckpointError, match=r"its weights are not there .*; remove the folder to train it again"):
        predict_stage(evaluation, elsewhere, Runtime(precision="float32"))
    (evaluation.directory(elsewhere.runs) / "bags.csv").unlink()
    with pytest.raises(CheckpointError, match="its snapshots are not there"):
        REPORTS["concentration"].write(mini.profile, elsewhere, tmp_path / "after")


def test_the_front_door_packs_and_unpacks(mini: Mini, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands name what they did; without kept runs, one line and status 2."""
    drawn = ["--profile", "mini", "--drawn", str(mini.store.drawn), "--reports", str(tmp_path)]
    assert main(["unpack", *drawn, "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["pack", *drawn, "--runs", str(mini.store.runs)]) == 0
    assert f"{RUN}-" in capsys.readouterr().out
    assert main(["unpack", *drawn, "--runs", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.count("unpacked, ") == 2
    record = json.loads(next((tmp_path / "runs").rglob(f"{RUN}-*/train.json")).read_text())
    assert record["fingerprint"] == mini.profile.evaluations[RUN].training.fingerprint


def test_rounded_models_load_and_agree(mini: Mini, tmp_path: Path) -> None:
    """Finished models and FreeAnchor's snapshots are there, of half the size, and predict the same within rounding."""
    profile = mini.profile
    write_models(profile, mini.store, tmp_path / "models")
    frame = pd.read_csv(tmp_path / "models.csv")
    retinanet, freeanchor = profile.pair
    assert list(frame["run"].value_counts().loc[[retinanet, freeanchor]]) == [1, 4]
    for row in frame.itertuples():
        assert (tmp_path / row.file).stat().st_size == row.bytes
    finished = frame[frame["ap"].notna()]
    assert list(finished["file"]) == [f"models/{run}/model.safetensors" for run in profile.pair]
    ours, detector = load_model(tmp_path / f"models/{freeanchor}/model.safetensors")
    theirs, same = load_model(profile.evaluations[freeanchor].training.directory(mini.store.runs) / "model.safetensors")
    assert detector == same
    assert next(ours.parameters()).dtype == torch.float32
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(images).logits, theirs(images).logits, atol=0.02)
    largest = profile.evaluations[freeanchor].training.directory(mini.store.runs) / "model.safetensors"
    assert finished["bytes"].max() < 0.6 * largest.stat().st_size


def test_what_was_not_trained_is_not_there(mini: Mini, tmp_path: Path) -> None:
    """Of models that were never trained: an empty list, no files."""
    untrained = tuple(run for run in mini.profile.evaluations if "-large-" in run and "-2x" not in run)
    write_models(replace(mini.profile, examples=untrained), mini.store, tmp_path / "models")
    assert pd.read_csv(tmp_path / "models.csv").empty
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unpacked_run_leaves_its_earlier_files(mini: Mini, tmp_path: Path) -> None:
    """Without weights the lines and files of an earlier list stay, if they are of what was measured; else none do."""
    profile = mini.profile
    write_models(profile, mini.store, tmp_path / "models")
    before = (tmp_path / "models.csv").read_text()
    bare = replace(mini.store, runs=tmp_path / "runs")
    shutil.copytree(mini.store.runs, bare.runs, ignore=shutil.ignore_patterns("*.safetensors"))
    write_models(profile, bare, tmp_path / "models")
    assert (tmp_path / "models.csv").read_text() == before
    assert len(list((tmp_path / "models").rglob("*.safetensors"))) == len(pd.read_csv(tmp_path / "models.csv"))
    measured = profile.evaluations[profile.pair[0]].directory(bare.runs) / "measurements.csv"
    frame = pd.read_csv(measured)
    frame.loc[frame["metric"] == "ap", "value"] += 0.01
    frame.to_csv(measured, index=False)
    write_models(profile, bare, tmp_path / "models")
    assert set(pd.read_csv(tmp_path / "models.csv")["run"]) == {profile.pair[1]}
    write_models(profile, bare, tmp_path / "nowhere")
    assert pd.read_csv(tmp_path / "nowhere.csv").empty
