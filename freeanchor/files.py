"""Writing files so that nobody ever sees half of one: a temporary name first, then a rename.

    with replacing(directory / "model.safetensors") as temporary:
        save_file(tensors, temporary)

What a killed process left under a temporary name goes with the next write of that file. Faults of the disk name the
file that was to be written, whatever library met them.

Writing results so that nobody ever sees half of one: a temporary name first, then a rename.

write_json(directory / "train.json", record)

Files of a report that appear whole or not at all.

What it is: one way to write bytes. What it is not: the contents (`analysis.tables`, `analysis.figures`).

    write_atomically(Path("reports/shapes/table2.csv"), b"profile,run\\n")

One process at a time at work on a folder: two `make` on one machine, or a shared disk, do not tread on each other.

    with alone_at(directory):         # refuses at once
        train(...)
    with in_turn(directory):          # waits
        write_shapes(...)

The lock is the system's, on the folder itself: nothing is written, and a process that dies lets go of it.
"""

import fcntl
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from freeanchor.errors import BusyError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not.

    What is no file but takes bytes (`/dev/null`, a pipe) is written to as it is, since a rename would put a file in its
    place. Raises `OSError` with `path` as its file name where it cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    temporary = path.with_name(f"{_stem(path)}{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        number, name = getattr(error, "errno", None), getattr(error, "filename", None)
        if name not in (None, str(temporary)):
            raise  # about another file
        if number is None:  # safetensors has a full disk in its own words
            raise OSError(f"{path}: cannot be written ({error})") from None
        raise OSError(number, os.strerror(number), str(path)) from None


def _stem(path: Path) -> str:
    """What this machine's temporary names of a file begin with: hosts may share a folder, but not process numbers."""
    return f".{path.name}.{platform.node()}-"


def _sweep(path: Path) -> None:
    """Remove what processes of this machine that are no more left of an earlier write."""
    stem = _stem(path)
    for found in path.parent.iterdir():
        owner = found.name.removeprefix(stem).removesuffix(".tmp")
        if found.name.startswith(stem) and owner.isdecimal() and not _runs(int(owner)):
            found.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path: Path, content: Any) -> None:
    """Write json, indented and sorted where it is an object."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write a frame without its index."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a hidden sibling, then rename it: a reader, or an interruption, never meets half a file.

    Missing folders are made. An older file of that name is replaced, that which a link leads to under a link; what is
    no file but takes bytes (`/dev/null`, a pipe) is written to, since a rename would put a file in its place. Raises
    `IsADirectoryError` for a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_partial(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sweep_partial(path: Path) -> None:
    """Remove what killed processes left of earlier writes of this file."""
    for found in path.parent.iterdir():
        owner = found.name.removeprefix(f".{path.name}.").removesuffix(".partial")
        if found.name == f".{path.name}.{owner}.partial" and owner.isdecimal() and not _runs(int(owner)):
            found.unlink(missing_ok=True)


def sibling(stem: Path, suffix: str) -> Path:
    """`stem` with `.suffix` added; unlike `Path.with_suffix` it keeps dots that are part of the name."""
    return stem.with_name(f"{stem.name}.{suffix}")


NO_LOCKS = "this file system has no locks; see that no second process works on it"


@contextmanager
def alone_at(directory: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for the block; raises BusyError where another process holds it."""
    with _opened(directory) as folder:
        if not take(folder, lambda: _say(directory, NO_LOCKS)):
            raise BusyError(
                f"{directory}: another process is at work on it; wait for it or stop it, then give the command again"
            )
        yield


@contextmanager
def in_turn(directory: Path, *, quiet: bool = False) -> Iterator[None]:
    """Hold a folder, made where it is missing, for the block, once whoever holds it has let go.

    Says on stderr that it waits, or that the file system has no locks, unless `quiet`.
    """
    with _opened(directory) as folder:
        if not take(folder, lambda: _say(directory, NO_LOCKS, quiet=quiet)):
            _say(directory, "waiting for another process that is at work on it", quiet=quiet)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def take(handle: int, without_locks: Callable[[], object]) -> bool:
    """Lock an open file or folder; whether it was free. `without_locks` is called where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        without_locks()
    return True


def _say(directory: Path, words: str, *, quiet: bool = False) -> None:
    """A line on stderr about a folder."""
    if not quiet:
        print(f"{directory}: {words}", file=sys.stderr)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """The folder's file descriptor, whose end is the lock's."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = os.open(directory, os.O_RDONLY)
    try:
        yield folder
    finally:
        os.close(folder)
