"""The Makefile's own part: which plan it asks for, what users may call their folders. make reads a copy of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_end_to_end import ROOT, _environment, _make, _tree

from experiments.reports.plan import _escape, _rule

# In place of the front door: writes down what it was given, and for `plan` and `report` leaves what they leave.
STAND_IN = """#!/bin/sh
printf '%s\\n' "$@" END >> given.txt
case $1 in
plan) cat rules.mk ;;
report) mkdir -p "$(dirname "$(cat page.txt)")" && touch "$(cat page.txt)" ;;
esac
"""


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


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The Makefile alone, with a stand-in for the front door."""
    desk = tmp_path / "desk"
    command = desk / ".venv" / "bin" / "freeanchor"
    command.parent.mkdir(parents=True)
    command.write_text(STAND_IN)
    command.chmod(0o755)
    shutil.copy2(ROOT / "Makefile", desk)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.ready"):
        (desk / name).touch()
    return desk


def _asked(desk: Path, data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`make demo` of a user's own images."""
    page = Path("reports", "photos", data.name, "index.html")
    (desk / "page.txt").write_text(str(page))
    rule = _rule(page, [], "@$(FREEANCHOR) report index $(WHERE)", also=" $(REPORT_NEEDS)")
    (desk / "rules.mk").write_text(f"REPORT := {_escape(page)}\n{rule}")
    (desk / "given.txt").write_text("")
    command = ["make", "demo", "PROFILE=photos", f"DATA={data}", "THREADS=1", *options]
    return subprocess.run(command, cwd=desk, env=_environment(desk), capture_output=True, text=True, check=False)


def _given(desk: Path) -> dict[str, list[str]]:
    """What each command of the front door was given."""
    calls = (desk / "given.txt").read_text().removesuffix("END\n").split("END\n")
    return {words[0]: words[1:] for words in (call.splitlines() for call in calls) if words}


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "two  blanks ",
        "Photos (2024)",
        "my(pics)",
        "R&D",
        "a<b>c",
        "it's",
        'a"b',
        "a`b",
        "$HOME",
        "$(x)",
        "~",
        "5%",
    ],
)
def test_images_may_lie_in_folders_of_common_names(tmp_path: Path, desk: Path, name: str) -> None:
    """The front door is given the folder's name, the weights' and the credit as they are, and reports are made once."""
    data, weights = tmp_path / "up | #1 *;" / name, tmp_path / "w;eights | #2 (1).pth"
    data.mkdir(parents=True)
    weights.touch()
    options = [f"BACKBONE_WEIGHTS={weights}", f"CREDIT={name} | # * ; \\ me"]
    answer = _asked(desk, data, *options)
    assert answer.returncode == 0, answer.stderr
    assert f"demo: done, open reports/photos/{name}/index.html" in answer.stdout
    given = _given(desk)
    assert set(given) == {"plan", "report"}
    for words in given.values():
        for option, value in (("--data", data), ("--backbone-weights", weights), ("--credit", options[1][7:])):
            assert words[words.index(option) + 1] == str(value)
    again = _asked(desk, data, *options)
    assert again.stdout == f"demo: nothing to do, reports/photos/{name}/index.html is up to date\n"
    assert _given(desk) == {}


@pytest.mark.parametrize("name", ["a|b", "a*b", "a?b", "a#b", "a:b", "a;b", "a=b", "a\\b"])
def test_names_that_no_rule_can_spell_are_refused_in_one_line(tmp_path: Path, desk: Path, name: str) -> None:
    """The mark is named, and nothing is run."""
    data = tmp_path / name
    data.mkdir()
    answer = _asked(desk, data)
    assert answer.returncode == 2
    line = f"DATA: the name of the folder, {name}, must not hold {name[1]}; rename the folder.  Stop.\n"
    assert answer.stderr.endswith(line) and answer.stderr.count("\n") == 1
    assert answer.stdout == "" and _given(desk) == {}


def test_a_changed_json_or_weights_ask_for_another_plan(tmp_path: Path, desk: Path) -> None:
    """Whatever their names: the plan, and with it the reports, are made again, once."""
    data, weights = tmp_path / "R&D (1)", tmp_path / "w (1);.pth"
    (data / "annotations #1").mkdir(parents=True)
    changed = [data / "train.json", data / "annotations #1" / "a:b = c.json", weights]
    for path in changed:
        path.touch()
        os.utime(path, (1_500_000_000, 1_500_000_000))
    assert _asked(desk, data, f"BACKBONE_WEIGHTS={weights}").returncode == 0
    for path in changed:
        path.touch()
        answer = _asked(desk, data, f"BACKBONE_WEIGHTS={weights}")
        assert "demo: done" in answer.stdout and set(_given(desk)) == {"plan", "report"}, path
        assert "nothing to do" in _asked(desk, data, f"BACKBONE_WEIGHTS={weights}").stdout


def test_a_home_is_found_behind_its_tilde(tmp_path: Path, desk: Path) -> None:
    """Not every shell puts it in place after DATA=; blanks behind it are no obstacle."""
    (tmp_path / "my images").mkdir()
    command = ["make", "-n", "data", "PROFILE=coco", "DATA=~/my images"]
    environment = {**_environment(desk), "HOME": str(tmp_path)}
    answer = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True, check=True)
    assert "data coco ~/'my images' " in answer.stdout


@pytest.mark.parametrize("goals", [("unpack", "demo"), ("paper", "pack"), ("pack", "unpack")])
def test_runs_are_packed_alone(folder: Path, goals: tuple[str, str]) -> None:
    """Side by side with a training, what is packed or unpacked would depend on who is first."""
    answer = _make(folder, "-n", *goals)
    assert answer.returncode == 2
    assert "make pack and make unpack alone" in answer.stderr
    assert _make(folder, "-n", goals[0]).returncode == 0
