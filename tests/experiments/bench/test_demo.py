"""What `make demo` costs: each command is timed, and the log is summed up by kind of command."""

import json
import sys
from pathlib import Path

import pytest

from experiments.bench.demo import main, stages


def _line(words: list[str], cpu_seconds: float, end: float) -> str:
    return json.dumps({"words": words, "cpu_seconds": cpu_seconds, "end": end}) + "\n"


def test_costs_are_summed_by_kind_of_command(tmp_path: Path) -> None:
    """CPU seconds and commands add up, the end is the last one's, and the first page is the first report."""
    log = tmp_path / "demo.jsonl"
    lines = [
        _line(["data", "draw"], 90, 1050), _line(["report", "all"], 20, 1080), _line(["train", "a"], 500, 1600),
        _line(["train", "b"], 520, 1610), _line(["report", "table1"], 30, 1700),
    ]  # fmt: skip
    log.write_text("".join(lines))
    frame = stages(log, started=1000).set_index("stage")
    assert frame.loc["training"].tolist() == [2, 1020, 610]
    assert frame.loc["reports"].tolist() == [2, 50, 700]
    assert frame.loc["first page (among the reports)"].tolist() == [1, 20, 80]


def test_a_command_is_timed_and_its_status_kept(tmp_path: Path) -> None:
    """One line per command; a failure stays one."""
    log = tmp_path / "demo.jsonl"
    for status in (0, 3):
        command = [sys.executable, "-c", f"import sys; sum(range(10**6)); sys.exit({status})"]
        assert main(["--log", str(log), *command]) == status
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["words"][0] for line in lines] == ["-c", "-c"]
    assert all(0 < line["cpu_seconds"] < 60 for line in lines)
    assert lines[1]["end"] == pytest.approx(lines[0]["end"], abs=60)
