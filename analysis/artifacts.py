"""Files of a report that appear whole or not at all.

What it is: one way to write bytes. What it is not: the contents (`analysis.tables`, `analysis.figures`).

    write_atomically(Path("reports/shapes/table2.csv"), b"profile,run\\n")
"""

import os
from pathlib import Path


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
    _sweep(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of earlier writes of this file."""
    for found in path.parent.iterdir():
        owner = found.name.removeprefix(f".{path.name}.").removesuffix(".partial")
        if found.name == f".{path.name}.{owner}.partial" and owner.isdecimal() and not _runs(int(owner)):
            found.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def sibling(stem: Path, suffix: str) -> Path:
    """`stem` with `.suffix` added; unlike `Path.with_suffix` it keeps dots that are part of the name."""
    return stem.with_name(f"{stem.name}.{suffix}")
