"""The readers of files under random damage for as long as wanted; not a test, and not collected by pytest.

    python -m tests.fuzz_readers --minutes 60
    python -m tests.fuzz_readers --minutes 5 --readers "ground truth" checkpoint --seed 7 --out failures

Each round takes a reader of `bad_input/readers.py` in turn, spoils a good file of its kind (junk in places of its json,
or bytes flipped, cut and doubled; sometimes a spoilt file is spoilt again), and reads it. A round fails where anything
comes but a result that makes sense or the reader's own error in one line. Its file and traceback are written to the
folder of failures, named after the reader and the round's seed; the same `--seed` repeats the same rounds. Ends with
status 1 where a round failed, and prints how many rounds each reader had, refused and failed.
"""

import argparse
import faulthandler
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it

from bad_input.readers import READERS, Reader
from oracles.mutations import mutate_bytes, mutate_json


def spoilt(reader: Reader, generator: random.Random) -> bytes:
    """A damaged file of a reader's kind."""
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
        return "taken" if reader.check(data, folder) else "refused"
    except Exception:
        out.mkdir(parents=True, exist_ok=True)
        place = out / f"{reader.name.replace(' ', '-')}-{seed}"
        place.mkdir(exist_ok=True)
        (place / Path(reader.file).name).write_bytes(data)
        (place / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return "failed"


def fuzz(names: list[str], minutes: float, seed: int, out: Path) -> Counter[tuple[str, str]]:
    """Rounds of each reader in turn until the time is up; how often each came to what."""
    counts: Counter[tuple[str, str]] = Counter()
    ends, number = time.monotonic() + 60 * minutes, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < ends:
            for name in names:
                place = Path(folder) / name.replace(" ", "-")
                result = one_round(READERS[name], 1_000_000 * seed + number, place, out)
                if result == "failed":
                    print(f"failed: {name}, seed {1_000_000 * seed + number}", file=sys.stderr)
                counts[name, result] += 1
            number += 1
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
