"""Files that appear whole or not at all, one reader of json, and locks that keep two processes off the same work.

write_json(directory / "train.json", record)
with replacing(directory / "model.safetensors") as temporary:
    save_file(tensors, temporary)
with alone_at(directory):         # refuses at once where another process holds it; `in_turn` waits
    train(...)
"""

import contextlib
import gc
import gzip
import hashlib
import json
import os
import platform
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from freeanchor.errors import BusyError, DataError, FileError, printable

if TYPE_CHECKING:
    import pandas as pd

LONG_NAME = 100  # bytes; systems take 255, encrypted ones 143
MANY_FILES = 200  # from which on the whole disk is asked to write what it holds back


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not.

    Missing folders are made. A reader, a killed process or a power cut never leaves half a file: the content is on the
    disk before the name is. Under a link, the file that it leads to is replaced. What is no file but takes bytes
    (`/dev/null`, a pipe) is written to as it is. What a killed process left goes with the next write of that file.
    Raises `IsADirectoryError` for a folder, else `OSError` with `path` as its file name where it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{_stem(target)}{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # by the umask: safetensors hides its files from others
            _sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        number, name = getattr(error, "errno", None), getattr(error, "filename", None)
        if name not in (None, str(temporary)):
            raise  # about another file
        if number is None:  # safetensors has a full disk in its own words
            raise OSError(f"{path}: cannot be written ({error})") from None
        raise OSError(number, os.strerror(number), str(path)) from None
    with contextlib.suppress(OSError):  # not every system syncs folders; the file is whole either way
        _sync(target.parent)


def _stem(target: Path) -> str:
    # Short, since the file's own name may be as long as names can be; hosts may share a folder, not process numbers.
    return f".{_digest(target.name)}-{platform.node()}-"


def _sweep(target: Path) -> None:
    """Remove what processes of this machine that are no more left of an earlier write."""
    stem = _stem(target)
    for found in target.parent.glob(f"{stem}*.tmp"):
        process = found.name.removeprefix(stem).removesuffix(".tmp")
        if process.isdecimal() and not _runs(int(process)):
            found.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hidden_beside(target: Path, suffix: str) -> Path:
    """A hidden name beside `target`: its own with a dot and `suffix`, or a digest where that might be too long."""
    name = target.name if len(os.fsencode(target.name)) <= LONG_NAME else _digest(target.name)
    return target.with_name(f".{name}.{suffix}")


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def settle(partial: Path, target: Path) -> None:
    """Give a file or folder that was made under another name its own, once all that is in it is on the disk."""
    below = [path for path in partial.rglob("*") if not path.is_symlink()] if partial.is_dir() else []
    if len(below) > MANY_FILES:
        os.sync()  # all at once: minutes less than one by one
    else:
        for path in (*below, partial):
            _sync(path)
    partial.replace(target)
    with contextlib.suppress(OSError):
        _sync(target.absolute().parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write json, indented and sorted where it is an object."""
    write_bytes(path, f"{json.dumps(content, indent=1, sort_keys=True)}\n".encode())


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write a frame without its index."""
    write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())


def sibling(stem: Path, suffix: str) -> Path:
    """`stem` with `.suffix` added; unlike `Path.with_suffix` it keeps dots that are part of the name."""
    return stem.with_name(f"{stem.name}.{suffix}")


def read_json(path: Path) -> Any:
    """The value in a json file, as `load_json` reads it; raises DataError in one line that names the file."""
    try:
        return load_json(path)
    except FileError as error:
        raise DataError(printable(f"{path}: {error}")) from None


def load_json(path: Path) -> Any:
    """The value in a json file, gzipped or not, in UTF-8, 16 or 32, with or without a byte order mark.

    The first bytes tell which, whatever the file's name. Raises FileError, which does not name the file.
    """
    check_file(path, "json")
    try:
        content = path.read_bytes()
        with collector_paused():
            return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (ValueError, RecursionError) as error:  # of json: its own, of encodings, of numbers and nesting without end
        reason = " ".join(str(error).split())
        raise FileError(f"not valid json ({reason})", "it may be cut short: fetch or write it again") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(f"damaged gzip ({error})", "fetch or write it again") from None
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror})", "check its permissions") from None


def check_file(path: Path, kind: str) -> None:
    """Raises FileError for a folder, or where nothing lies; `kind` is what should have lain there (`json`)."""
    if path.is_dir():
        raise FileError("is a folder", f"give the {kind} file in it")
    if not path.exists():
        raise FileError("no such file", "check the path")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Within it Python does not look for cycles: json has none, and the search would be half of the time of reading."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Hold a file or folder, there or not, for the block; raises BusyError where another process holds it."""

    def refuse(_: FileLock) -> None:
        raise BusyError(
            f"{path}: another process is at work on it; wait for it or stop it, then give the command again"
        )

    with _held(path, refuse):
        yield


@contextmanager
def in_turn(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Hold a file or folder, there or not, for the block, once whoever holds it has let go.

    Says on stderr that it waits, or that there are no locks, unless `quiet`.
    """

    def wait(lock: FileLock) -> None:
        _say(path, "waiting for another process that is at work on it", quiet=quiet)
        lock.acquire()

    with _held(path, wait, quiet=quiet):
        yield


@contextmanager
def _held(path: Path, when_taken: Callable[[FileLock], None], *, quiet: bool = False) -> Iterator[None]:
    """Hold the lock of `path`, a hidden file beside it that goes when the lock does.

    The system lets go of it when a process dies.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(hidden_beside(target, "lock"), mode=0o666, fallback_to_soft=False)  # for every user
    try:
        lock.acquire(blocking=False)
    except Timeout:
        when_taken(lock)
    except OSError:  # of a file system without locks, or a folder that takes no file
        _say(path, "this file system has no locks; see that no second process works on it", quiet=quiet)
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()  # filelock lets nobody hold a file that is gone
            lock.release()


def _say(path: Path, words: str, *, quiet: bool) -> None:
    if not quiet:
        print(f"{path}: {words}", file=sys.stderr)
