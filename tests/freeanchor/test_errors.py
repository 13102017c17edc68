"""`freeanchor.errors`: every error of ours is one line that any terminal takes, whatever names stand in it."""

import pickle

import pytest

from freeanchor import errors
from freeanchor.errors import BusyError, CheckpointError, DataError, FileError, FreeAnchorError, UsageError
from freeanchor.training.recipe import TrainingError

KINDS = (FreeAnchorError, DataError, UsageError, CheckpointError, BusyError, TrainingError)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a\nb", "\x1b]0;title\x07\x1b[2J", "\ud800", "\u2028", "\u202egnp", "\0", "\r"])
def test_names_in_an_error_do_nothing_to_a_terminal(kind: type[FreeAnchorError], name: str) -> None:
    """Control characters, halves of characters and breaks are written as escapes; nothing else is changed."""
    line = str(kind(f"{name}: no weights; give others"))
    assert line.isprintable() and line.isascii() and line.endswith(": no weights; give others")
    assert str(kind("Café 热带鱼: a\\b")) == "Café 热带鱼: a\\b"
    assert str(pickle.loads(pickle.dumps(kind(name)))) == str(kind(name))  # from another process


@pytest.mark.parametrize("length", [330, 10_000, 1_000_000])
def test_a_word_without_end_is_shortened(length: int) -> None:
    """It keeps its beginning and its end; paths, whose parts are never so long, stay as they are."""
    line = str(CheckpointError(f"m.pth: does not fit at {'x' * (length - 3)}end, and more; it may be another's"))
    assert len(line) < 250 and f"{'x' * 60}…" in line and "xend, and more; it" in line
    path = "/".join(["y" * 255] * 8)
    assert str(DataError.at(path, "no image", "put it there")) == f"{path}: no image; put it there"


def test_an_error_about_a_file_keeps_its_parts() -> None:
    """Who names the file puts the line together."""
    error = FileError("no\nsuch file", "check the path", is_missing=True)
    assert (error.what, error.remedy, error.is_missing) == ("no\nsuch file", "check the path", True)
    assert str(error) == "no\\nsuch file; check the path"


def test_all_errors_have_one_base() -> None:
    """The command line catches the base, and no list of kinds."""
    kinds = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, Exception)]
    assert len(kinds) > 6 and all(issubclass(kind, FreeAnchorError) for kind in kinds)
