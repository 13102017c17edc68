"""Two processes and one: the same training, whatever the number; and what happens when one of them dies.

The processes are started by torchrun, as users start them, and talk over gloo on the loopback interface.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import FLOAT32, tiny_detector, tiny_recipe, tiny_split

from freeanchor.checkpoints.native import load_tensors
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.training.loop import train
from freeanchor.training.recipe import TrainConfig, TrainingError

ROOT = Path(__file__).resolve().parents[3]
# Trains RECIPES[name] in a folder; the name "slow" waits in each step, so that a process can be killed in one.
SCRIPT = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/freeanchor/training"]
import torch
torch.set_num_threads(1)
from freeanchor.training import loop as training
from freeanchor.training.processes import process_group
from freeanchor.runtime import Interrupted
from test_many_processes import DETECTORS, RECIPES
from tiny import FLOAT32, tiny_split

name, data, runs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
at_once = training.training_step
def slowly(*arguments):
    time.sleep(0.15)
    return at_once(*arguments)
if name == "slow":
    training.training_step = slowly
with process_group("cpu") as processes:
    try:
        training.train(runs, tiny_split(data), DETECTORS[name], RECIPES[name], FLOAT32, processes)
    except (training.TrainingError, Interrupted) as error:
        print(f"process {{processes.rank}}: {{error}}", file=sys.stderr, flush=True)
        sys.exit(2)
"""
FROZEN = TorchvisionResNet(name="resnet18", frozen_stages=1)
DETECTORS = {
    "global": tiny_detector(backbone=FROZEN),
    "batch norm": tiny_detector(),
    "groups": tiny_detector(backbone=FROZEN),
    "slow": tiny_detector(),
}
RECIPES: dict[str, TrainConfig] = {
    # Eight steps: rounding grows in them from 1e-6 to 1e-3 within twenty on some processors, float64 agrees to 1e-15.
    "global": tiny_recipe(FreeAnchorLoss(), num_steps=8, batch_size=4, lr=0.01, seed=3),
    "batch norm": tiny_recipe(RetinaNetLoss(), num_steps=20, batch_size=4, lr=0.01, seed=3),
    "groups": tiny_recipe(RetinaNetLoss(), num_steps=20, batch_size=4, lr=0.01, seed=3, group_size=2),
    "slow": tiny_recipe(FreeAnchorLoss(), num_steps=60, batch_size=4, seed=3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small images of unlike sizes."""
    folder = tmp_path_factory.mktemp("data")
    tiny_split(folder)
    return folder


def _launch(name: str, data: Path, runs: Path, num_processes: int = 2) -> subprocess.Popen[str]:
    script = runs.parent / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    return subprocess.Popen(
        [*command, str(script), name, str(data), str(runs)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=120)[0]


def _worst(one: Path, other: Path) -> float:
    """Largest difference of any weight or momentum between two stored states."""
    first, second = load_tensors(one / "state.safetensors")[0], load_tensors(other / "state.safetensors")[0]
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


@pytest.mark.parametrize("name", ["global", "batch norm", "groups"])
def test_two_processes_train_as_one(tmp_path: Path, data: Path, name: str) -> None:
    """After 8 or 20 steps all weights agree within 1e-5: frozen or synchronised batch norm, one group or two a batch."""
    output = _finish(_launch(name, data, tmp_path / "two"))
    assert (tmp_path / "two" / "state.safetensors").exists(), output
    train(tmp_path / "one", tiny_split(data), DETECTORS[name], RECIPES[name], FLOAT32)
    assert _worst(tmp_path / "one", tmp_path / "two") < 1e-5
    num_lines = RECIPES[name].num_steps // 2
    losses = [_losses(tmp_path / part, num_lines) for part in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def _losses(directory: Path, num_lines: int) -> list[float]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == num_lines  # one process alone writes
    return [value for line in lines for key, value in line.items() if key.startswith("loss_")]


def test_normalising_over_groups_is_another_training(tmp_path: Path, data: Path) -> None:
    """Groups of two and the whole batch differ, so that the equality above is not for want of a difference."""
    for name, size in (("groups", 2), ("whole", None)):
        recipe = replace(RECIPES["groups"], num_steps=3, group_size=size)
        train(tmp_path / name, tiny_split(data), DETECTORS["groups"], recipe, FLOAT32)
    assert _worst(tmp_path / "groups", tmp_path / "whole") > 1e-4


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not _has_content(path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _has_content(path), process.communicate()[0]


def _has_content(path: Path) -> bool:
    """Whether training has begun to write there: an empty log is laid out before the first step."""
    return path.exists() and path.stat().st_size > 0


def _workers(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of what torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in children.split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes through Linux's /proc")
def test_a_killed_process_ends_the_job_and_the_rest_is_done_by_another_number(tmp_path: Path, data: Path) -> None:
    """The survivor says what happened in one line; one process, or two, go on from the last checkpoint."""
    runs = tmp_path / "runs"
    process = _launch("slow", data, runs)
    _wait_for(runs / "state.safetensors", process)
    os.kill(_workers(process)[1], signal.SIGKILL)
    output = _finish(process)
    assert process.returncode != 0
    assert "process 0: lost contact with another process" in output
    assert "goes on from the last checkpoint" in output
    step = load_tensors(runs / "state.safetensors")[1]["step"]
    assert 4 <= step < 60
    train(runs, tiny_split(data), DETECTORS["slow"], RECIPES["slow"], FLOAT32)
    lines = [json.loads(line) for line in (runs / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, 61, 2))
    assert load_tensors(runs / "state.safetensors")[1]["step"] == 60


def test_ctrl_c_stops_both_after_the_same_step(tmp_path: Path, data: Path) -> None:
    """torchrun passes the signal on; both processes stop together, with everything saved."""
    runs = tmp_path / "runs"
    process = _launch("slow", data, runs)
    _wait_for(runs / "metrics.jsonl", process)
    os.kill(process.pid, signal.SIGINT)
    output = _finish(process)
    step = load_tensors(runs / "state.safetensors")[1]["step"]
    for rank in (0, 1):
        assert f"process {rank}: stopped at step {step} of 60" in output


def test_shares_that_do_not_divide_are_refused() -> None:
    """With the numbers of processes that would do."""
    recipe = tiny_recipe(RetinaNetLoss(), batch_size=16, group_size=2)
    assert recipe.share(4) == (2, 2)
    with pytest.raises(TrainingError, match=r"8 groups of 2 images do not divide among 3 processes; start 1, 2, 4, 8"):
        recipe.share(3)
    with pytest.raises(TrainingError, match="16 images do not divide among 5 processes"):
        tiny_recipe(RetinaNetLoss(), batch_size=16).share(5)


def test_synchronised_batch_norm_alone_is_batch_norm() -> None:
    """Weights and names stay; evaluation is torch's own."""
    from freeanchor.training.processes import SyncedBatchNorm, sync_batch_norm

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    names = list(model.state_dict())
    sync_batch_norm(model)
    assert isinstance(model[1], SyncedBatchNorm)
    assert list(model.state_dict()) == names
    images = torch.randn(2, 3, 5, 5)
    expected = torch.nn.functional.batch_norm(model[0](images), torch.zeros(4), torch.ones(4), eps=1e-5)
    torch.testing.assert_close(model.eval()(images), expected)
