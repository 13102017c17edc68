"""Writing files so that nobody ever sees half of one: a temporary name first, then a rename.

    with replacing(directory / "model.safetensors") as temporary:
        save_file(tensors, temporary)

What a killed process left under a temporary name goes with the next write of that file. Faults of the disk name the
file that was to be written, whatever library met them.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


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
