"""Interrupted and resumed: k steps, a stop and the rest are, bit for bit, the same training."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import FLOAT32, tiny_detector, tiny_recipe, tiny_split

from freeanchor.checkpoints.native import load_tensors, save_tensors
from freeanchor.data.coco import Split
from freeanchor.errors import CheckpointError
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Interrupted, Runtime
from freeanchor.training import loop as training
from freeanchor.training.loop import read_log, train
from freeanchor.training.recipe import TrainConfig, TrainingError

ROOT = Path(__file__).resolve().parents[3]
RECIPES = {
    "RetinaNet": tiny_recipe(RetinaNetLoss(), snapshots=(0.5, 1.0), seed=5),
    "FreeAnchor": tiny_recipe(FreeAnchorLoss(), snapshots=(0.5, 1.0), seed=5),
}
SLOW_TRAINING = """
import sys, time
from pathlib import Path
from tiny import FLOAT32, tiny_detector, tiny_recipe, tiny_split
from freeanchor.training import loop as training
from freeanchor.losses import FreeAnchorLoss

at_once = training.training_step

def slowly(state, *arguments):
    time.sleep(0.1)
    return at_once(state, *arguments)

training.training_step = slowly
recipe = tiny_recipe(FreeAnchorLoss(), num_steps=40)
training.train(Path(sys.argv[2]), tiny_split(Path(sys.argv[1])), tiny_detector(), recipe, FLOAT32)
"""


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six small images to train on."""
    return tiny_split(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of uninterrupted trainings, by recipe."""
    folders = {}
    for name, recipe in RECIPES.items():
        folders[name] = tmp_path_factory.mktemp(name)
        train(folders[name], split, tiny_detector(), recipe, FLOAT32)
    return folders.__getitem__


def _at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something after the step of that number, once."""
    step, done = training.training_step, []

    def stepping(state: training.TrainingState, *arguments: object) -> object:
        result = step(state, *arguments)
        if state.step == number and not done:
            done.append(number)
            act()
        return result

    monkeypatch.setattr(training, "training_step", stepping)


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _crash() -> None:
    raise MemoryError("a crash")


def _without_times(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def _assert_same_training(one: Path, other: Path) -> None:
    """Weights, momentum, metrics and snapshots are equal to the last bit; times may differ."""
    for name in ("state.safetensors", *(f"snapshots/{path.name}" for path in (one / "snapshots").glob("*"))):
        (mine, header), (theirs, other_header) = load_tensors(one / name), load_tensors(other / name)
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
        assert {**header, "seconds": 0} == {**other_header, "seconds": 0}
    assert any(key.startswith("momentum.") for key in load_tensors(one / "state.safetensors")[0])
    assert _without_times(one) == _without_times(other)
    assert [path for path in other.rglob("*") if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("step", [1, 2, 5, 7])
@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_training_goes_on_where_it_stopped(
    tmp_path: Path, split: Split, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str, step: int
) -> None:
    """Ctrl-C at any step saves exactly that step, and the same command ends with the same weights."""
    with monkeypatch.context() as patch:
        _at_step(patch, step, _press_ctrl_c)
        with pytest.raises(Interrupted, match=f"stopped at step {step} of 8"):
            train(tmp_path, split, tiny_detector(), RECIPES[name], FLOAT32)
    assert load_tensors(tmp_path / "state.safetensors")[1]["step"] == step
    train(tmp_path, split, tiny_detector(), RECIPES[name], FLOAT32)
    _assert_same_training(whole(name), tmp_path)


@pytest.mark.parametrize("step", [1, 3, 5, 7, 8])
def test_a_crashed_training_goes_on_from_its_last_checkpoint(
    tmp_path: Path, split: Split, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Steps done but not saved are done again, and their log lines are not written twice."""
    with monkeypatch.context() as patch:
        _at_step(patch, step, _crash)
        with pytest.raises(MemoryError):
            train(tmp_path, split, tiny_detector(), RECIPES["FreeAnchor"], FLOAT32)
    assert (tmp_path / "state.safetensors").exists() == (step > 4)
    train(tmp_path, split, tiny_detector(), RECIPES["FreeAnchor"], FLOAT32)
    _assert_same_training(whole("FreeAnchor"), tmp_path)


def test_several_stops_are_as_good_as_none(
    tmp_path: Path, split: Split, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped three times in a row."""
    for step in (2, 3, 6):
        with monkeypatch.context() as patch:
            _at_step(patch, step, _press_ctrl_c)
            with pytest.raises(Interrupted):
                train(tmp_path, split, tiny_detector(), RECIPES["RetinaNet"], FLOAT32)
    train(tmp_path, split, tiny_detector(), RECIPES["RetinaNet"], FLOAT32)
    _assert_same_training(whole("RetinaNet"), tmp_path)


def test_a_finished_training_does_nothing_more(tmp_path: Path, split: Split) -> None:
    """Asked again, it gives the same network, takes no step and logs nothing."""
    recipe = RECIPES["FreeAnchor"]
    first = train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    second = train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert second.seconds == pytest.approx(first.seconds)
    mine, theirs = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_checkpoints_come_as_often_as_asked(tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash loses fewer than `checkpoint_every` steps, whatever the rhythm of the log."""
    runtime = Runtime(precision="float32", log_every=2, checkpoint_every=3)
    _at_step(monkeypatch, 5, _crash)
    with pytest.raises(MemoryError):
        train(tmp_path, split, tiny_detector(), RECIPES["RetinaNet"], runtime)
    assert (tmp_path / "state.safetensors").exists()
    assert load_tensors(tmp_path / "state.safetensors")[1]["step"] >= 3


def test_a_half_written_log_line_is_dropped(tmp_path: Path, split: Split, whole: Callable[[str], Path]) -> None:
    """A power cut in the middle of a line costs that line alone, and it is written again."""
    recipe = RECIPES["FreeAnchor"]
    with pytest.MonkeyPatch.context() as patch:
        _at_step(patch, 6, _press_ctrl_c)
        with pytest.raises(Interrupted):
            train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lr": 0.0')
    train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    _assert_same_training(whole("FreeAnchor"), tmp_path)


def _stop_early(directory: Path, split: Split, recipe: TrainConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _at_step(patch, 3, _press_ctrl_c)
        with pytest.raises(Interrupted):
            train(directory, split, tiny_detector(), recipe, FLOAT32)


def test_another_recipes_state_is_refused(tmp_path: Path, split: Split) -> None:
    """A state is continued under its own recipe only; the file is named."""
    _stop_early(tmp_path, split, RECIPES["FreeAnchor"])
    with pytest.raises(TrainingError, match=r"state\.safetensors.*another recipe"):
        train(tmp_path, split, tiny_detector(), tiny_recipe(FreeAnchorLoss(), lr=0.5), FLOAT32)


def test_a_damaged_state_is_refused(tmp_path: Path, split: Split) -> None:
    """Never a silent start from nothing."""
    _stop_early(tmp_path, split, RECIPES["FreeAnchor"])
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        train(tmp_path, split, tiny_detector(), RECIPES["FreeAnchor"], FLOAT32)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda tensors, header: header.update(step=10**9), "says that step 1000000000 of 8 is done"),
        (lambda tensors, header: header.update(step=9), "says that step 9 of 8 is done"),
        (lambda tensors, header: header.update(step=-1), "says that step -1 of 8 is done"),
        (lambda tensors, header: header.update(step=True), "says that step True of 8 is done"),
        (lambda tensors, header: header.update(step=4.0), "says that step 4.0 of 8 is done"),
        (lambda tensors, header: header.update(step="\x1b[2J"), "says that step '\\x1b[2J' of 8 is done"),
        (lambda tensors, header: header.update(seconds=float("nan")), "says that it took nan seconds"),
        (lambda tensors, header: header.update(seconds=-1.0), "says that it took -1.0 seconds"),
        (lambda tensors, header: header.update(run="0123456789"), "was written by another run ('0123456789')"),
        (lambda tensors, header: _drop(tensors, "momentum."), "has no momentum"),
        (lambda tensors, header: _spoil(tensors, "momentum."), "has another shape"),
        (lambda tensors, header: next(iter(tensors.values())).fill_(float("nan")), "not finite at"),
    ],
)
def test_a_state_that_cannot_be_this_trainings_is_refused(
    tmp_path: Path, split: Split, whole: Callable[[str], Path], harm: Callable[..., object], said: str
) -> None:
    """A step beyond the end would publish weights as trained that are not: one line, and the file stays."""
    tensors, header = load_tensors(whole("FreeAnchor") / "state.safetensors")
    state = tmp_path / "state.safetensors"
    header |= {"step": 4, "run": "abcdef"}
    harm(tensors, header)
    save_tensors(state, tensors, header)
    before = state.read_bytes()
    with pytest.raises(
        TrainingError, match=r"^[^\n\x1b]+state.safetensors: [^\n\x1b]+; delete it to train anew$"
    ) as error:
        train(tmp_path, split, tiny_detector(), RECIPES["FreeAnchor"], FLOAT32, run="abcdef")
    assert said in str(error.value)
    assert state.read_bytes() == before and [*tmp_path.iterdir()] == [state]


def _drop(tensors: dict[str, torch.Tensor], prefix: str) -> None:
    for name in [name for name in tensors if name.startswith(prefix)]:
        del tensors[name]


def _spoil(tensors: dict[str, torch.Tensor], prefix: str) -> None:
    tensors.update({name: tensor.reshape(-1)[:1] for name, tensor in tensors.items() if name.startswith(prefix)})


def test_a_state_of_an_earlier_version_says_no_run_and_is_taken(
    tmp_path: Path, split: Split, whole: Callable[[str], Path]
) -> None:
    """It was written before states named theirs."""
    tensors, header = load_tensors(whole("FreeAnchor") / "state.safetensors")
    del header["run"]
    save_tensors(tmp_path / "state.safetensors", tensors, header)
    result = train(tmp_path, split, tiny_detector(), RECIPES["FreeAnchor"], FLOAT32, run="abcdef")
    assert all(torch.equal(tensors[f"model.{name}"], it) for name, it in result.model.state_dict().items())


@pytest.mark.parametrize(
    "line", [b"\xff\xfe}", b'{"loss": 1}', b"[1]", b"}", b'{"step": "2"}', b'{"step": 1, "x": "y"}']
)
def test_damaged_lines_of_a_log_are_left_out(tmp_path: Path, line: bytes) -> None:
    """Whatever a crash left among them; the others stay."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "lr": NaN}\n' + line + b'\n{"step": 4, "lr": 0.1}\n')
    assert [row["step"] for row in read_log(path)] == [2, 4]


def test_the_time_taken_leaves_interruptions_out(tmp_path: Path, split: Split) -> None:
    """Seconds add up over the parts, and not what lies between them."""
    started = time.perf_counter()
    _stop_early(tmp_path, split, RECIPES["FreeAnchor"])
    first = load_tensors(tmp_path / "state.safetensors")[1]["seconds"]
    time.sleep(1.0)
    total = train(tmp_path, split, tiny_detector(), RECIPES["FreeAnchor"], FLOAT32).seconds
    assert first < total < time.perf_counter() - started - 0.9


def _subprocess(*arguments: object) -> subprocess.Popen:
    """A slow training in a process of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", SLOW_TRAINING, *map(str, arguments)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )


def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path: Path, split: Split) -> None:
    """SIGKILL in the middle of training, then the same training here: as if it had never been killed."""
    data, killed, recipe = split.annotations.parent, tmp_path / "killed", tiny_recipe(FreeAnchorLoss(), num_steps=40)
    process = _subprocess(data, killed)
    deadline = time.monotonic() + 60
    while not (killed / "state.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = load_tensors(killed / "state.safetensors")[1]["step"]
    assert 0 < step < 40
    assert step % FLOAT32.checkpoint_every == 0
    (tmp_path / "whole").mkdir()
    for directory in (killed, tmp_path / "whole"):
        train(directory, split, tiny_detector(), recipe, FLOAT32)
    _assert_same_training(tmp_path / "whole", killed)


def test_a_state_without_its_header_is_refused_in_one_line(split: Split, tmp_path: Path) -> None:
    """A file of ours that is no training state names what it lacks and what to do."""
    save_tensors(tmp_path / "state.safetensors", {"model.weight": torch.zeros(1)}, {"config": "x"})
    with pytest.raises(TrainingError, match=r"^[^\n]*state.safetensors: has no seconds, step; delete it[^\n]*$"):
        train(tmp_path, split, tiny_detector(), RECIPES["RetinaNet"], FLOAT32)
