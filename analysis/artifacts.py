"""Files of a report that appear whole or not at all.

What it is: one way to write bytes. What it is not: the contents (`analysis.tables`, `analysis.figures`).

    write_atomically(Path("reports/shapes/table2.csv"), b"profile,run\\n")
"""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a hidden sibling, then rename it: a reader, or an interruption, never meets half a file.

    Missing folders are made. An older file of that name is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sibling(stem: Path, suffix: str) -> Path:
    """`stem` with `.suffix` added; unlike `Path.with_suffix` it keeps dots that are part of the name."""
    return stem.with_name(f"{stem.name}.{suffix}")
