"""The command for a GPU, in miniature on a CPU: every stage writes its rows, an end in between loses none."""

import json
from pathlib import Path

import pandas as pd
import pytest
from oracles.coco_folder import write_both

from experiments.bench import cuda


def _run(out: Path, *options: str, minutes: float = 2.0) -> pd.DataFrame:
    cuda.main(["--out", str(out), "--device", "cpu", "--minutes", str(minutes), *options])
    return pd.read_csv(out / "results.csv")


def test_stages_write_their_rows_and_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, losses and loading; a second call adds only what is missing."""
    write_both(tmp_path / "data")
    frame = _run(tmp_path / "out", "--only", "environment,losses,loading", "--data", str(tmp_path / "data"))
    assert set(frame["group"]) == {"losses", "loading"}
    assert set(frame["subject"]) == {"copy", "loss", "sweep", "loading"}
    assert (frame["ours"] > 0).all()
    assert frame["aim"].isna().all()  # a miniature is judged by nobody
    known = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert known["kernels"] and known["torch"]
    assert "sigmoid_focal_loss" in (tmp_path / "out" / "results.md").read_text()

    def refuse(session: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setitem(cuda.STAGES, "losses", (refuse, 0.0))
    again = _run(tmp_path / "out", "--only", "losses")
    assert again["what"].tolist() == frame["what"].tolist()


def test_whole_loops_are_timed_beside_torchvisions(tmp_path: Path) -> None:
    """Both detectors' seconds an image stand beside the reference loop's, and the note has them as rates."""
    write_both(tmp_path / "data")
    frame = _run(tmp_path / "out", "--only", "rates", "--data", str(tmp_path / "data"))
    assert frame["what"].str.contains("FreeAnchor|RetinaNet").all() and len(frame) == 2
    assert (frame[["ours", "theirs"]] > 0).all(axis=None)
    for row in frame.itertuples():
        assert row.note == f"images a second: {1 / row.ours:.3g} against {1 / row.theirs:.3g}"


def test_a_stage_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says why, and what it had measured before stays."""

    def half(session: object):
        yield [cuda.BenchRow(subject="copy", what="first", unit="s", ours=1.0)]
        raise RuntimeError("out of memory")

    monkeypatch.setitem(cuda.STAGES, "losses", (half, 0.0))
    frame = _run(tmp_path, "--only", "losses,environment")
    assert frame["what"].tolist() == ["first", "losses"]
    assert "out of memory" in frame["note"].iloc[1]


def test_nothing_is_begun_without_time(tmp_path: Path) -> None:
    """With no minute left no stage runs, and the command ends in order."""
    cuda.main(["--out", str(tmp_path), "--device", "cpu", "--minutes", "0", "--only", "losses,trainings"])
    assert not (tmp_path / "results.csv").exists()


def test_trainings_are_started_in_turn_and_stopped_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more at once than asked for; one that is not done when time is up gets a signal, and its row says so."""

    class Process:
        def __init__(self, *, is_long: bool) -> None:
            self.returncode = None if is_long else 0

        def poll(self) -> int | None:
            return self.returncode

        def send_signal(self, number: int) -> None:
            self.returncode = 128 + number

        def wait(self, timeout: float) -> int | None:
            return self.returncode

    monkeypatch.setattr(cuda, "_start", lambda name, session: Process(is_long="retinanet" in name))
    monkeypatch.setattr(cuda, "SPARE_SECONDS", 2.0)
    monkeypatch.setitem(cuda.STAGES, "trainings", (cuda._trainings, 0.0))
    options = ["--only", "trainings", "--train", "shapes", "--seeds", "1", "--side-by-side", "1"]
    frame = _run(tmp_path, *options, minutes=3 / 60)
    assert frame["what"].tolist() == ["freeanchor-small-s0: exit status", "retinanet-small-s0: exit status"]
    assert frame["ours"].tolist() == [0, 130]


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown stage and photographs without a folder end with status 2 and one line that says so."""
    for options, words in ((["--only", "dance"], "no such stage"), (["--train", "photos"], "--data DIR")):
        with pytest.raises(SystemExit) as ended:
            cuda.main(["--out", str(tmp_path), "--device", "cpu", *options])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command_runs_in_miniature(tmp_path: Path) -> None:
    """Tests, steps and a training that is ended in time, saved, and gone on with by the same command."""
    options = ["--train", "shapes", "--seeds", "1", "--side-by-side", "1"]
    for _ in range(2):
        frame = _run(tmp_path, *options, minutes=2.0)
        assert {"tests", "losses", "steps", "trainings"} <= set(frame["group"])
    assert list((tmp_path / "runs").rglob("state.safetensors")) or list((tmp_path / "runs").rglob("model.safetensors"))
