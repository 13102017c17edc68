"""The front door's commands on weights: convert, export, replay; and show, which says what a run needs."""

import json
from pathlib import Path

import pytest
import torch
from oracles.coco_folder import write_both
from oracles.foreign_names import RESNET18
from oracles.foreign_states import authors_state, miniature, mmdetection_state, torchvision_state
from tiny import FLOAT32, tiny_detector, tiny_recipe, tiny_split

from experiments.cli import main
from freeanchor.checkpoints.native import load_model
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.training.loop import train
from freeanchor.training.recipe import TrainingError

SIZE = miniature(RESNET18, num_classes=3)


@pytest.fixture
def categories(tmp_path: Path) -> str:
    """A json with three categories."""
    return str(write_both(tmp_path / "data") / "val.json")


def test_a_checkpoint_goes_in_and_out(tmp_path: Path, categories: str, capsys: pytest.CaptureFixture[str]) -> None:
    """mmdetection's file becomes ours, which says itself how to use it, and the same again."""
    state = mmdetection_state(SIZE, free_anchor=True)
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "theirs.pth")
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    names = ["--detector", "FreeAnchor", "--categories", categories]
    assert main(["convert", "--from", "mmdetection", *names, str(tmp_path / "theirs.pth"), str(ours)]) == 0
    assert "FreeAnchor, ResNet-18, 3 classes" in capsys.readouterr().out
    detector = load_model(ours)[1]
    assert detector.inputs.resize == "mmdetection"
    assert detector.inference.limit_shrinkage
    assert main(["export", "--to", "mmdetection", str(ours), str(back)]) == 0
    again = torch.load(back, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--from", "mmdetection"], "--detector"),
        (["--from", "torchvision", "--caffe"], "caffe is about mmdetection"),
        (["--from", "authors", "--detector", "FreeAnchor"], "cls_logits.bias"),
        (["--from", "detectron2"], "detectron2"),
    ],
)
def test_what_cannot_be_converted_is_one_line(
    tmp_path: Path, categories: str, capsys: pytest.CaptureFixture[str], options: list[str], part: str
) -> None:
    """A missing choice, a choice that means nothing, a missing key, another format: status 2, nothing written."""
    state = authors_state(SIZE)
    state.pop("rpn.head.cls_logits.bias")
    torch.save({"model": state}, tmp_path / "theirs.pth")
    target = tmp_path / "ours.safetensors"
    assert main(["convert", *options, "--categories", categories, str(tmp_path / "theirs.pth"), str(target)]) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1
    assert not target.exists()


def test_a_converted_checkpoint_detects(tmp_path: Path, categories: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With no word on where it came from."""
    torch.save(torchvision_state(miniature(RESNET18, num_classes=10), used=(2, 5, 9)), tmp_path / "theirs.pth")
    ours = str(tmp_path / "ours.safetensors")
    assert (
        main(["convert", "--from", "torchvision", "--categories", categories, str(tmp_path / "theirs.pth"), ours]) == 0
    )
    image = next((tmp_path / "data" / "images").glob("val*.png"))
    out = str(tmp_path / "out")
    assert main(["detect", str(image), "--checkpoint", ours, "--out", out, "--min-score", "0.1"]) == 0
    assert (tmp_path / "out" / f"{image.stem}.png").exists()
    capsys.readouterr()


def test_export_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A narrow network of ours is no torchvision model."""
    split = tiny_split(tmp_path / "data")
    train(tmp_path / "run", split, tiny_detector(), tiny_recipe(FreeAnchorLoss(), snapshots=(1.0,)), FLOAT32)
    model = next((tmp_path / "run" / "snapshots").iterdir())
    assert main(["export", "--to", "torchvision", str(model), str(tmp_path / "out.pth")]) == 2
    assert "backbone" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_replay_tells_where_a_step_broke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words or as json; another file is refused."""
    recipe = tiny_recipe(FreeAnchorLoss(), lr=1e30, max_grad_norm=None)
    with pytest.raises(TrainingError):
        train(tmp_path / "run", tiny_split(tmp_path / "data"), tiny_detector(), recipe, FLOAT32)
    path = str(next((tmp_path / "run").glob("divergence-*")))
    assert main(["replay", path]) == 0
    assert "first layer" in capsys.readouterr().out
    assert main(["replay", path, "--json", "--precision", "bfloat16"]) == 0
    assert "bfloat16" in json.loads(capsys.readouterr().out)[2]
    assert main(["replay", str(tmp_path / "data" / "train.json")]) == 2


def test_show_prints_the_whole_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """As json for programs; in words with what it costs and needs."""
    assert main(["show", "freeanchor-small-s0", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["recipe"]["loss"]["kind"] == "FreeAnchorLoss"
    assert content["profile"] == "shapes"
    assert main(["show", "freeanchor-small-s0"]) == 0
    text = capsys.readouterr().out
    for part in (
        "bag_size",
        "cost: 28,000 images = 18.67 epochs",
        "1, 2, 4 or 8 processes",
        "no weights to start from",
    ):
        assert part in text
