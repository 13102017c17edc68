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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(ValueError):
    """Another process is at work on the same folder; the message says which, and what to do."""


@contextmanager
def alone_at(directory: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for the block; raises BusyError where another process holds it."""
    with _opened(directory) as folder:
        if not _hold(folder, directory):
            raise BusyError(
                f"{directory}: another process is at work on it; wait for it or stop it, then give the command again"
            )
        yield


@contextmanager
def in_turn(directory: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, for the block, once whoever holds it has let go; says so on stderr."""
    with _opened(directory) as folder:
        if not _hold(folder, directory):
            print(f"{directory}: waiting for another process that is at work on it", file=sys.stderr)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _hold(folder: int, directory: Path) -> bool:
    """Whether the lock was free; on a file system without locks a word on stderr has to do."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        print(f"{directory}: this file system has no locks; see that no second process works on it", file=sys.stderr)
    return True


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """The folder's file descriptor, whose end is the lock's."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = os.open(directory, os.O_RDONLY)
    try:
        yield folder
    finally:
        os.close(folder)
