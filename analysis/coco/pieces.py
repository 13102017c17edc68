"""A COCO results file read piece by piece: its numbers come straight from the text, without an object per detection.

    for rows in result_pieces(Path("candidates.json.gz")):      # some MB of text each
        rows.image_id, rows.bbox                                # as the file has them

A writer gives each row the same keys in the same order. Then a piece of the file is one pattern, repeated, and numbers,
which numpy reads many times as fast as a json reader makes dicts, in a fraction of the memory. A piece of another form
goes through the json reader. What neither takes raises `NotInPieces`: the caller reads the file as a whole, and that
reader says what is wrong with it.
"""

import gzip
import json
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Int

from analysis.coco.columns import Detections, corners
from freeanchor.files import checked_json, collector_paused, unpacked_limit

PIECE = 4 * 2**20  # bytes of text
_BLANKS, _DIGITS = b" \t\r\n", b"0123456789+-."
_EXACT = 2.0**53  # beyond it not every whole number is a float
_EXPONENTS = b"eE"
_OTHERS = bytes(set(range(256)) - set(_DIGITS + b","))  # what is neither of a number nor between two
_OTHERS_BUT_EXPONENTS = bytes(set(_OTHERS) - set(_EXPONENTS))


class NotInPieces(Exception):
    """The file is none that can be read in pieces: no list, damaged, or something is missing in it."""


@dataclass(frozen=True, kw_only=True)
class ResultRows:
    """Rows of a results file as it has them; M of them."""

    image_id: Int[np.ndarray, " M"]
    category_id: Int[np.ndarray, " M"]
    bbox: Float[np.ndarray, "M 4"]  # x, y, width, height
    score: Float[np.ndarray, " M"]

    def take(self, which: np.ndarray) -> "ResultRows":
        """The rows of a mask."""
        return ResultRows(**{name: column[which] for name, column in vars(self).items()})

    def as_detections(self) -> Detections:
        """The same as columns; raises `DataError` for boxes or scores that cannot be."""
        return Detections(
            image_id=self.image_id,
            category_id=self.category_id,
            boxes=corners(self.bbox),
            scores=self.score,
            sizes=self.bbox[:, 2:].copy(),  # or the corners that nobody needs stay, too
        )


def joined(parts: Sequence[ResultRows]) -> ResultRows:
    """The rows of all parts, one after the other."""
    return ResultRows(**{name: np.concatenate([getattr(rows, name) for rows in parts]) for name in vars(parts[0])})


def result_pieces(path: Path, size: int = PIECE) -> Iterator[ResultRows]:
    """The rows of a `.json` or `.json.gz` list of results, about `size` bytes of text at a time.

    Raises `NotInPieces`, at any piece, for whatever is not such a list in UTF-8 with whole ids, boxes of four numbers
    and scores in every row.
    """
    try:
        with path.open("rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            limit = unpacked_limit(path.stat().st_size)
            text: IO[bytes] = gzip.GzipFile(fileobj=file) if is_packed else file  # type: ignore[assignment]
            for piece in _pieces(text, size, limit if is_packed else None):
                yield _rows(piece)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise NotInPieces(str(error)) from None


def read_results(path: Path) -> ResultRows:
    """All rows at once."""
    return joined(list(result_pieces(path)))


def _pieces(file: IO[bytes], size: int, limit: int | None) -> Iterator[bytes]:
    """The list's text in whole rows: without its brackets, and without the commas between pieces."""
    rest = file.read(size).lstrip(_BLANKS)
    if rest[:1] != b"[":
        raise ValueError("no list")
    rest, total = rest[1:], len(rest)
    while more := file.read(size):
        total += len(more)
        if limit is not None and total > limit:
            raise ValueError("unpacks without end")
        rest += more
        end = rest.rfind(b"}") + 1
        after = rest[end:].lstrip(_BLANKS)
        if end and after[:1] == b",":  # else the row may not be whole
            yield rest[:end]
            rest = after[1:]
    rest = rest.rstrip(_BLANKS)
    if rest[-1:] != b"]" or not rest[:-1].strip(_BLANKS):
        raise ValueError("ends early, or is empty")
    yield rest[:-1]


def _rows(piece: bytes) -> ResultRows:
    first = piece[: piece.find(b"}") + 1]
    slots = _slots(first)
    numbers = None if slots is None else _numbers(piece, first, sum(slots.values()))
    if slots is None or numbers is None:
        return _rows_of_objects(piece)
    starts = dict(zip(slots, np.cumsum([0, *slots.values()]).tolist(), strict=False))
    if slots["bbox"] != 4:
        raise ValueError("a box is not of four numbers")
    return ResultRows(
        image_id=_whole(numbers[:, starts["image_id"]]),
        category_id=_whole(numbers[:, starts["category_id"]]),
        bbox=numbers[:, starts["bbox"] : starts["bbox"] + 4].copy(),
        score=numbers[:, starts["score"]].copy(),
    )


def _slots(row: bytes) -> dict[str, int] | None:
    """How many numbers each key of a row has, in its order; None where there is something else than numbers."""
    try:
        content = json.loads(row)
    except ValueError:  # the row does not end at its first brace
        return None
    if not isinstance(content, dict) or len(content) != row.count(b'":'):
        return None
    slots = {}
    for key, value in content.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) or not isinstance(one, int | float) for one in values):
            return None
        if not key.isascii() or any(c.isdigit() or c in "+-." for c in key):
            return None
        slots[key] = len(values)
    return slots


def _numbers(piece: bytes, first: bytes, width: int) -> Float[np.ndarray, "M width"] | None:
    """The numbers of every row; None unless all rows are patterned as the first."""
    pattern, own = (text.translate(None, _BLANKS + _DIGITS) for text in (piece, first))
    count, text = piece.count(b"{"), piece
    if pattern == b",".join([own] * count):
        text = text.translate(None, _OTHERS)
    else:
        # Perhaps numbers have exponents: take those out, and the keys, in which the same letters may stand.
        pattern, own = (part.translate(None, _EXPONENTS) for part in (pattern, own))
        if pattern != b",".join([own] * count):
            return None
        for key in json.loads(first):
            text = text.replace(b'"%s"' % key.encode(), b"")
        text = text.translate(None, _OTHERS_BUT_EXPONENTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # what numpy cannot read to its end
        try:
            numbers = np.fromstring(text, sep=",")  # blanks are gone, so that each place has one number or none
        except (DeprecationWarning, ValueError):
            return None
    return numbers.reshape(count, width) if len(numbers) == count * width else None


def _rows_of_objects(piece: bytes) -> ResultRows:
    """The same by the json reader."""
    with collector_paused():
        items: list[dict[str, Any]] = checked_json(f"[{piece.decode()}]")
        for item in items:
            values = (item["image_id"], item["category_id"], item["score"], *item["bbox"])
            if len(values) != 7 or not all(type(value) in (int, float) for value in values):
                raise ValueError("a row that is not understood")
        columns = {name: [item[name] for item in items] for name in ("image_id", "category_id", "bbox", "score")}
        return ResultRows(
            image_id=_whole(np.array(columns["image_id"])),
            category_id=_whole(np.array(columns["category_id"])),
            bbox=np.array(columns["bbox"], dtype=np.float64).reshape(-1, 4),
            score=np.array(columns["score"], dtype=np.float64),
        )


def _whole(values: np.ndarray) -> Int[np.ndarray, " M"]:
    if values.dtype.kind == "f" and not ((np.abs(values) < _EXACT) & (np.floor(values) == values)).all():
        raise ValueError("an id is not whole, or too large to be told from others")
    return values.astype(np.int64)
