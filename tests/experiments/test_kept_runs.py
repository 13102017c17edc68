"""Kept runs: small, the same every time, and enough to draw every report from again without weights or a training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest
from miniature import Mini, fabricate

from experiments.cli import main
from experiments.frames import is_measured
from experiments.kept_runs import FOLDER, pack_runs, unpack_runs
from experiments.registry import build_profile
from experiments.remote_file import DownloadError
from experiments.report import REPORTS, write_report
from experiments.stages import predict_stage
from experiments.store import Store
from experiments.usage import UsageError
from freeanchor.checkpoints import CheckpointError
from freeanchor.runtime import Runtime

RUN = "freeanchor-small-s0"


def _reports(mini: Mini, store: Store, folder: Path) -> dict[str, bytes]:
    """Every file of every report but the pdfs, which know their date."""
    for name in REPORTS:
        write_report(name, mini.profile, store, folder)
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pdf"}


def _files(folder: Path) -> dict[str, bytes]:
    """All files under a folder with what they hold."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def kept(mini: Mini, tmp_path: Path) -> Path:
    """The miniature's runs, kept in `reports`."""
    pack_runs(mini.profile, mini.store, tmp_path / "reports")
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


def test_every_report_comes_out_again_without_weights(mini: Mini, elsewhere: Store, tmp_path: Path) -> None:
    """Tables, figures and their csv, byte for byte; no file of weights is packed, and none is needed."""
    before = _reports(mini, mini.store, tmp_path / "before")
    pack_runs(mini.profile, mini.store, tmp_path)
    said = list(unpack_runs(mini.profile, elsewhere, tmp_path))
    assert len(said) == 2 and all("unpacked, " in line for line in said)
    assert not list(elsewhere.runs.rglob("*.safetensors"))
    assert _reports(mini, elsewhere, tmp_path / "after") == before
    assert {"gallery_slender.png", "figure4.png", "bag_boxes.csv", "claims.csv"} <= set(before)


def test_what_is_packed_is_what_was_measured(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """Each file of a run but weights comes back as it was, under the folder's own name; nothing hidden is taken."""
    evaluation = mini.profile.evaluations[RUN]
    source = evaluation.training.directory(mini.store.runs)
    (source / ".left.tmp").write_text("half")
    try:
        pack_runs(mini.profile, mini.store, tmp_path / "reports")
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    finally:
        (source / ".left.tmp").unlink()
    expected = {name: content for name, content in _files(source).items() if not name.endswith(".safetensors")}
    assert _files(evaluation.training.directory(elsewhere.runs)) == expected
    assert {"train.json", "metrics.jsonl"} < set(expected)
    assert is_measured(evaluation, elsewhere)


def test_packing_again_leaves_what_has_not_changed(fabricated: Mini, tmp_path: Path) -> None:
    """The same bytes from the same run, whenever it was run; another measurement is another zip."""
    (path,) = pack_runs(fabricated.profile, fabricated.store, tmp_path)
    first, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert pack_runs(fabricated.profile, fabricated.store, tmp_path) == [path]
    assert path.stat().st_mtime_ns == changed
    path.unlink()
    measured = next(fabricated.store.runs.rglob("measurements.csv"))
    measured.touch()
    pack_runs(fabricated.profile, fabricated.store, tmp_path)
    assert path.read_bytes() == first
    measured.write_text(measured.read_text().replace("0.4", "0.5"))
    pack_runs(fabricated.profile, fabricated.store, tmp_path)
    with ZipFile(path) as bundle:
        assert b"0.5" in bundle.read(measured.relative_to(fabricated.store.runs / "shapes").as_posix())


def test_a_damaged_zip_is_written_anew(fabricated: Mini, tmp_path: Path) -> None:
    """One that an interrupted copy left is not taken for what it should hold."""
    (path,) = pack_runs(fabricated.profile, fabricated.store, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    pack_runs(fabricated.profile, fabricated.store, tmp_path)
    assert path.read_bytes() == whole


def test_a_run_made_anew_replaces_its_forerunner(fabricated: Mini, tmp_path: Path) -> None:
    """The same run under another fingerprint goes, as its reports do; runs with longer names stay."""
    (path,) = pack_runs(fabricated.profile, fabricated.store, tmp_path)
    forerunner = path.with_name("freeanchor-small-n40-s0-0123456789.zip")
    namesake = path.with_name("freeanchor-small-n40-s0-wide-0123456789.zip")
    for other in (forerunner, namesake):
        other.write_bytes(b"")
    pack_runs(fabricated.profile, fabricated.store, tmp_path)
    assert (forerunner.exists(), namesake.exists(), path.exists()) == (False, True, True)


def test_nothing_measured_is_nothing_to_pack(empty_store: Store, tmp_path: Path) -> None:
    """One line, and no folder."""
    with pytest.raises(UsageError, match="none of the profile's runs is measured yet"):
        pack_runs(build_profile("shapes"), empty_store, tmp_path / "reports")
    assert not (tmp_path / "reports").exists()


def test_unfinished_tests_are_left_out(fabricated: Mini, tmp_path: Path) -> None:
    """What another process is about to write beside them has no marker yet."""
    directory = next(fabricated.store.runs.rglob("train.json")).parent
    (directory / "val-0000000000").mkdir()
    (directory / "val-0000000000" / "detections.json").write_text("[")
    (path,) = pack_runs(fabricated.profile, fabricated.store, tmp_path)
    with ZipFile(path) as bundle:
        assert not [name for name in bundle.namelist() if "0000000000/" in name]


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
    with pytest.raises(UsageError, match="none of its 2 kept runs is of this configuration and data; is DATA"):
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    with pytest.raises(UsageError, match="holds no kept runs; make pack"):
        list(unpack_runs(mini.profile, elsewhere, tmp_path / "nowhere"))


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


def test_what_needs_weights_says_that_they_are_gone(mini: Mini, kept: Path, elsewhere: Store, tmp_path: Path) -> None:
    """Testing an unpacked run anew is refused with what to do, and so are its snapshots."""
    list(unpack_runs(mini.profile, elsewhere, tmp_path / "reports"))
    evaluation = mini.profile.evaluations[RUN]
    (evaluation.directory(elsewhere.runs) / "predict.json").unlink()
    with pytest.raises(CheckpointError, match=r"its weights are not there .*; remove the folder to train it again"):
        predict_stage(evaluation, elsewhere, Runtime(precision="float32"))
    (evaluation.directory(elsewhere.runs) / "bags.csv").unlink()
    with pytest.raises(CheckpointError, match="its snapshots are not there"):
        write_report("concentration", mini.profile, elsewhere, tmp_path / "after")


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
