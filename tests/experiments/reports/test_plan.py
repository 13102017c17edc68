"""The registry as Make rules: make itself reads them, in a folder of its own, and nothing is run."""

import subprocess
from pathlib import Path

import pytest
from oracles.coco_folder import write_both

from experiments.registry.build import build_profile
from experiments.registry.config import DrawnData
from experiments.registry.profile import PEER, Profile
from experiments.reports.catalogue import REPORTS, in_order
from experiments.reports.plan import make_rules, measured_file
from experiments.runs.store import Store

HEAD = (
    "TOGETHER := &\nFREEANCHOR := freeanchor\nLAUNCH := freeanchor\nWHERE := --where\nHOW := --how\nREPORT_NEEDS :=\n"
)


@pytest.fixture
def profile() -> Profile:
    """The miniature, whose registry has the shape of the others'."""
    return build_profile("mini")


def _make(folder: Path, rules: str, *goals: str) -> list[str]:
    """The commands that make would run for the goals, in its order."""
    (folder / "Makefile").write_text(HEAD + rules)
    command = ["make", "-n", "--no-print-directory", "-r", *goals]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return [line for line in answer.stdout.splitlines() if line.startswith("freeanchor")]


def _reported(line: str) -> list[str]:
    """The reports that a command writes."""
    words = line.split(" --")[0].split()
    return words[2:] if words[1] == "report" else []


def _rules(profile: Profile, chosen: str, reports: str = "reports") -> str:
    return make_rules(profile, Store(), reports=Path(reports), chosen=chosen)


def _done(folder: Path, profile: Profile, runs: tuple[str, ...]) -> None:
    """Make the files of runs that are done: data, training, test, each younger than what it needs."""
    for run in runs:
        evaluation = profile.evaluations[run]
        data = evaluation.training.data
        assert isinstance(data, DrawnData)
        files = [
            data.directory(Path("data")) / "val.json",
            evaluation.training.directory(Path("runs")) / "train.json",
            measured_file(evaluation, Store()),
        ]
        for path in files:
            if not (folder / path).exists():  # both runs share the data
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).touch()


@pytest.mark.parametrize("chosen", ["demo", "paper"])
def test_the_page_needs_every_report_and_they_their_runs(tmp_path: Path, profile: Profile, chosen: str) -> None:
    """Data is drawn once, then runs are trained, tested and reported; demo runs two, paper all of them."""
    commands = _make(tmp_path, _rules(profile, chosen), "report")
    runs = profile.demo if chosen == "demo" else tuple(profile.evaluations)
    by_verb = {verb: [line.split()[2] for line in commands if line.split()[1] == verb] for verb in ("train", "predict")}
    reported = [_reported(line) for line in commands if line.split()[1] == "report"]
    trained = {profile.evaluations[run].training.fingerprint for run in by_verb["train"]}
    assert trained == {profile.evaluations[run].training.fingerprint for run in runs}
    assert len(by_verb["train"]) == len(trained)
    assert sorted(by_verb["predict"]) == sorted(runs)
    assert sorted(name for names in reported for name in names) == sorted([*REPORTS, "index"])
    assert reported[-1] == ["index"]
    assert len([line for line in commands if line.startswith("freeanchor data draw")]) == 1
    assert commands[0].startswith("freeanchor data draw") or "figure" in commands[0]


def test_commands_come_in_an_order_that_works(tmp_path: Path, profile: Profile) -> None:
    """Drawn before trained, trained before tested, tested before reported."""
    commands = _make(tmp_path, _rules(profile, "paper"), "report")
    place = {" ".join(line.split()[1:3]): number for number, line in enumerate(commands)}
    place |= {f"report {name}": number for number, line in enumerate(commands) for name in _reported(line)}
    (drawn,) = (number for name, number in place.items() if name.startswith("data"))
    for run, evaluation in profile.evaluations.items():
        same = [other for other, it in profile.evaluations.items() if it.training == evaluation.training]
        (trained,) = (place[f"train {other}"] for other in same if f"train {other}" in place)
        assert drawn < trained < place[f"predict {run}"]
    assert place["predict freeanchor-small-s0"] < place["report comparison"] < place["report figure5"]
    assert place["train freeanchor-large-s0"] < place["cost large"] < place["report claims"]


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("chosen", ["demo", "paper"])
def test_each_report_waits_for_the_runs_it_shows(tmp_path: Path, profile: Profile, name: str, chosen: str) -> None:
    """Tables for their rows' runs, figures for the compared pair, Figs. 2 and 3 for none; in demo for the two only."""
    commands = _make(tmp_path, _rules(profile, chosen), name)
    tested = {line.split()[2] for line in commands if line.split()[1] == "predict"}
    ours = {
        **{table: {run for row in rows for run in row.runs} for table, rows in profile.tables.items()},
        "figure2": set(),
        "figure3": set(),
        "trials": set(profile.trials),
        "ablations": {ablation.run for ablation in profile.ablations},
        "models": set(profile.examples),
        "claims": set(profile.evaluations),
        "peer": set(),  # of which this profile has none
        "grids": set(),
    }
    expected = ours.get(name, set(profile.pair))
    if chosen == "demo":
        expected &= set(profile.demo)
    assert tested == expected
    assert name in _reported(commands[-1])


def test_reports_of_the_same_runs_share_a_process(tmp_path: Path, profile: Profile) -> None:
    """In the demonstration: those of no run, of both runs, which two processes share, of these reports, the claims; the page."""
    reported = [_reported(line) for line in _make(tmp_path, _rules(profile, "demo"), "report")]
    assert len([names for names in reported if names]) <= 8
    assert ["figure2", "figure3"] in [names[:2] for names in reported]


def test_without_grouped_targets_each_report_has_a_process_of_its_own(tmp_path: Path, profile: Profile) -> None:
    """Make before 4.3: the same reports, one by one, each after those that it needs."""
    _done(tmp_path, profile, profile.demo)
    rules = "TOGETHER :=\n" + _rules(profile, "demo")
    reported = [names for names in map(_reported, _make(tmp_path, rules, "report")) if names]
    assert sorted(reported) == sorted([name] for name in [*REPORTS, "index"])
    place = {names[0]: number for number, names in enumerate(reported)}
    assert all(place[other] < place[name] for name, one in REPORTS.items() for other in one.needs)


def test_a_demonstration_shows_a_page_before_its_trainings(tmp_path: Path, profile: Profile) -> None:
    """The data and every report; once, and not where its runs are done."""
    rules = _rules(profile, "demo")
    assert [line.split()[1:3] for line in _make(tmp_path, rules, "first-page")] == [["data", "draw"], ["report", "all"]]
    _done(tmp_path, profile, profile.demo)
    assert _make(tmp_path, rules, "first-page") == []


def test_the_peer_stands_beside_the_first_seeds(tmp_path: Path) -> None:
    """Torchvision's loss has seed 0, and is compared with those of seed 0."""
    profile = build_profile("photos", data=write_both(tmp_path / "ponds"), num_seeds=2)
    assert REPORTS["peer"].runs(profile) == (PEER, "retinanet-small-s0", "freeanchor-small-s0")


def test_what_is_there_is_not_made_again(tmp_path: Path, profile: Profile) -> None:
    """With the runs done, only reports are written; with a report there too, nothing."""
    _done(tmp_path, profile, profile.demo)
    commands = _make(tmp_path, _rules(profile, "demo"), "table2")
    assert ["table2" in _reported(line) for line in commands] == [True]
    (tmp_path / "reports" / "mini").mkdir(parents=True)
    for name in _reported(commands[0]):
        (tmp_path / "reports" / "mini" / f"{name}.csv").touch()
    assert _make(tmp_path, _rules(profile, "demo"), "table2") == []


def test_paper_runs_what_demo_left_out(tmp_path: Path, profile: Profile) -> None:
    """After a demonstration, Table 2 of the paper trains the large backbones only."""
    _done(tmp_path, profile, profile.demo)
    commands = _make(tmp_path, _rules(profile, "paper"), "table2")
    trained = [line.split()[2] for line in commands if line.split()[1] == "train"]
    assert sorted(trained) == ["freeanchor-large-s0", "retinanet-large-s0"]


def test_paths_with_spaces_and_dollars_are_one_path(tmp_path: Path, profile: Profile) -> None:
    """Make finds a report in a folder with a space in its name, and does not expand a dollar."""
    folder = tmp_path / "my reports $HOME"
    (folder / "mini").mkdir(parents=True)
    commands = _make(tmp_path, _rules(profile, "demo", str(folder)), "figure2")
    assert ["figure2" in _reported(line) for line in commands] == [True]
    for name in _reported(commands[0]):
        (folder / "mini" / f"{name}.csv").touch()
    assert _make(tmp_path, _rules(profile, "demo", str(folder)), "figure2") == []


def test_every_report_has_a_target_of_its_name(profile: Profile) -> None:
    """`make table1` to `make figure6`, `make report`: phony, so that a file of that name is no obstacle."""
    lines = _rules(profile, "demo").splitlines()
    (phony,) = (line for line in lines if line.startswith(".PHONY: report"))
    assert set(phony.split()[1:]) == {"report", *REPORTS}
    for name in REPORTS:
        assert f"{name}: reports/mini/{name}.csv" in lines


def test_rules_are_the_same_every_time(profile: Profile) -> None:
    """No set's or clock's order gets into them: an unchanged registry makes nothing stale."""
    assert _rules(profile, "paper") == make_rules(
        build_profile("mini"), Store(), reports=Path("reports"), chosen="paper"
    )


def test_reports_come_after_those_that_they_need() -> None:
    """In one command, whatever the order of their names; the page comes last, and no name twice."""
    asked = ["index", "figure5", "claims", "comparison", "claims"]
    assert in_order(asked) == ["comparison", "figure5", "claims", "index"]
    every = in_order(REPORTS)
    assert sorted(every) == sorted(REPORTS)
    assert all(every.index(other) < every.index(name) for name, one in REPORTS.items() for other in one.needs)
