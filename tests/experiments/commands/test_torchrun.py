"""The front door under torchrun: two processes train, are stopped, go on and test together, as a user would have it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from experiments.registry.build import build_profile
from experiments.runs.store import Store
from experiments.runs.testing import predict_stage
from freeanchor.runtime import Runtime

ROOT = Path(__file__).resolve().parents[3]
RUN = "freeanchor-small-s0"
# The front door with a slow training behind it, so that a signal can hit it.
SLOWLY = """
import os, sys, time
sys.path.insert(0, {root!r})
from experiments.cli import main
from freeanchor.training import loop as train

step = train.training_step

def slowly(*arguments):
    time.sleep(float(os.environ["SECONDS_A_STEP"]))
    return step(*arguments)

train.training_step = slowly
sys.exit(main())
"""


def _torchrun(
    folder: Path, *arguments: str, num_processes: int = 2, seconds_a_step: float = 0.0
) -> subprocess.Popen[str]:
    """The command, shared by processes."""
    script = folder / "slowly.py"
    script.write_text(SLOWLY.format(root=str(ROOT)))
    where = [
        "--profile",
        "mini",
        "--runs",
        str(folder / "runs"),
        "--drawn",
        str(folder / "data"),
        "--precision",
        "float32",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    return subprocess.Popen(
        [*launcher, str(script), *arguments, *where],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SECONDS_A_STEP": str(seconds_a_step)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature trained by two processes, stopped on the way and gone on with, and tested by two."""
    folder = tmp_path_factory.mktemp("two")
    directory = build_profile("mini").evaluations[RUN].training.directory(folder / "runs")
    process = _torchrun(folder, "train", RUN, seconds_a_step=0.2)
    deadline = time.monotonic() + 90
    log = directory / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:  # it is laid out empty
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=90)[1]
    assert process.returncode != 0
    assert "batch of 4 images = 2 process(es) x 1 group(s) of 2" in errors
    assert "stopped at step" in errors
    assert not (directory / "train.json").exists()
    for command in ("train", "predict"):
        process = _torchrun(folder, command, RUN)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    return folder


def test_the_training_is_whole(folder: Path) -> None:
    """Every step is logged once, the record tells the number of processes, no state is left."""
    directory = build_profile("mini").evaluations[RUN].training.directory(folder / "runs")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    record = json.loads((directory / "train.json").read_text())
    assert record["processes"] == 2
    assert not (directory / "state.safetensors").exists()
    assert list(directory.rglob("*.tmp")) == []


def test_two_processes_test_every_image_once(folder: Path) -> None:
    """The detections and each object's recall are, to the byte, those of one process."""
    evaluation = build_profile("mini").evaluations[RUN]
    directory = evaluation.directory(folder / "runs")
    two = {name: (directory / name).read_bytes() for name in ("detections.json", "object_recall.csv", "budgets.csv")}
    (directory / "predict.json").unlink()
    store = Store(runs=folder / "runs", drawn=folder / "data")
    predict_stage(evaluation, store, Runtime(precision="float32", threads=1))
    assert two == {name: (directory / name).read_bytes() for name in two}
    images = pd.read_csv(directory / "object_recall.csv")["image_id"]
    assert images.is_monotonic_increasing


def test_processes_that_cannot_share_a_batch_are_told_so(folder: Path, tmp_path: Path) -> None:
    """Three for a batch of four: the numbers that would do, status not 0."""
    process = _torchrun(tmp_path, "train", RUN, num_processes=3)
    errors = process.communicate(timeout=90)[1]
    assert process.returncode != 0
    assert "4 images do not divide among 3 processes; start 1, 2, 4" in errors


def test_a_finished_run_is_not_trained_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By one process after two: the same run, whatever trained it."""
    where = ["--profile", "mini", "--runs", str(folder / "runs"), "--drawn", str(folder / "data")]
    model = build_profile("mini").evaluations[RUN].training.directory(folder / "runs") / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert main(["train", RUN, *where]) == 0
    assert model.stat().st_mtime_ns == before
