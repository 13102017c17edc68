"""The Makefile: which plan it asks for, what users may call their folders, what `make help` lists. make reads a copy."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_end_to_end import ROOT, _environment

from experiments.registry.build import build_profile
from experiments.reports.catalogue import REPORTS
from experiments.reports.plan import escape, make_rule, make_rules
from experiments.runs.store import Store
from freeanchor.errors import DataError

# In place of the front door: writes down what it was given, and for `plan` and `report` leaves what they leave.
STAND_IN = """#!/bin/sh
printf '%s\\n' "$@" END >> given.txt
case $1 in
plan) cat rules.mk ;;
report) mkdir -p "$(dirname "$(cat page.txt)")" && touch "$(cat page.txt)" ;;
esac
"""
BY_HAND = "authors-free-anchor-r50"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """The Makefile alone, with a stand-in for the front door."""
    desk = tmp_path / "desk"
    command = desk / ".venv" / "bin" / "freeanchor"
    command.parent.mkdir(parents=True)
    command.write_text(STAND_IN)
    command.chmod(0o755)
    shutil.copy2(ROOT / "Makefile", desk)
    shutil.copytree(ROOT / "make", desk / "make")
    for name in ("requirements.lock", "pyproject.toml", ".venv/.ready"):
        (desk / name).touch()
    return desk


def _make(desk: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make; `variables` stand in its environment."""
    environment = {**_environment(desk), **variables}
    return subprocess.run(["make", *arguments], cwd=desk, env=environment, capture_output=True, text=True, check=False)


def _write_rules(desk: Path, page: Path, command: str = "report index $(WHERE)") -> None:
    """The plan that the stand-in prints: a page, and the command that makes it."""
    (desk / "page.txt").write_text(str(page))
    rule = make_rule(page, [], f"@$(FREEANCHOR) {command}", also=" $(REPORT_NEEDS)")
    (desk / "rules.mk").write_text(f"REPORT := {escape(page)}\n.PHONY: first-page\nfirst-page:\n{rule}")
    (desk / "given.txt").write_text("")


def _asked(desk: Path, data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`make demo` of a user's own images."""
    _write_rules(desk, Path("reports", "photos", data.name, "index.html"))
    return _make(desk, "demo", "PROFILE=photos", f"DATA={data}", "THREADS=1", *options)


def _given(desk: Path) -> dict[str, list[str]]:
    """What each command of the front door was given."""
    calls = (desk / "given.txt").read_text().removesuffix("END\n").split("END\n")
    return {words[0]: words[1:] for words in (call.splitlines() for call in calls) if words}


def test_the_explorer_is_given_the_profile_and_the_machine(desk: Path) -> None:
    """What a user says of data, seeds and device reaches the command; no run is planned for."""
    data = desk / "doors"
    data.mkdir()
    asked = _make(desk, "explorer", "PROFILE=photos", f"DATA={data}", "IMAGES=hidden", "THREADS=1")
    assert asked.returncode == 0, asked.stderr
    given = _given(desk)
    assert list(given) == ["explore"]
    words = " ".join(given["explore"])
    assert f"--profile photos --seeds 1 --data {data} --hide-images --device cpu --threads 1" in words


def test_a_checkpoint_put_there_by_hand_is_planned_for(desk: Path) -> None:
    """Also where the plan is made already and the file is older than it; the new plan evaluates it."""
    _write_rules(desk, Path("reports/coco/index.html"))
    assert _make(desk, "zoo", "PROFILE=coco").returncode == 0
    (desk / "given.txt").write_text("")
    assert _make(desk, "zoo", "PROFILE=coco").returncode == 0
    assert "plan" not in _given(desk)
    file = desk / "downloads" / f"{BY_HAND}.pth"
    store, profile = Store(downloads=file.parent), build_profile("coco", chosen="zoo")
    rules = [make_rules(profile, store, reports=Path("reports"), chosen="zoo")]
    file.parent.mkdir()
    file.touch()
    os.utime(file, (1_500_000_000, 1_500_000_000))
    assert _make(desk, "zoo", "PROFILE=coco").returncode == 0
    assert "plan" in _given(desk)
    rules.append(make_rules(profile, store, reports=Path("reports"), chosen="zoo"))
    tested = next(str(run.directory(Path("runs"))) for run in profile.evaluations.values() if run.name == BY_HAND)
    waited_for = [f"{tested}/measurements.csv" in _needs(text, "reports/coco/table2.csv") for text in rules]
    assert waited_for == [False, True]


def _needs(rules: str, target: str) -> list[str]:
    """What a target of the rules waits for."""
    parts = [line.split(" &: ") for line in rules.splitlines() if " &: " in line]
    (needs,) = (needs for targets, needs in parts if target in targets.split())
    return needs.split()


def test_processes_share_the_cores(desk: Path) -> None:
    """Two processes of each of two runs on eight cores have two threads each."""
    _write_rules(desk, Path("reports/mini/figure1.csv"), "train x $(WHERE) $(HOW)")
    options = ("PROFILE=mini", "JOBS=2", "PROCESSES=2", "CORES=8", "-n", "reports/mini/figure1.csv")
    assert "--threads 2 " in _make(desk, *options).stdout


def test_help_lists_every_target_in_groups(desk: Path) -> None:
    """Before anything is set up: first demo and test, then everyday ones, all reports by their titles, upkeep."""
    (desk / ".venv/.ready").unlink()
    for package in ("freeanchor", "analysis", "experiments"):
        (desk / package).mkdir()
    answer = _make(desk, "help")
    assert answer.returncode == 0 and answer.stderr == ""
    groups = {lines[0]: lines[1:] for lines in (part.splitlines() for part in answer.stdout.strip().split("\n\n"))}
    targets = {group: [line.split()[0] for line in lines] for group, lines in groups.items()}
    assert [*targets][:4] == ["First", "Everyday", "Reports", "Upkeep"]
    assert targets["First"] == ["demo", "test"]
    assert targets["Reports"] == [*REPORTS]
    assert all(line.endswith(report.title) for line, report in zip(groups["Reports"], REPORTS.values(), strict=True))
    listed = {name for names in targets.values() for name in names}
    makefile = (desk / "Makefile").read_text()
    assert listed >= set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, flags=re.M)) >= {"setup", "paper", "purge"}
    assert not (desk / ".make").exists()
    variables = next(lines for group, lines in groups.items() if group.startswith("Variables"))
    named = [line.split("=")[0].strip() for line in variables]
    assert named == re.findall(r"^([A-Z_]+) \?=", makefile, flags=re.M)
    (text,) = re.findall(r"^SETTINGS := ([A-Z_ \\\s]+)$", makefile, flags=re.M)  # those that are taken as text
    assert text.replace("\\", " ").split() == named


NAMES = (
    "plain", "two  blanks ", "Photos (2024)", "my(pics)", "R&D", "a<b>c", "it's", 'a"b', "a`b", "$HOME", "$(x)", "~", "5%",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", ["plain", "two  blanks ", "it's", "$HOME", "a|b", "a#b"])
def test_anchors_are_asked_of_the_folder_as_it_is_called(tmp_path: Path, desk: Path, name: str) -> None:
    """Whatever its name, since no rule is made of it; without a folder the command itself says what is missing."""
    data = tmp_path / name
    data.mkdir()
    (desk / "given.txt").write_text("")
    answer = _make(desk, "anchors", f"DATA={data}")
    assert answer.returncode == 0, answer.stderr
    assert _given(desk)["anchors"] == [str(data), "--csv", "anchors/fit.csv", "--figure", "anchors/fit.png"]
    assert _make(desk, "anchors").returncode == 0
    assert (desk / "given.txt").read_text().split("END\n")[1].splitlines()[1] == "--csv"


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


# Each would leave a file named MADE if Make or a shell took it for more than text.
ACTS = (
    "$(shell touch MADE)",
    "`touch MADE`",
    "${shell touch MADE}$$(touch MADE)",
    "x';touch MADE;'",
    '"; touch MADE #',
)
WORDS = {"--data": "DATA", "--backbone-weights": "BACKBONE_WEIGHTS", "--credit": "CREDIT", "--classes": "CLASSES"}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("is_exported", [False, True], ids=["on the command line", "in the environment"])
def test_what_a_user_gives_is_text(desk: Path, act: str, *, is_exported: bool) -> None:
    """It reaches the front door as it is, through both makes of `demo`, and nothing in it is executed."""
    given = {**dict.fromkeys(WORDS.values(), act), "BACKBONE": f"~{act}", "GT": act, "NOBODY_ASKED_FOR": act}
    page = Path("reports/photos/index.html")
    _write_rules(desk, page)
    listed = [] if is_exported else [f"{name}={value}" for name, value in given.items()]
    exported = given if is_exported else {}
    answer = _make(desk, "demo", "PROFILE=photos", "THREADS=1", *listed, **exported)
    assert answer.returncode == 0, answer.stderr
    assert set(_given(desk)) == {"plan", "report"}
    for words in _given(desk).values():
        assert {option: words[words.index(option) + 1] for option in WORDS} == dict.fromkeys(WORDS, act)
        assert words[words.index("--backbone") + 1] == f"~{act}"
    assert _make(desk, "help", *listed, **exported).returncode == 0
    assert not (desk / "MADE").exists()


NUMBERS = ("JOBS", "PROCESSES", "SEEDS", "THREADS", "BATCH", "CORES")


@pytest.mark.parametrize("act", ["$(shell touch MADE)", "x`touch MADE`", ": ; touch MADE", "08", "1 2"])
def test_what_make_computes_with_must_be_numbers_and_words(desk: Path, act: str) -> None:
    """Another value is refused in one line that names the variable; `make help` answers all the same."""
    for name in (*NUMBERS, "PROFILE"):
        if name == "PROFILE" and act == "08":
            continue
        answer = _make(desk, "table1", f"{name}={act}")
        assert answer.returncode == 2 and answer.stdout == "" and answer.stderr.count("\n") == 1
        assert f"*** {name}: must be " in answer.stderr
    given = [f"{name}={act}" for name in (*NUMBERS, "PROFILE", "DEVICE", "SPLITS", "PYTHON")]
    assert "train both detectors" in _make(desk, "help", *given).stdout
    assert not (desk / "MADE").exists() and not (desk / "given.txt").exists()


@pytest.mark.parametrize("name", ["CREDIT", "DATA", "GT", "DEVICE"])
def test_a_line_break_is_refused_in_one_line(desk: Path, name: str) -> None:
    """A recipe cannot hold one: what follows it would be a command."""
    answer = _make(desk, "data", f"{name}=me'\n\ttouch MADE\n'")
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1
    assert f"*** {name}: must not hold a line break" in answer.stderr
    assert _make(desk, "help", f"{name}=me'\n\ttouch MADE\n'").returncode == 0
    assert not (desk / "MADE").exists() and not (desk / "given.txt").exists()


def test_a_path_that_no_rule_can_hold_is_refused(tmp_path: Path) -> None:
    """Behind a link may lie a folder whose name has a line break: its second line would be a rule of its own."""
    for name in ("a\n\ttouch MADE", "a\tb", "a\rb"):
        with pytest.raises(DataError, match=r"^[^\n\t\r]+: a name that [^\n]+; rename it$"):
            escape(tmp_path / name)


def test_changed_annotations_or_weights_ask_for_another_plan(tmp_path: Path, desk: Path) -> None:
    """By their content, whatever their names and dates: the plan, and with it the reports, are made again, once."""
    data, weights = tmp_path / "R&D (1)", tmp_path / "w (1);.pth"
    (data / "annotations #1").mkdir(parents=True)
    changed = [data / "train.json", data / "annotations #1" / "a:b = c.json", weights]
    for path in changed:
        _write_as_of(path, "[]", 1_500_000_000)
    assert _asked(desk, data, f"BACKBONE_WEIGHTS={weights}").returncode == 0
    for path in changed:
        for content, date in (("[1]", 1_400_000_000), ("[]", 1_500_000_000)):
            _write_as_of(path, content, date)
            answer = _asked(desk, data, f"BACKBONE_WEIGHTS={weights}")
            assert "demo: done" in answer.stdout and set(_given(desk)) == {"plan", "report"}, (path, content)
        path.touch()
    assert "nothing to do" in _asked(desk, data, f"BACKBONE_WEIGHTS={weights}").stdout


def _write_as_of(path: Path, content: str, date: int) -> None:
    """Write a file as a copy that keeps dates leaves it (`cp -p`, `unzip`, `rsync -t`)."""
    path.write_text(content)
    os.utime(path, (date, date))


def test_a_home_is_found_behind_its_tilde(tmp_path: Path, desk: Path) -> None:
    """Not every shell puts it in place after DATA=; blanks behind it are no obstacle."""
    (tmp_path / "my images").mkdir()
    answer = _make(desk, "-n", "data", "PROFILE=coco", "DATA=~/my images", HOME=str(tmp_path))
    assert "data coco ~/'my images' " in answer.stdout


@pytest.mark.parametrize("goals", [("unpack", "demo"), ("paper", "pack"), ("pack", "unpack")])
def test_runs_are_packed_alone(desk: Path, goals: tuple[str, str]) -> None:
    """Side by side with a training, what is packed or unpacked would depend on who is first."""
    _write_rules(desk, Path("reports/shapes/index.html"))
    answer = _make(desk, "-n", *goals)
    assert answer.returncode == 2
    assert "make pack and make unpack alone" in answer.stderr
    assert _make(desk, "-n", goals[0]).returncode == 0


@pytest.mark.parametrize("goals", [("demo", "paper"), ("trials", "demo"), ("models", "ablations")])
def test_targets_with_plans_of_their_own_are_made_one_by_one(desk: Path, goals: tuple[str, str]) -> None:
    """One make reads one plan: two of them together are refused, and named."""
    answer = _make(desk, "-n", *goals)
    assert answer.returncode == 2
    extras = ", ".join(name for name, report in REPORTS.items() if report.is_extra)
    assert f"each of demo, paper, zoo, {extras} plans for itself" in answer.stderr
