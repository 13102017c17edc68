"""The demonstration in miniature, killed at many random moments and begun again until it is through.

Not collected by pytest, since it takes minutes; `test_end_to_end` kills at three chosen moments. Every other kill waits
for a file in the making, so that writing is hit as often as computing. After each kill every visible file must be
whole; at the end all tables must be, byte for byte but for what the clock measures, those of a run never killed, and
no temporary file may be left. Whenever it gets through before all kills are spent, it begins from nothing again.

    python tests/kill_at_random.py --kills 50 --seed 0
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from PIL import Image
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from test_end_to_end import PAGE, _csvs, _make, _plan, _start, _tree

LONGEST = 25.0  # seconds that a run is left alone at most; starting Python takes three of them
UNFINISHED = (".tmp", ".partial")


def _unfinished(folder: Path) -> list[Path]:
    """Files and folders in the making."""
    return [path for path in folder.rglob(".*") if path.name.endswith(UNFINISHED) and ".venv" not in path.parts]


def _kill(process: subprocess.Popen[str]) -> bool:
    """Kill the whole group; whether it was still running."""
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return True


def _hit(folder: Path, process: subprocess.Popen[str], moment: random.Random, *, while_writing: bool) -> bool:
    """Kill after a random time, or in the middle of a write that follows it; whether there was anything to kill."""
    deadline = time.monotonic() + moment.uniform(0.5, LONGEST)
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    last = time.monotonic() + 10
    while while_writing and process.poll() is None and time.monotonic() < last and not _unfinished(folder):
        time.sleep(0.0005)
    return _kill(process)


def _check_whole(folder: Path) -> int:
    """Read every visible file of runs, data and reports to its end; their number. Raises where one is half."""
    count = 0
    for part in ("data", "runs", "reports"):
        for path in sorted((folder / part).rglob("*")):
            hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
            if hidden or not path.is_file():
                continue
            count += 1
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".csv":
                pd.read_csv(path)
            elif path.suffix in (".png", ".jpg"):
                with Image.open(path) as image:
                    image.load()
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    assert all(file.get_tensor(name) is not None for name in file.keys())  # noqa: SIM118
            elif path.suffix in (".html", ".md", ".tex", ".pdf"):
                assert path.stat().st_size > 0, path
    return count


def main() -> int:
    """Kill, check, go on; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moment = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        whole = _tree(Path(name) / "whole")
        assert _start(whole, _plan(whole), 0).wait() == 0
        expected = _csvs(whole)
        kills, rounds, hits_while_writing = 0, 0, 0
        while kills < options.kills or rounds == 0:
            folder = _tree(Path(name) / f"round-{rounds}")
            while left := _plan(folder):
                process = _start(folder, left, 0)
                if kills < options.kills and _hit(folder, process, moment, while_writing=bool(kills % 2)):
                    kills += 1
                    hits_while_writing += bool(_unfinished(folder))
                    count = _check_whole(folder)
                    print(f"kill {kills}: {count} files whole, {len(left)} commands were left", flush=True)
                else:
                    assert process.wait() == 0, process.communicate()[1]
            rounds += 1
            assert _csvs(folder) == expected, f"round {rounds}: other tables than a run never killed"
            assert _unfinished(folder) == [], _unfinished(folder)
            assert _make(folder, "-q", PAGE).returncode == 0
            print(f"round {rounds}: the same {len(expected)} tables, nothing left over", flush=True)
    print(f"{kills} kills, {hits_while_writing} while writing, {rounds} rounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
