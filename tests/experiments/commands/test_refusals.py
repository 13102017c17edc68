"""What the front door refuses before anything starts, or leaves nothing of: odd devices, backbones, weights, sets."""

import json
from pathlib import Path

import pytest
import torch
from oracles.coco_folder import write_both

from experiments.cli import main
from experiments.commands.compute import check_device
from freeanchor.errors import UsageError


@pytest.mark.parametrize("profile", ["shapes", "coco-mmdetection"])
def test_a_zoo_where_nobody_published_anything_is_refused(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Rather than the figures waiting for trainings of ours."""
    assert main(["plan", "--profile", profile, "--chosen", "zoo"]) == 2
    assert f"profile {profile} has no published checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "processes", "words"),
    [
        ("cuda:1", "1", "1 process(es) on a host with 1 GPU(s)"),
        ("cuda", "2", "2 process(es) on a host with 1 GPU(s)"),
        ("cuda:0", "2", "2 processes cannot share one GPU; give --device cuda"),
    ],
)
def test_gpus_that_are_not_there_are_named(
    device: str, processes: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is started on them, by torchrun or without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert main(["train", "freeanchor-small-s0", "--profile", "mini", "--device", device]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mps", "meta", "xpu", "xpu:1", "vulkan"])
def test_devices_that_nothing_here_was_written_for_are_named(device: str) -> None:
    """torch can spell them, which is not enough to train on them."""
    with pytest.raises(UsageError, match=f"--device {device}: only CPUs and CUDA's GPUs are supported; give cpu, cuda"):
        check_device(device)


def test_the_cpu_is_always_there() -> None:
    """With torch's number behind it, too."""
    check_device("cpu")
    check_device("cpu:0")


@pytest.fixture
def where(tmp_path: Path) -> list[str]:
    """Options for a small set of photographs, with places of the test's own."""
    places = [f"--{name}={tmp_path / name}" for name in ("runs", "drawn", "downloads")]
    return ["--profile", "photos", "--data", str(write_both(tmp_path / "ponds")), *places]


@pytest.mark.parametrize("command", [["list"], ["train", "freeanchor-small-s0"]])
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_an_unfit_backbone_is_refused_before_anything_is_listed_or_fetched(
    command: list[str], backbone: str, where: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Without maps at the strides of a pyramid, or for images of one size alone."""
    assert main([*command, *where, "--backbone", backbone]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"freeanchor: timm's {backbone} ") and captured.err.count("\n") == 1
    assert captured.err.endswith("choose another\n")
    assert not (tmp_path / "downloads").exists()


def _train(where: list[str], small_backbone: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr of a training that is refused."""
    assert main(["train", "freeanchor-small-s0", *where, *small_backbone]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_training_refused_for_its_weights_leaves_no_folder(
    where: list[str], small_backbone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another network: its line is short and asks the right question, and no run seems to be there."""
    line = _train(where, ["--backbone", "resnet18", *small_backbone[2:]], capsys)
    assert line.endswith("; is it the file of resnet18?") and len(line) < 600
    assert list((tmp_path / "runs" / "photos").iterdir()) == []


def test_a_training_without_objects_leaves_no_folder(
    where: list[str], small_backbone: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same of a set in which nothing can be learnt; a folder that was there before stays."""
    path = tmp_path / "ponds" / "train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    assert "train.json" in _train(where, small_backbone, capsys)
    runs = tmp_path / "runs" / "photos"
    assert list(runs.iterdir()) == []
    assert main(["list", *where, *small_backbone, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    (directory,) = (Path(row["directory"]).parent for row in rows if row["name"] == "freeanchor-small-s0")
    directory.mkdir()
    _train(where, small_backbone, capsys)
    assert directory.is_dir()
