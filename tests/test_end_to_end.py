"""The demonstration in miniature: make's own plan of it, run to the end, run again, and killed on the way.

make says what is to be done (`make -n`), and the commands are run in one process instead of one each, since every
process would wait for torch to load.
"""

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from experiments.reports.catalogue import REPORTS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("freeanchor", "analysis", "experiments", "Makefile", "make", "pyproject.toml", "requirements.lock")
OPTIONS = ("PROFILE=mini", "THREADS=1", "PRECISION=float32", "CHOSEN=demo")
PAGE = "reports/mini/index.html"
TABLES = [name for name, report in REPORTS.items() if name.startswith("table")]
FIGURES = [name for name, report in REPORTS.items() if "figure" in report.kinds]
# Each line of the plan in turn, in one process; a slow training, so that a kill can hit it.
RUN_ALL = """
import shlex, sys, time
from experiments.cli import main
from freeanchor.training import loop as train

seconds, step = float(sys.argv[1]), train.training_step

def slowly(*arguments):
    time.sleep(seconds)
    return step(*arguments)

train.training_step = slowly
for line in sys.stdin.read().splitlines():
    status = main(shlex.split(line))
    if status:
        sys.exit(status)
"""


def _tree(folder: Path) -> Path:
    """A copy of the sources with a stand-in for the virtual environment, as if it had just been set up."""
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    command = folder / ".venv" / "bin" / "freeanchor"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m experiments.cli "$@"\n')
    command.chmod(0o755)
    (folder / ".venv" / ".ready").touch()
    return folder


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return {**kept, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", *OPTIONS, *arguments]
    return subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False)


def _plan(folder: Path) -> list[str]:
    """The commands that are left to do, as make orders them."""
    answer = _make(folder, "-n", PAGE)
    assert answer.returncode == 0, answer.stderr
    found = re.findall(r"^(?:OMP_NUM_THREADS=\d+ )?\.venv/bin/freeanchor (.*)$", answer.stdout, re.MULTILINE)
    return [line for line in found if not line.startswith("plan ")]


def _start(folder: Path, commands: list[str], seconds: float) -> subprocess.Popen[str]:
    """Run the commands in a process, and a process group, of its own, each training step `seconds` longer."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_ALL, str(seconds)],
        cwd=folder,
        env=_environment(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write("\n".join(commands))
    process.stdin.close()
    process.stdin = None
    return process


def _stop(folder: Path, number: signal.Signals, pattern: str, delay: float) -> subprocess.Popen[str]:
    """Begin what is left to do; signal the whole group `delay` seconds after a file of `pattern` is there."""
    process = _start(folder, _plan(folder), seconds=0.03)
    deadline = time.monotonic() + 120
    while process.poll() is None and not any(folder.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    assert process.poll() is None, "nothing was left to interrupt"
    os.killpg(process.pid, number)
    return process


def _run(folder: Path, commands: list[str]) -> None:
    """Run the commands here, to their end."""
    with contextlib.chdir(folder):
        for command in commands:
            assert main(shlex.split(command)) == 0, command


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration, never interrupted."""
    folder = _tree(tmp_path_factory.mktemp("whole"))
    _run(folder, _plan(folder))
    return folder


def _csvs(folder: Path) -> dict[str, str]:
    """Every csv of the report, without what is measured by the clock."""
    found = {}
    for path in sorted((folder / "reports" / "mini").glob("*.csv")):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "metric" in frame:
            frame = frame[~frame["metric"].isin(["training_seconds", "images_per_second"])]
        if path.name == "claims.csv":
            frame = frame[frame["id"] != "cost"]
        found[path.name] = frame.to_csv(index=False)
    return found


def test_the_demonstration_makes_every_table_and_figure(whole: Path) -> None:
    """Tables 1 to 3, Figs. 1 to 6, training, comparison and the page, each with its csv; *not run* where not run."""
    folder = whole / "reports" / "mini"
    expected = {f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "md", "tex")}
    expected |= {f"{name}.{suffix}" for name in FIGURES for suffix in ("csv", "png", "pdf")}
    expected |= {"comparison.csv", "claims.csv", "claims.md", "index.html"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert all((folder / name).stat().st_size > 0 for name in expected)
    page = (folder / "index.html").read_text()
    assert "not run" in page
    assert page.count("data:image/webp;base64,") == len(FIGURES)
    for table in ("table2", "table3"):
        assert "not run" in (folder / f"{table}.md").read_text()


def test_the_demonstration_measures_both_detectors(whole: Path) -> None:
    """Numbers of both in Tables 1 and 2, beside the paper's; the large backbone is not run."""
    for name in ("table1", "table2"):
        frame = pd.read_csv(whole / "reports" / "mini" / f"{name}.csv")
        small = frame[frame["run"].str.contains("-small-")]
        assert set(small["detector"]) == {"RetinaNet", "FreeAnchor"}
        assert set(small["n_seeds"]) == {1}
        assert frame[~frame["run"].str.contains("-small-")]["value"].isna().all()
        assert frame["published"].notna().all()
    ap = pd.read_csv(whole / "reports" / "mini" / "table2.csv")
    assert ap[(ap["metric"] == "ap") & (ap["n_seeds"] == 1)]["value"].between(0, 1).all()


def test_a_second_demonstration_does_nothing_at_once(whole: Path) -> None:
    """make finds everything up to date, says so, and takes less than three seconds."""
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    started = time.monotonic()
    answer = _make(whole, "demo")
    seconds = time.monotonic() - started
    assert answer.returncode == 0
    assert "nothing to do" in answer.stdout
    assert PAGE in answer.stdout
    assert seconds < 3
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()} == before


def test_nothing_temporary_is_left(whole: Path) -> None:
    """Neither half files nor states to resume from."""
    names = [path.name for part in ("runs", "data", "reports") for path in (whole / part).rglob("*")]
    assert [name for name in names if name.endswith((".tmp", ".partial")) or name == "state.safetensors"] == []


def test_a_changed_source_remakes_reports_but_no_run(whole: Path, tmp_path: Path) -> None:
    """After an edit of the analyses nothing is trained or tested again, every report is written again."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder, copy_function=shutil.copy2)
    (folder / "analysis" / "tables" / "markup.py").touch()
    plan = _plan(folder)
    assert {line.split()[0] for line in plan} == {"report"}
    written = [name for line in plan for name in line.split(" --")[0].split()[1:]]
    assert set(written) - {"index"} == set(REPORTS)  # a dry run of GNU Make 4.3 does not see that the page is due
    assert len(written) == len(set(written))


@pytest.mark.slow  # `test_train_resume` and `test_torchrun` stop and resume a training in every run
def test_stopped_on_its_way_and_restarted_it_ends_the_same(whole: Path, tmp_path: Path) -> None:
    """Killed while drawing, stopped with Ctrl-C in training, killed while testing: the same tables in the end."""
    folder, moment = _tree(tmp_path), random.Random(0)
    shutil.copytree(whole / ".make", folder / ".make")
    killed = _stop(folder, signal.SIGKILL, "data/.*/images/*.jpg", moment.uniform(0, 0.3))
    killed.communicate()
    assert not any(folder.glob("data/shapes-*/val.json"))
    stopped = _stop(folder, signal.SIGINT, "runs/mini/*/metrics.jsonl", moment.uniform(0, 0.5))
    errors = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 130
    assert "stopped at step" in errors
    assert len(list(folder.glob("runs/mini/*/state.safetensors"))) == 1
    killed = _stop(folder, signal.SIGKILL, "runs/mini/*/val-*", moment.uniform(0, 0.2))
    killed.communicate()
    left = _plan(folder)
    assert left[-1].startswith("report index")
    _run(folder, left)
    assert _csvs(folder) == _csvs(whole)
    assert _make(folder, "-q", PAGE).returncode == 0


def test_kept_runs_give_the_same_reports_without_a_training(whole: Path, tmp_path: Path) -> None:
    """On a fresh clone with the kept runs make draws the data and writes every csv as it was; nothing is trained."""
    folder = tmp_path / "clone"
    shutil.copytree(whole, folder, copy_function=shutil.copy2)
    _run(folder, ["pack --profile mini"])
    committed = ("kept", "models", "models.csv")
    for name in committed:
        shutil.move(folder / "reports" / "mini" / name, tmp_path / name)
    for made in ("runs", "data", "reports"):
        shutil.rmtree(folder / made)
    (folder / "reports" / "mini").mkdir(parents=True)
    for name in committed:
        shutil.move(tmp_path / name, folder / "reports" / "mini" / name)
    _run(folder, ["unpack --profile mini"])
    _run(folder, _plan(folder))
    assert not list((folder / "runs").rglob("*.safetensors"))
    tables = [it / "reports" / "mini" for it in (folder, whole)]
    after, before = ({path.name: path.read_text() for path in table.glob("*.csv")} for table in tables)
    assert after == before
    assert _make(folder, "-q", PAGE).returncode == 0
