"""The coco profile in miniature, a part of it or (slow) the whole: trainings and published checkpoints, to the reports.

A folder has COCO's layout. The recipes are the paper's, shrunk by the profile alone: a few steps, small images, a
narrow network. The published checkpoints are stand-ins with random weights in each code base's own names, made by the
oracles of the converters. make plans what is run.
"""

import contextlib
import json
import pickle
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
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
REPORTS = "reports/coco-mini/coco"
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


PART = ("table1", "figure4", "figure5", "figure6", "headline")  # one pair, and a checkpoint of each code base


@dataclass(frozen=True)
class Done:
    """What was run in a folder: reports of ours in `paper`, then of the published checkpoints in `reports`."""

    folder: Path
    profile: Profile
    targets: tuple[str, ...]  # of make
    tables: tuple[str, ...]
    own: tuple[str, ...]  # our runs
    zoo: tuple[str, ...]

    @property
    def reports(self) -> tuple[Path, Path]:
        """The folders of both reports."""
        return self.folder / "paper", self.folder / REPORTS

    def make(self, chosen: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What make says of the targets."""
        usual = (option for option in OPTIONS if "=mini" not in option and "CHOSEN" not in option)
        where = ("PROFILE=coco-mini", f"DATA={self.folder / 'coco'}", f"CHOSEN={chosen}")
        return _make(self.folder, *usual, *where, *arguments, *self.targets)

    def finish(self, chosen: str) -> set[str]:
        """Run what make plans for the targets, in this process; the verbs of the commands."""
        answer = self.make(chosen, "-n")
        assert answer.returncode == 0, answer.stderr
        found = re.findall(r"^(?:OMP_NUM_THREADS=\d+ )?\.venv/bin/freeanchor (.*)$", answer.stdout, re.MULTILINE)
        commands = [line for line in found if not line.startswith("plan ")]
        with contextlib.chdir(self.folder):
            for command in commands:
                assert main(shlex.split(command)) == 0, command
        return {line.split()[0] for line in commands}


@pytest.fixture(scope="module", params=["part", pytest.param("whole", marks=pytest.mark.slow)])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Our trainings run, then the published checkpoints: those of Table 1 and its figures, or of the whole page."""
    folder = _tree(tmp_path_factory.mktemp("coco"))
    profile = build_profile("coco-mini", data=_coco_folder(folder / "coco"))
    is_whole = request.param == "whole"
    tables = TABLES if is_whole else TABLES[:1]
    runs = [
        name for name in profile.evaluations if is_whole or any(name in row.runs for row in profile.tables["table1"])
    ]
    zoo = tuple(name for name in runs if name in profile.zoo)
    (folder / "downloads").mkdir()
    for name in zoo:
        checkpoint = profile.evaluations[name].training
        assert isinstance(checkpoint, PublishedCheckpoint)
        _write_checkpoint(checkpoint, folder / "downloads" / checkpoint.file)
    targets = ("index.html",) if is_whole else tuple(f"{name}.csv" for name in PART)
    own = tuple(name for name in runs if name not in zoo)
    done = Done(folder, profile, tuple(f"{REPORTS}/{name}" for name in targets), tables, own, zoo)
    assert done.finish("paper") == {"train", "predict", "report"} | ({"cost"} if is_whole else set())
    shutil.copytree(folder / REPORTS, folder / "paper")
    done.finish("zoo")
    return done


def test_every_row_of_a_table_is_measured(done: Done) -> None:
    """Ours and the published ones; only detectors that the paper quotes from others have no run."""
    for table in done.tables:
        frame = pd.read_csv(done.folder / REPORTS / f"{table}.csv")
        run = frame[frame["run"].notna() & (frame["metric"] == ("nr" if table == "table1" else "ap"))]
        assert set(run["n_seeds"]) == {1}
        assert set(run["measured_as"]) == {"here", "checkpoint"}
        theirs = run[run["measured_as"] == "checkpoint"]
        has_claim = ~theirs["run"].str.endswith("multiscale")
        if table != "table1":
            assert theirs[has_claim]["published"].between(0.3, 0.5).all()
            assert theirs[has_claim]["source"].str.contains("val").any()
        text = (done.folder / REPORTS / f"{table}.md").read_text()
        assert "published checkpoint, evaluated here" in text
        assert "its authors" in text


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_compare_what_was_chosen(done: Done, figure: str) -> None:
    """Our two trainings, or the two published checkpoints: each has its figures 4 to 6, drawn from real rows."""
    for directory in done.reports:
        assert (directory / f"{figure}.png").stat().st_size > 10_000
        frame = pd.read_csv(directory / f"{figure}.csv")
        assert len(frame) > 3
        assert set(frame["detector"]) >= ({"FreeAnchor"} if figure == "figure4" else {"FreeAnchor", "RetinaNet"})


def test_the_two_reports_are_of_two_pairs(done: Done) -> None:
    """The report of the published ones is not that of the trainings under another name."""
    runs = [pd.read_csv(directory / "headline.csv")["run"].iloc[0] for directory in done.reports]
    headline = (done.folder / REPORTS / "headline.md").read_text()
    assert "published checkpoint, evaluated here" in headline and "mmdetection-retinanet-r50 and" in headline
    assert runs == ["retinanet-r50-s0 freeanchor-r50-s0", "mmdetection-retinanet-r50 mmdetection-free-anchor-r50"]


def test_published_checkpoints_have_provenance(done: Done) -> None:
    """What was read, its checksum, how it was taken."""
    assert {name.partition("-")[0] for name in done.zoo} == {"authors", "mmdetection", "torchvision", "detectron2"}
    for name in done.zoo:
        directory = done.profile.evaluations[name].training.directory(done.folder / "runs")
        record = json.loads((directory / "train.json").read_text())
        assert len(record["sha256"]) == 64
        assert record["config"]["origin"]["format"] in name
        assert record["seconds"] is None


def test_trained_runs_leave_what_a_run_leaves(done: Done) -> None:
    """Metrics, snapshots and a record for each of ours: ten of the tables and one ablation on the whole page."""
    assert len(done.own) == (11 if len(done.tables) == 3 else 2)
    for name in done.own:
        directory = done.profile.evaluations[name].training.directory(done.folder / "runs")
        left = {path.name for path in directory.iterdir()}
        assert {"metrics.jsonl", "model.safetensors", "snapshots", "train.json"} <= left
        assert "state.safetensors" not in left


def test_a_second_zoo_does_nothing(done: Done) -> None:
    """Nothing is fetched, converted or tested twice."""
    assert done.make("zoo", "-q").returncode == 0


def test_a_missing_published_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says where the file belongs and where to get it; nothing is left behind."""
    where = ["--profile", "coco-mini", "--data", str(_coco_folder(tmp_path / "coco"))]
    where += ["--runs", str(tmp_path / "runs"), "--downloads", str(tmp_path / "downloads")]
    assert main(["train", "authors-free-anchor-r50", *where]) == 2
    error = capsys.readouterr().err
    assert "authors-free-anchor-r50.pth: not there" in error and "drive.google.com" in error
    assert not any(tmp_path.rglob("*.safetensors"))
