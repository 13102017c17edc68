"""COCO's json: reading it, and taking checked columns from its lists of items.

What it is: fields of dicts turned into arrays, each defect one line that names the item and the remedy. What it is not:
what the columns mean (`analysis.coco`).

    items = list_of(read_json(path), "images", path, "list every picture with its id")
    integers(items, "id", "picture")

Every function raises `DataError`; `named` puts the file's name before it.
"""

import contextlib
import gc
import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from freeanchor.errors import DataError


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Puts the file's name before whatever is found wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def check_file(path: Path, kind: str) -> None:
    """Refuses a folder, or a path where nothing lies; `kind` is what should have lain there (`json`)."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the {kind} file in it")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")


def read_json(path: Path) -> Any:
    """The content of a json file, gzipped or not (its first bytes tell, whatever its name)."""
    check_file(path, "json")
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (ValueError, RecursionError) as error:  # of json: its own, of encodings, of numbers and nesting without end
        raise DataError(f"{path}: not valid json ({error}); it may be cut short: fetch or write it again") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip ({error}); fetch or write it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Within it Python does not look for cycles: json has none, and the search would be half of the time of reading."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def json_name(content: object) -> str:
    """What a json value is called in messages."""
    names: dict[type, str] = {dict: "json object", list: "list", str: "string"}
    return names.get(type(content), "bare value")


def list_of(content: dict, key: str, path: Path, remedy: str) -> list[dict]:
    """The list of objects under `key`; refused where there is none, or nothing in it."""
    items = content.get(key)
    if not isinstance(items, list) or not items:
        state = "no" if key not in content else "an empty" if items == [] else "an unreadable"
        raise DataError(f'{path}: has {state} "{key}" list; {remedy}')
    with named(path):
        refuse_non_objects(items, key)
    return items


def refuse_non_objects(items: list, what: str) -> None:
    """Refuses items that are not json objects; `what` is what they should be (`detection`)."""
    for row, item in _those_of_other_types(items, {dict}):
        if not isinstance(item, dict):
            raise DataError(f"{what} item {row} is a {json_name(item)}, not an object; mend or remove it")


def field(item: dict, key: str, what: str, row: int) -> Any:
    """One field of one item; refused where it is missing."""
    if key not in item:
        name = f"{what} {brief(item['id'])}" if "id" in item else f"{what} in row {row}"
        raise DataError(f'{name} has no "{key}"; add it')
    return item[key]


def fields(items: list[dict], key: str, what: str) -> list:
    """One field of every item; refused where an item lacks it."""
    try:
        return [item[key] for item in items]
    except KeyError:
        return [field(item, key, what, row) for row, item in enumerate(items)]


def integers(items: list[dict], key: str, what: str) -> Int[np.ndarray, " M"]:
    """A column of ids; whole numbers that fit 64 bits."""
    values = fields(items, key, what)
    for row, value in _those_of_other_types(values, {int}):
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f'{what} in row {row} has "{key}" {brief(value)}; ids must be whole numbers, renumber them')
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        row, value = next((row, value) for row, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise DataError(
            f'{what} in row {row} has "{key}" {brief(value)}; ids must be whole numbers, renumber them'
        ) from None


def numbers(values: list, name: str) -> Float[np.ndarray, " M"]:
    """A column of numbers, nan and infinity included (whoever takes them decides)."""
    for row, value in _those_of_other_types(values, {int, float}):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DataError(f"row {row} has {name} {brief(value)}; it must be a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # json's whole numbers have no end
        raise DataError(f"a {name} is too large for a number; mend or remove it") from None


def boxes(items: list[dict], what: str) -> Float[np.ndarray, "M 4"]:
    """The column of boxes as the file has them: x, y, width, height."""
    values = fields(items, "bbox", what)
    is_suspect = _those_of_other_types(values, {list}) or set(map(len, values)) - {4}
    for row, box in enumerate(values) if is_suspect else ():
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{what} in row {row} has bbox {brief(box)}; it must be four numbers: x, y, width, height")
    return numbers(list(chain.from_iterable(values)), "bbox value").reshape(-1, 4)


def _those_of_other_types(values: list, usual: set[type]) -> list[tuple[int, Any]]:
    """Rows and values whose types are not the `usual` ones: none in most files, which one fast look tells."""
    if set(map(type, values)) <= usual:
        return []
    return [(row, value) for row, value in enumerate(values) if type(value) not in usual]
