"""Error lines: whatever the names of foreign files hold, they are one line that any terminal takes."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import cli
from freeanchor import errors
from freeanchor.errors import (
    LINE,
    NAME,
    BusyError,
    CheckpointError,
    DataError,
    FileError,
    FreeAnchorError,
    UsageError,
    listed,
    shown,
)
from freeanchor.training.recipe import TrainingError

HOSTILE = {
    "dot\x1b]0;title\x07\x1b[2J": r"dot\x1b]0;title\x07\x1b[2J",
    "two\nlines\r\tand more": r"two\nlines\r\tand more",
    "bidi \u202egnp.exe": r"bidi \u202egnp.exe",
    "half \ud800": r"half \ud800",
    "c1 \x9b2J": r"c1 \x9b2J",
    "line\u2028paragraph\u2029": r"line\u2028paragraph\u2029",
    "del\x7f null\0": r"del\x7f null\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_escaped(name: str) -> None:
    """Control characters, escapes, breaks, marks that turn the text and halves of characters become their code."""
    assert shown(name) == HOSTILE[name]
    assert str(UsageError(f"{name}: is wrong")) == f"{HOSTILE[name]}: is wrong"
    assert str(DataError.at(name, "is wrong", "fix it")) == f"{HOSTILE[name]}: is wrong; fix it"


@pytest.mark.parametrize("name", ["Schraube M6", "ねじ", "écrou", "שלום", "🔩", "$x$ <b> \\n %20"])
def test_names_of_any_language_stay(name: str) -> None:
    """What a terminal can show is left as it is."""
    assert shown(name) == str(UsageError(name)) == name


@pytest.mark.parametrize("name", ["x" * 10**7, "\x1b" * 10**7, "a\n" * 500])
def test_long_names_lose_their_middle(name: str) -> None:
    """Their first and last characters tell what they are."""
    text = shown(name)
    assert len(text) == NAME and "…" in text and text.isprintable()
    assert text[:1] == name[:1] or text.startswith("\\x1b")


def test_lists_are_shortened() -> None:
    """The first three, and the number of the others."""
    assert listed(["a", "b\n", "c"]) == r"a, b\n, c"
    assert listed(["a"] * 4) == "a, a, a and 1 more"
    assert listed({str(number): 0 for number in range(6063)}) == "0, 1, 2 and 6,060 more"
    assert listed([]) == ""


@pytest.mark.parametrize(
    "error",
    [CheckpointError, DataError, UsageError, FreeAnchorError, OSError, lambda text: OSError(2, "no file", text)],
)
@pytest.mark.parametrize("name", HOSTILE)
def test_the_command_line_prints_one_short_line(
    name: str, error: Callable[[str], Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every error that it turns into a line, the system's own among them."""

    def fail(_: object) -> None:
        raise error(name + "x" * 5000)

    monkeypatch.setattr(cli, "_handler", lambda command: fail)
    assert cli.main(["detect", "a.png", "--checkpoint", "b", "--out", "c"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and err[:-1].isprintable() and len(err) < LINE + 20
    assert HOSTILE[name] in err


def test_a_file_of_a_hostile_name_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path is foreign text too."""
    name = str(tmp_path / "a\nb\x1b[2J.png")
    assert cli.main(["detect", name, "--checkpoint", "none.onnx", "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err[:-1].isprintable()


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
