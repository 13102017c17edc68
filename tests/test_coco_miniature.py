"""The whole coco profile in miniature: a folder in COCO's layout, checkpoints in their formats, make's plan to the end.

The recipes are the paper's, shrunk by the profile alone: a few steps, small images, a narrow network. The published
checkpoints are stand-ins with random weights in each code base's own names, made by the oracles of the converters.
"""

import contextlib
import json
import pickle
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from oracles.foreign_names import RESNET18
from oracles.foreign_states import authors_state, detectron2_state, miniature, mmdetection_state, torchvision_state
from test_end_to_end import OPTIONS, _make, _tree

from experiments.cli import main
from experiments.registry.build import build_profile
from experiments.registry.config import PublishedCheckpoint
from experiments.registry.profile import Profile
from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.objects import CATEGORIES
from freeanchor.shapes.scene import ShapesConfig

TABLES = ("table1", "table2", "table3")
FIGURES = ("figure4", "figure5", "figure6")
SHYNESS = 0.8
SIZE = miniature(RESNET18, num_classes=len(CATEGORIES))


def _coco_folder(directory: Path) -> Path:
    """A few drawn scenes in COCO's own layout."""
    drawn = directory.with_name("drawn")
    write_shapes(ShapesConfig(num_train=8, num_val=6, image_size=128, max_size=80.0, min_head=9.0), drawn)
    for split in ("train", "val"):
        images = directory / f"{split}2017"
        images.mkdir(parents=True)
        for path in (drawn / "images").glob(f"{split}_*.jpg"):
            shutil.copy2(path, images / path.name)
        annotations = directory / "annotations" / f"instances_{split}2017.json"
        annotations.parent.mkdir(exist_ok=True)
        shutil.copy2(drawn / f"{split}.json", annotations)
    return directory


def _shy(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with lower scores: random ones would give a hundred thousand candidates per image."""
    (bias,) = (name for name in state if re.search(r"(retina_cls|cls_logits|cls_score)\.bias$", name))
    return {**state, bias: state[bias] - SHYNESS}


def _write_checkpoint(checkpoint: PublishedCheckpoint, path: Path) -> None:
    """A stand-in for a published file: its format's names, wrapping and file type, random weights."""
    format = checkpoint.origin.format
    if format == "detectron2":
        state = {name: tensor.numpy() for name, tensor in _shy(detectron2_state(SIZE)).items()}
        path.write_bytes(pickle.dumps({"model": state, "__author__": "miniature"}))
    elif format == "authors":
        wrapped = {f"module.{name}": tensor for name, tensor in _shy(authors_state(SIZE)).items()}
        torch.save({"model": wrapped, "iteration": 90_000}, path)
    elif format == "torchvision":
        ids = tuple(range(1, len(CATEGORIES) + 1))
        torch.save(_shy(torchvision_state(miniature(RESNET18, num_classes=len(ids) + 1), used=ids)), path)
    else:
        is_free = checkpoint.detector == "FreeAnchor"
        state = _shy(mmdetection_state(SIZE, free_anchor=is_free, caffe=checkpoint.origin.caffe))
        torch.save({"state_dict": state, "meta": {"epoch": 12}}, path)


def _options(folder: Path) -> tuple[str, ...]:
    return (
        *(option for option in OPTIONS if "=mini" not in option and "CHOSEN" not in option),
        "PROFILE=coco-mini",
        f"DATA={folder / 'coco'}",
    )


def _finish(folder: Path, chosen: str) -> list[str]:
    """Run what make plans for the page, in this process; the commands."""
    answer = _make(folder, *_options(folder), f"CHOSEN={chosen}", "-n", "reports/coco-mini/coco/index.html")
    assert answer.returncode == 0, answer.stderr
    prefix = ".venv/bin/freeanchor "
    commands = [line.removeprefix(prefix) for line in answer.stdout.splitlines() if line.startswith(prefix)]
    commands = [line for line in commands if not line.startswith("plan ")]
    with contextlib.chdir(folder):
        for command in commands:
            assert main(shlex.split(command)) == 0, command
    return commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything run: our trainings, then the published checkpoints."""
    folder = _tree(tmp_path_factory.mktemp("coco"))
    profile = build_profile("coco-mini", data=_coco_folder(folder / "coco"))
    (folder / "downloads").mkdir()
    for name in profile.zoo:
        checkpoint = profile.evaluations[name].training
        assert isinstance(checkpoint, PublishedCheckpoint)
        _write_checkpoint(checkpoint, folder / "downloads" / checkpoint.file)
    own = _finish(folder, "paper")
    assert {line.split()[0] for line in own} == {"train", "predict", "cost", "report"}
    shutil.copytree(folder / "reports" / "coco-mini" / "coco", folder / "paper")
    zoo = _finish(folder, "zoo")
    assert all("coco-mini" in line for line in zoo)
    return folder


@pytest.fixture(scope="module")
def profile(folder: Path) -> Profile:
    """Its profile."""
    return build_profile("coco-mini", data=folder / "coco")


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_a_table_is_measured(folder: Path, table: str) -> None:
    """Ours and the published ones; only the paper's other people's detectors have no run."""
    frame = pd.read_csv(folder / "reports" / "coco-mini" / "coco" / f"{table}.csv")
    run = frame[frame["run"].notna() & (frame["metric"] == ("nr" if table == "table1" else "ap"))]
    assert set(run["n_seeds"]) == {1}
    assert set(run["measured_as"]) == {"here", "checkpoint"}
    theirs = run[run["measured_as"] == "checkpoint"]
    has_claim = ~theirs["run"].str.endswith("multiscale")
    if table != "table1":
        assert theirs[has_claim]["published"].between(0.3, 0.5).all()
        assert theirs[has_claim]["source"].str.contains("val").any()
    text = (folder / "reports" / "coco-mini" / "coco" / f"{table}.md").read_text()
    assert "published checkpoint, evaluated here" in text
    assert "its authors" in text


@pytest.mark.parametrize("reports", ["paper", "reports/coco-mini/coco"])
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_compare_what_was_chosen(folder: Path, reports: str, figure: str) -> None:
    """Our two trainings, or the two published checkpoints: each has its figures 4 to 6, drawn from real rows."""
    directory = folder / reports
    assert (directory / f"{figure}.png").stat().st_size > 10_000
    frame = pd.read_csv(directory / f"{figure}.csv")
    assert len(frame) > 3
    assert set(frame["detector"]) >= ({"FreeAnchor"} if figure == "figure4" else {"FreeAnchor", "RetinaNet"})


def test_the_two_pages_are_of_two_pairs(folder: Path) -> None:
    """The page of the published ones is not that of the trainings under another name."""
    runs = [pd.read_csv(folder / part / "headline.csv")["run"].iloc[0] for part in ("paper", "reports/coco-mini/coco")]
    headline = (folder / "reports/coco-mini/coco/headline.md").read_text()
    assert "published checkpoint, evaluated here" in headline and "mmdetection-retinanet-r50 and" in headline
    assert runs == ["retinanet-r50-s0 freeanchor-r50-s0", "mmdetection-retinanet-r50 mmdetection-free-anchor-r50"]


def test_published_checkpoints_have_provenance(folder: Path, profile: Profile) -> None:
    """What was read, its checksum, how it was taken."""
    for name in profile.zoo:
        record = json.loads((profile.evaluations[name].training.directory(folder / "runs") / "train.json").read_text())
        assert len(record["sha256"]) == 64
        assert record["config"]["origin"]["format"] in name
        assert record["seconds"] is None


def test_trained_runs_leave_what_a_run_leaves(folder: Path, profile: Profile) -> None:
    """Metrics, snapshots and a record for each of ours: ten of the tables, one ablation."""
    own = [name for name in profile.evaluations if name not in profile.zoo]
    assert len(own) == 11
    for name in own:
        directory = profile.evaluations[name].training.directory(folder / "runs")
        assert {"metrics.jsonl", "model.safetensors", "snapshots", "train.json"} <= {
            p.name for p in directory.iterdir()
        }
        assert not (directory / "state.safetensors").exists()


def test_a_second_zoo_does_nothing(folder: Path) -> None:
    """Nothing is fetched, converted or tested twice."""
    assert _make(folder, *_options(folder), "CHOSEN=zoo", "-q", "reports/coco-mini/coco/index.html").returncode == 0


def test_a_missing_published_file_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says where the file belongs and where to get it; nothing is left behind."""
    where = ["--profile", "coco-mini", "--data", str(folder / "coco")]
    where += ["--runs", str(tmp_path / "runs"), "--downloads", str(tmp_path / "downloads")]
    assert main(["train", "authors-free-anchor-r50", *where]) == 2
    error = capsys.readouterr().err
    assert "authors-free-anchor-r50.pth: not there" in error and "drive.google.com" in error
    assert not any(tmp_path.rglob("*.safetensors"))
