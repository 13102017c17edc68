"""The Makefile's own part: which plan it asks for. make reads a copy of it, and nothing is run."""

import os
import subprocess
from pathlib import Path

import pytest
from test_end_to_end import _environment, _make, _tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the sources, as if they had just been set up."""
    return _tree(tmp_path)


def test_a_checkpoint_put_there_by_hand_is_planned_for(folder: Path) -> None:
    """Also where the plan is made already and the file is older than it."""

    def trained() -> str:
        answer = _make(folder, "PROFILE=coco", "CHOSEN=zoo", "-n", "reports/coco/index.html")
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    assert "train authors-free-anchor-r50 " not in trained()
    file = folder / "downloads" / "authors-free-anchor-r50.pth"
    file.parent.mkdir()
    file.touch()
    os.utime(file, (1_500_000_000, 1_500_000_000))
    assert "train authors-free-anchor-r50 " in trained()


def test_processes_share_the_cores(folder: Path) -> None:
    """Two processes of each of two runs on eight cores have two threads each."""
    options = ("PROFILE=mini", "JOBS=2", "PROCESSES=2", "CORES=8", "-n", "reports/mini/figure1.csv")
    answer = subprocess.run(
        ["make", *options], cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    assert "--threads 2 " in answer.stdout
