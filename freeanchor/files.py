"""Files that appear whole or not at all, one reader of json, and locks that keep two processes off the same work.

write_json(directory / "train.json", record)
with replacing(directory / "model.safetensors") as temporary:
    save_file(tensors, temporary)
with alone_at(directory):         # refuses at once where another process holds it; `in_turn` waits
    train(...)
"""

import contextlib
import gc
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

from safetensors import SafetensorError

from freeanchor.errors import BusyError, DataError, FileError, brief

if TYPE_CHECKING:
    import pandas as pd
    from filelock import FileLock

# What a packed file may unpack to: the larger of so many times its size, and this. Real files reach 3 to 30 times.
UNPACKED_TIMES, UNPACKED_BYTES = 50, 20 * 10**6
FOREIGN = {
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(lp", b"(dp"), "a pickle, which is not opened"
    ),
    b"PK\x03\x04": "a zip archive, as torch and numpy write",
    b"\x93NUMPY": "a numpy array",
    b"PAR1": "a parquet table, which should be called .parquet",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "a SQLite database",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF",
}  # first bytes of files that were taken for json
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


def read_json(path: Path, *, lines: bool = False) -> Any:
    """The value in a json file, as `load_json` reads it; raises DataError in one line that names the file."""
    try:
        return load_json(path, lines=lines)
    except FileError as error:
        raise DataError(f"{path}: {error}") from None


def load_json(path: Path, *, lines: bool = False) -> Any:
    """The value in a json file, gzipped or not, in UTF-8, 16 or 32, with or without a byte order mark.

    The first bytes tell which, whatever the file's name. `lines` takes json lines too, as the list of their objects.
    Raises FileError, which does not name the file, for what is no json (and says what it is, where the content shows
    it), for an object with two values of one key, and for gzip that unpacks to more than `UNPACKED_TIMES` its size and
    `UNPACKED_BYTES`.
    """
    content = b""
    try:
        check_file(path, "json")
        content = path.read_bytes()
        with collector_paused():
            content = _unpacked(content)
            text = content.decode(json.detect_encoding(content), "surrogatepass")
            value = _value(text, lines=lines)
            return [value] if lines and isinstance(value, dict) and _is_named_lines(path) else value
    except FileError:
        raise
    except (ValueError, RecursionError) as error:  # of json: its own, of encodings, of numbers and nesting without end
        reason = _kind_of(content) or _reason(error)
        raise FileError(f"not valid json ({reason})", "fetch or write it again, as json in UTF-8") from None
    except (EOFError, zlib.error) as error:
        raise FileError(f"damaged gzip ({error})", "fetch or write it again") from None
    except MemoryError:
        raise FileError("takes more memory than there is", "split it, or use a machine with more") from None
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror})", "check the path and its permissions") from None


def _unpacked(content: bytes) -> bytes:
    """The content of gzip, else `content` itself; what is declared about its size is not trusted but measured."""
    if content[:2] != b"\x1f\x8b":
        return content
    limit = unpacked_limit(len(content))
    parts, size = [], 0
    while content:  # one part after the other, as gzip files may be joined
        reader = zlib.decompressobj(wbits=31)
        parts.append(reader.decompress(content, limit - size + 1))
        size += len(parts[-1])
        if size > limit:
            what = f"unpacks to more than {limit / 1e6:,.0f} MB, which json of its size does not"
            raise FileError(what, "unpack it with gunzip and give the json, if it is meant")
        if not reader.eof:
            raise EOFError("it ends early")
        content = reader.unused_data.lstrip(b"\0")  # padding
    return b"".join(parts)


def _value(text: str, *, lines: bool) -> Any:
    try:
        return checked_json(text)
    except json.JSONDecodeError as error:
        rows = [line for line in text.split("\n") if line.strip()]
        if error.msg != "Extra data" or len(rows) < 2 or not all(line.lstrip()[0] == "{" for line in rows):
            raise
        if not lines:
            raise FileError(
                "holds json lines, a value on each", "write them as the one json value that is meant"
            ) from None
    return [_checked_line(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _checked_line(number: int, line: str) -> Any:
    try:
        return checked_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number:,}: {error.msg}") from None


def checked_json(text: str) -> Any:
    """The value in the text; raises FileError for an object with two values of one key: one of them would be lost."""
    if not text.startswith("["):
        return json.loads(text, object_pairs_hook=_without_repeats)
    # Results are long lists of flat objects, which need no look at each where the numbers of keys agree.
    value = json.loads(text)
    num_keys = sum(len(item) for item in value if isinstance(item, dict))
    if text.count('":') + text.count('" :') != num_keys:
        return json.loads(text, object_pairs_hook=_without_repeats)
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, own in pairs:
            if value[key] != own and own == own:  # NaN is not even equal to itself
                raise FileError(f"has two values for the key {brief(key)} in one object", "keep the one that is meant")
    return value


def _is_named_lines(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson"))


def _reason(error: Exception) -> str:
    """What Python's reader says, in words that help where they do not."""
    if isinstance(error, RecursionError):
        return "nested without end"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.object[error.start]:#x} at {error.start:,} is not {error.encoding}: in Windows' encoding?"
    if isinstance(error, json.JSONDecodeError):
        if not error.doc.strip():
            return "it is empty"
        if error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
            return f"it ends early, at line {error.lineno:,}"
    return " ".join(str(error).split())


def _kind_of(content: bytes) -> str | None:
    """What content that is no json is instead, as far as its first bytes tell."""
    for sign, kind in FOREIGN.items():
        if content.startswith(sign):
            return f"it is {kind}"
    head = content[:1000].lstrip()
    first = head.splitlines()[0] if head else b""
    if head.startswith(b"<"):
        return "it is xml or a web page"
    if head[:2] in (b"{'", b"['") or head.startswith(b"[{'"):
        return "it has single quotes, as Python prints: write it with json.dump"
    if head[:1] not in b'[{"' and any(first.count(sign) > 1 for sign in (b",", b";", b"\t")):
        return f"it is a table, as csv: {brief(first.decode(errors='replace'))}"
    return None


def unpacked_limit(size: int) -> int:
    """The most bytes that a packed file (gzip, zip) of `size` bytes may hold."""
    return max(UNPACKED_TIMES * size, UNPACKED_BYTES)


def check_unpacked(held: int, size: int) -> None:
    """Raises FileError where `held` bytes, unpacked or declared, are more than a packed file of `size` may hold."""
    if held > unpacked_limit(size):
        limit = f"{unpacked_limit(size):,}, the limit ({UNPACKED_TIMES} times its size)"
        raise FileError(f"swells from {size:,} bytes to more than {limit}", "unpack or rewrite it where you trust it")


def check_file(path: Path, kind: str) -> None:
    """Raises FileError for folders, devices, and where nothing lies; `kind` is what should be there (`json`)."""
    if path.is_dir():
        raise FileError("is a folder", f"give the {kind} file in it")
    if not path.exists():
        raise FileError("no such file", "check the path")
    if path.is_char_device() or path.is_block_device():
        raise FileError("is a device, which may have no end", f"give a {kind} file")


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

    def refuse(_: "FileLock") -> None:
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

    def wait(lock: "FileLock") -> None:
        _say(path, "waiting for another process that is at work on it", quiet=quiet)
        lock.acquire()

    with _held(path, wait, quiet=quiet):
        yield


@contextmanager
def _held(path: Path, when_taken: "Callable[[FileLock], None]", *, quiet: bool = False) -> Iterator[None]:
    """Hold the lock of `path`, a hidden file beside it that goes when the lock does.

    The system lets go of it when a process dies.
    """
    from filelock import FileLock, Timeout  # brings asyncio, and most commands lock nothing

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
