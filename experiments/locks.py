"""One process at a time at work on a folder: two `make` on one machine, or a shared disk, do not tread on each other.

    with alone_at(directory):         # refuses at once
        train(...)
    with in_turn(directory):          # waits
        write_shapes(...)

The lock is the system's, on the folder itself: nothing is written, and a process that dies lets go of it.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LOCKS = "this file system has no locks; see that no second process works on it"


class BusyError(ValueError):
    """Another process is at work on the same folder; the message says which, and what to do."""


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
