"""The readers of files under random damage for as long as wanted; not a test, and not collected by pytest.

    python -m tests.fuzz_readers --minutes 60
    python -m tests.fuzz_readers --minutes 5 --readers "ground truth" checkpoint --seed 7 --out failures

Each round takes a reader of `bad_input/readers.py` in turn, spoils a good file of its kind (junk in places of its json,
bytes flipped, cut and doubled, or a trap of `bad_input/traps.py`; sometimes a spoilt file is spoilt again), and reads it.
A round fails where anything comes but a result that makes sense or the reader's own error in one line; where reading
takes more than 500 MB and 20 times the file, or more than a minute; and where a file appears outside the round's
folder. Rounds run in processes of their own, a hundred in each, which may die. A failed round's file and traceback are
written to the folder of failures, named after the reader and the round's seed; the same `--seed` repeats the same
rounds. Ends with status 1 where a round failed, and prints how many rounds each reader had, refused and failed.
"""

import argparse
import contextlib
import faulthandler
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it

import torch
from bad_input.readers import READERS, Reader
from bad_input.traps import TRAPS, make_bombs
from oracles.mutations import mutate_bytes, mutate_json

MEMORY, TIMES = 500_000_000, 20  # bytes that any file may take, and a large one as often as its size
ROOM = 4_000_000_000  # bytes beyond which a round is stopped at once
SECONDS = 60
ROUNDS = 100  # of one process
TRAPPED = 0.3  # share of rounds
Counts = Counter[tuple[str, str]]


def spoilt(reader: Reader, generator: random.Random) -> bytes:
    """A damaged file of a reader's kind."""
    if generator.random() < TRAPPED:
        data = TRAPS[reader.trap](reader.whole(), generator)
        return mutate_bytes(data, generator) if generator.random() < 0.1 else data
    if reader.value is not None and generator.random() < 0.7:
        value = reader.value
        for _ in range(generator.choice([1, 1, 2])):
            value = mutate_json(value, generator) or value
        data = reader.form(value)
        return mutate_bytes(data, generator) if generator.random() < 0.1 else data
    return mutate_bytes(reader.whole(), generator)


def one_round(reader: Reader, seed: int, folder: Path, out: Path) -> str:
    """ "taken", "refused", or "failed" with what is needed to look at it in `out`."""
    data = spoilt(reader, random.Random(seed))
    try:
        with _within_bounds(len(data)), _nothing_beside(folder):
            return "taken" if reader.check(data, folder) else "refused"
    except Exception:
        _keep(out, reader, seed, data, traceback.format_exc())
        return "failed"


@contextlib.contextmanager
def _within_bounds(size: int) -> Iterator[None]:
    """Raises where the block takes too much time or memory."""
    allowed = max(MEMORY, TIMES * size)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        taken = _memory("VmHWM") - before
    if taken > allowed:
        raise MemoryError(f"reading {size:,} bytes took {taken:,}, more than {allowed:,}")


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])


@contextlib.contextmanager
def _nothing_beside(folder: Path) -> Iterator[None]:
    """Raises where the block leaves a file in the working folder or beside the round's own."""
    places = (Path.cwd(), folder.parent)
    folder.mkdir(exist_ok=True)
    before = [sorted(place.iterdir()) for place in places]
    yield
    for place, names in zip(places, before, strict=True):
        if new := set(place.iterdir()) - set(names):
            raise AssertionError(f"files outside the folder of the output: {sorted(map(str, new))}")


def _keep(out: Path, reader: Reader, seed: int, data: bytes, words: str) -> None:
    place = out / f"{reader.name.replace(' ', '-')}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    (place / Path(reader.file).name).write_bytes(data)
    (place / "traceback.txt").write_text(words, encoding="utf-8", errors="backslashreplace")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def _process(rounds: list[tuple[str, int]], folder: Path, out: Path, told: int, ends: float) -> None:
    """Play rounds in turn, in a process of its own; tells which it begins, and how each ended."""
    os.chdir(folder / "cwd")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + ROOM,) * 2)
    signal.signal(signal.SIGALRM, _too_long)
    for name, seed in rounds:
        if time.monotonic() > ends:
            break
        result = one_round(READERS[name], seed, folder / "work" / name.replace(" ", "-"), out)
        os.write(told, pickle.dumps((name, seed, result)))


def play(rounds: list[tuple[str, int]], folder: Path, out: Path, ends: float) -> tuple[Counts, int]:
    """The rounds' results, and how many there were; the one in which the process died, if it did, has failed."""
    reading, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            _process(rounds, folder, out, told, ends)
        os._exit(0)
    os.close(told)
    results = []
    with os.fdopen(reading, "rb") as stream, contextlib.suppress(EOFError):
        while True:
            results.append(pickle.load(stream))
    _, status = os.waitpid(child, 0)
    if status:
        name, seed = rounds[len(results)]
        data = spoilt(READERS[name], random.Random(seed))
        _keep(out, READERS[name], seed, data, f"the process died: {signal.Signals(os.WTERMSIG(status)).name}\n")
        results.append((name, seed, "failed"))
    for name, seed, result in results:
        if result == "failed":
            print(f"failed: {name}, seed {seed}", file=sys.stderr, flush=True)
    return Counter((name, result) for name, _, result in results), len(results)


def fuzz(names: list[str], minutes: float, seed: int, out: Path) -> Counts:
    """Rounds of each reader in turn until the time is up; how often each came to what."""
    counts: Counts = Counter()
    ends, number = time.monotonic() + 60 * minutes, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inner in ("cwd", "work"):
            (folder / inner).mkdir()
        for reader in names:
            READERS[reader].whole()  # made once, before there are processes
        make_bombs()
        while time.monotonic() < ends:
            places = range(number, number + ROUNDS)
            rounds = [(names[place % len(names)], 1_000_000 * seed + place // len(names)) for place in places]
            found, played = play(rounds, folder, out.absolute(), ends)
            counts += found
            number += max(1, played)
    return counts


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Feed damaged files to every reader.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()) % 100_000, help="of all rounds (default: the time)"
    )
    parser.add_argument("--readers", nargs="+", default=list(READERS), choices=list(READERS), help="default: all")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="folder of failures")
    arguments = parser.parse_args()
    faulthandler.enable()
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes, {len(arguments.readers)} readers", flush=True)
    counts = fuzz(arguments.readers, arguments.minutes, arguments.seed, arguments.out)
    for name in arguments.readers:
        print(f"{name:20}", *(f"{counts[name, result]:>8,} {result}" for result in ("taken", "refused", "failed")))
    failed = sum(count for (_, result), count in counts.items() if result == "failed")
    print(f"{sum(counts.values()):,} rounds, {failed} failed" + (f"; see {arguments.out}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
