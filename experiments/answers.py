"""The answer of a command on plain files: a frame as a table for people, as json for programs, as a csv file.

What it is: the last step of `experiments.plain`. What it is not: the reports' tables (`analysis.tables`).

    answer(frame, arguments)        # heeds --json and --csv
"""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

from freeanchor.files import write_atomically


def answer(frame: pd.DataFrame, arguments: argparse.Namespace, text: str | None = None) -> None:
    """Prints the frame and, with `--csv FILE`, writes it there whole or not at all.

    With `--json` a list of rows, undefined numbers as null; else `text`, or the frame in lines, columns that hold
    nothing left out.
    """
    if arguments.csv:
        write_atomically(arguments.csv, frame.to_csv(index=False).encode())
    if arguments.json:
        print(json.dumps([_json_row(row) for row in frame.to_dict("records")], indent=1))
    else:
        print(table_text(frame) if text is None else text)


def table_text(frame: pd.DataFrame) -> str:
    """A frame in aligned lines: fractions with four digits, `-` for what is undefined, empty columns left out."""
    filled = frame.loc[:, [not (frame[name].isna() | (frame[name] == "")).all() for name in frame.columns]]
    return filled.astype(object).map(_cell).to_string(index=False)


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Within it, what the readers of files have to say stands on stderr, each once, a line each."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(note.message) for note in notes):
        print(f"freeanchor: {text}", file=sys.stderr)


def _cell(value: Any) -> str:
    """One entry of the table for people."""
    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _json_row(row: dict[Any, Any]) -> dict[str, Any]:
    """A row of a frame without what json does not know."""
    return {str(name): _json_value(value) for name, value in row.items()}


def _json_value(value: Any) -> Any:
    """None for nan and for a missing count, a bare number otherwise."""
    if value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value
