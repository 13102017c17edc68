"""Errors about what we were given, each one line with its remedy, and lists of problems where there may be many.

raise DataError.at(path, "holds no object", "add annotations")
problem = Problem.error("boxes of no size", "val.json", "annotation 3 has the box …", "drop it")
print(*problem_lines([problem]), sep="\n")
"""

import re
import reprlib
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeGuard

LARGEST = 2**63  # ids are stored in 64 bits; also keeps sizes and coordinates far from what floats can hold
NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # Unicode's classes of control characters, surrogates and breaks
SHOWN = 5  # problems of one kind that are printed
NAME, LINE = 120, 1500  # characters of a foreign name, and of a line, that are printed


LONG_WORD = re.compile(r"[^\s/]{320,}")  # no part of a path is so long, but names in foreign files may be


class FreeAnchorError(ValueError):
    """What we were given is wrong, not our code: one line that says what, where, and how to fix it.

    Whatever names of files and in them stand in it, any terminal takes the line: no control characters, no word without
    end.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return LONG_WORD.sub(lambda word: _cut(word[0], NAME + 1), text)


class DataError(FreeAnchorError):
    """Bad input data."""

    @classmethod
    def at(cls, where: object, what: str, remedy: str) -> "DataError":
        """What is wrong, where and how to fix it."""
        return cls(f"{where}: {what}; {remedy}")


class FileError(DataError):
    """A file that cannot be read, not yet named: `what` is wrong with it, and the `remedy`."""

    def __init__(self, what: str, remedy: str, *, is_missing: bool = False) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy, self.is_missing = what, remedy, is_missing


class UsageError(FreeAnchorError):
    """A name or a combination of options that means nothing."""


class DownloadError(FreeAnchorError):
    """Data that cannot be fetched, verified or unpacked."""


class CheckpointError(FreeAnchorError):
    """A checkpoint that is missing, broken or of another kind."""


class TimmError(FreeAnchorError):
    """A backbone that timm cannot give: not installed, unknown, or without maps at the strides of a pyramid."""


class BusyError(FreeAnchorError):
    """Another process is at work on the same folder."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a data set.

    An error keeps it from being read, trained on or evaluated rightly; a warning says what happens instead. `kind`
    names what it has in common with others, in the plural.
    """

    severity: Literal["error", "warning"]
    kind: str
    where: str
    what: str
    remedy: str

    @classmethod
    def error(cls, kind: str, where: str, what: str, remedy: str) -> "Problem":
        """A problem that keeps the data from being used."""
        return cls(severity="error", kind=kind, where=where, what=what, remedy=remedy)

    @classmethod
    def warning(cls, kind: str, where: str, what: str, remedy: str) -> "Problem":
        """A problem in spite of which the data can be used."""
        return cls(severity="warning", kind=kind, where=where, what=what, remedy=remedy)

    def __str__(self) -> str:
        return printable(f"{self.severity}: {self.where}: {self.what}; {self.remedy}")


def printable(text: str) -> str:
    """Text as one line that any terminal takes: names of files hold what they like."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: object, limit: int = NAME) -> str:
    """Foreign text as it may stand in a line: escaped, and its middle cut out beyond `limit` characters."""
    return _cut(printable(_cut(str(text), limit)), limit)


def _cut(text: str, limit: int) -> str:
    head = limit // 2
    return text if len(text) <= limit else f"{text[:head]}…{text[head + 1 - limit :]}"


def listed(names: Collection[object], most: int = 3) -> str:
    """Foreign names as they may stand in a line: the first of them, and how many more there are."""
    first = ", ".join(shown(name) for name in islice(names, most))
    return f"{first} and {len(names) - most:,} more" if len(names) > most else first


def problem_lines(problems: Sequence[Problem], shown: int = SHOWN) -> list[str]:
    """Problems as lines, errors first; of each kind `shown` of them, and the number of the others."""
    groups = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.kind].append(problem)
    lines = []
    for severity, kind in sorted(groups, key=lambda group: group[0] != "error"):
        group = groups[severity, kind]
        lines += [str(problem) for problem in group[:shown]]
        if len(group) > shown:
            lines.append(f"{severity}: … and {len(group) - shown:,} more of this kind: {kind}")
    return lines


def brief(value: Any) -> str:
    """A value of a json file as it may stand in a line: shortened where it is long."""
    return reprlib.repr(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a json file is a finite number that can be computed with (truth values are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value of a json file is a whole number written as one, as ids are; 3.0 is none."""
    return isinstance(value, int) and is_number(value)


def is_line(value: Any) -> TypeGuard[str]:
    """Whether a value of a json file is text of one line: no breaks, control characters or halves of characters."""
    return isinstance(value, str) and bool(value) and not any(unicodedata.category(c) in NO_TEXT for c in value)
