"""Work spread over processes: results in order, errors passed on, and nobody left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from freeanchor.workers import map_in_processes, usable_processors

ROOT = Path(__file__).resolve().parents[3]
NEEDS_FORK = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux only")
# prints the process ids of both workers, then works on; the result is larger than what a pipe holds
PROGRAM = """
import os, time
from freeanchor.workers import map_in_processes

def work(item):
    os.write(1, f"{{os.getpid()}}\\n".encode())
    time.sleep({seconds})
    return bytes(1_000_000)

map_in_processes(work, range(2), num_processes=2)
"""


def _started(seconds: float) -> tuple[subprocess.Popen, list[int]]:
    """A program that spreads work over two processes, in a group of its own, and the ids of both."""
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(seconds=seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
    )
    return program, [int(program.stdout.readline()) for _ in range(2)]


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except FileNotFoundError:
        return False


def _all_gone(processes: list[int], within: float) -> bool:
    deadline = time.monotonic() + within
    while any(_is_alive(one) for one in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("num_processes", [1, 2, 3, 9])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_the_order_of_the_items(num_processes, count):
    """Whatever the number of processes, also with fewer items than processes, and with none."""
    assert map_in_processes(lambda item: item**2, iter(range(count)), num_processes=num_processes) == [
        item**2 for item in range(count)
    ]


@NEEDS_FORK
def test_the_work_is_spread():
    """Two processes share the items in turn, and one of them is the caller."""
    ids = map_in_processes(lambda item: os.getpid(), range(5), num_processes=2)
    assert ids[::2] == [os.getpid()] * 3
    assert len(set(ids)) == 2


@pytest.mark.parametrize("culprit", [0, 1])
def test_errors_are_raised_here(culprit):
    """An error in the caller's share or in another process reaches the caller, and no process is left."""

    def fail(item):
        if item == culprit:
            raise ValueError(f"item {item} is bad")
        return item

    with pytest.raises(ValueError, match=f"item {culprit} is bad"):
        map_in_processes(fail, range(4), num_processes=2)
    assert multiprocessing.active_children() == []


@NEEDS_FORK
def test_a_process_that_dies_is_noticed():
    """A process that the system kills gives an error, not a wait without end."""

    def die(item):
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(RuntimeError, match="ended before its work was done"):
        map_in_processes(die, range(2), num_processes=2)
    assert multiprocessing.active_children() == []


@NEEDS_FORK
def test_ctrl_c_ends_all_of_it():
    """Ctrl-C goes to the whole group, as a terminal sends it: one traceback at most, and no process stays."""
    program, processes = _started(60)
    os.killpg(program.pid, signal.SIGINT)
    _, error = program.communicate(timeout=30)
    assert program.returncode == -signal.SIGINT
    assert error.count("Traceback") == 1
    assert _all_gone(processes, within=5)


@NEEDS_FORK
def test_a_killed_caller_leaves_nobody_waiting():
    """The other process ends once its share is done, though nobody reads what it found."""
    program, processes = _started(0.5)
    program.kill()
    program.communicate(timeout=30)
    assert _all_gone(processes, within=20)


def test_no_process_is_refused():
    """Fewer than one process cannot be meant."""
    with pytest.raises(ValueError, match="at least 1, got 0"):
        map_in_processes(abs, [1], num_processes=0)


def test_processors_are_at_least_one_and_capped():
    """There is always one, and never more than the limit."""
    assert usable_processors(limit=1) == 1
    assert 1 <= usable_processors() <= 8
