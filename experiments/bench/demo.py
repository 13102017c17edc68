"""What `make demo` costs in a fresh clone: minutes by the clock and CPU seconds, in all and by kind of command.

    python -m experiments.bench.demo --precision float32 --without-avx512 --out reports/demo_cost.csv

Set-up is timed apart. Every command of the Makefile is run by this module's `timed`, which writes a line to a log; for
its sake nothing slow is imported at the top.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from freeanchor.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

# oneDNN's, ATen's and MKL's own switches: what a processor without AVX-512 would be given.
WITHOUT_AVX512 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
COLUMNS = ["stage", "commands", "cpu_seconds", "ends_after_minutes", "precision", "instructions", "hardware", "commit"]
STAGES = {"data": "data", "train": "training", "predict": "testing", "cost": "step cost", "report": "reports"}


def timed(log: Path, command: Sequence[str]) -> int:
    """Run a command, add what it cost to the log as one json line, and return its status."""
    before = os.times()
    status = subprocess.run(command, check=False).returncode
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    line = {"words": list(command[1:3]), "cpu_seconds": spent, "end": time.time()}
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return status


def _make(clone: Path, *words: str, environment: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of one make in the clone; raises UsageError where it fails."""
    before, started = os.times(), time.time()
    status = subprocess.run(["make", *words], cwd=clone, env=os.environ | environment, check=False).returncode
    if status:
        raise UsageError(f"make {words[0]} failed with status {status} in {clone}; its lines above say why")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.time() - started, cpu


def stages(log: Path, started: float) -> "pd.DataFrame":
    """The log by kind of command: how many, their CPU seconds, when the last one ended; and the first page."""
    import pandas as pd

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    rows = [(STAGES.get(line["words"][0], "the rest"), line["cpu_seconds"], line["end"] - started) for line in lines]
    frame = pd.DataFrame(rows, columns=["stage", "cpu_seconds", "seconds"])
    groups = frame.groupby("stage", sort=False)
    summary = groups.agg(commands=("stage", "size"), cpu_seconds=("cpu_seconds", "sum"), seconds=("seconds", "max"))
    first = frame[frame["stage"] == "reports"].sort_values("seconds").head(1)
    pages = pd.DataFrame({"commands": 1, "cpu_seconds": first["cpu_seconds"], "seconds": first["seconds"]})
    return pd.concat([summary.reset_index(), pages.assign(stage="first page (among the reports)")], ignore_index=True)


def measure(clone: Path, precision: str, environment: dict[str, str]) -> "pd.DataFrame":
    """Set up and demonstrate in the clone; one row per stage, "set-up" first and "demo" last."""
    import pandas as pd

    log = clone / ".make" / "demo.jsonl"
    set_up = _make(clone, "setup", environment=environment)
    log.parent.mkdir(exist_ok=True)
    command = f".venv/bin/python -m experiments.bench.demo --log {log} .venv/bin/freeanchor"
    started = time.time()
    whole = _make(clone, "demo", f"PRECISION={precision}", f"FREEANCHOR={command}", environment=environment)
    rows = [("set-up", 1, set_up[1], set_up[0]), ("demo", 1, whole[1], whole[0])]
    ends = pd.DataFrame(rows, columns=["stage", "commands", "cpu_seconds", "seconds"])
    frame = pd.concat([ends[:1], stages(log, started), ends[1:]], ignore_index=True)
    return frame.assign(ends_after_minutes=frame.pop("seconds") / 60).round(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Clone this repository, demonstrate there, print the costs and write them as csv."""
    parser = argparse.ArgumentParser(description="Measure what make demo costs in a fresh clone.")
    parser.add_argument("--precision", default="float32", help="of the network (default: float32)")
    parser.add_argument("--without-avx512", action="store_true", help="as on a processor that has AVX2 alone")
    parser.add_argument("--venv", type=Path, help="use this environment instead of making one")
    parser.add_argument("--keep", type=Path, help="clone into this folder, which must not exist, and leave it there")
    parser.add_argument("--out", type=Path, default=Path("reports/demo_cost.csv"), help="csv to write")
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.log:
        return timed(options.log, options.command)
    if options.keep and options.keep.exists():
        raise UsageError(f"--keep {options.keep}: is there already; give a folder that is not")
    from experiments.runs.store import hardware
    from freeanchor.files import write_csv

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    environment = WITHOUT_AVX512 if options.without_avx512 else {}
    with TemporaryDirectory() as folder:
        clone = (options.keep or Path(folder) / "clone").absolute()
        subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        if options.venv:
            (clone / ".venv").symlink_to(options.venv.resolve())
            (clone / ".venv" / ".ready").touch()
            environment = environment | {"PYTHONPATH": str(clone)}
        frame = measure(clone, options.precision, environment)
    instructions = "AVX2" if options.without_avx512 else "the processor's own"
    origin = {"hardware": hardware("cpu"), "commit": commit.strip()}
    frame = frame.assign(precision=options.precision, instructions=instructions, **origin)
    write_csv(options.out, frame[COLUMNS])
    print(frame[COLUMNS[:4]].to_string(index=False))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
