"""A command run in this process, and the two things that may come of bad input.

refused(folder, ["data", "check", str(folder)], "val.json", "annotation 7", "give [x, y, width, height]")
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cli import main


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr, without argparse's usage and what a training says of its recipe."""
        lines = self.err.splitlines()
        return [line for line in lines if not line.startswith(("usage:", " ")) and "learning rate" not in line]


def run(arguments: Sequence[str | Path]) -> Outcome:
    """Run the front door with these arguments; an exception that it lets through is a bug, and stays one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _warnings_on_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse's
            status = int(ended.code or 0)
    return Outcome(status=status, out=out.getvalue(), err=err.getvalue())


@contextlib.contextmanager
def _warnings_on_stderr(err: io.StringIO) -> Iterator[None]:
    """Warnings as a user would see them, where pytest would keep them to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # which Python does not show either
        warnings.showwarning = lambda message, category, *_: print(f"{category.__name__}: {message}", file=err)
        yield


def files_in(folder: Path) -> dict[str, str]:
    """Every file under a folder with a digest of its content, and every folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if is_plain else ""
    return found


def refused(folder: Path, arguments: Sequence[str | Path], file: str, item: str, remedy: str) -> str:
    """The command ends with status 2 and one line with `file`, `item` and, behind a semicolon, `remedy`.

    Nothing under `folder` is written or changed. Returns the line. A check of a data folder lists its lines on stdout.
    """
    before = files_in(folder)
    outcome = run(arguments)
    assert outcome.status == 2, outcome
    assert files_in(folder) == before
    assert len(outcome.complaints) == 1, outcome.err
    line = outcome.complaints[0]
    if [str(argument) for argument in arguments[:2]] == ["data", "check"]:
        line = next((line for line in outcome.out.splitlines() if _says(line, file, item, remedy)), outcome.out)
    else:
        assert outcome.out == ""
        assert line.startswith("freeanchor")
    assert _says(line, file, item, remedy), line
    return line


def _says(line: str, file: str, item: str, remedy: str) -> bool:
    """Whether a line names all three, the remedy last."""
    what, semicolon, advice = line.rpartition("; ")
    while semicolon and remedy not in advice:  # a remedy may have a semicolon of its own
        what, semicolon, before = what.rpartition("; ")
        advice = f"{before}; {advice}"
    return bool(semicolon) and file in line and item in what and line.isprintable()


def handled(arguments: Sequence[str | Path], *notes: str) -> Outcome:
    """The command ends well, nothing in it is nan or infinite, and stderr holds these notes, one line per note, alone."""
    outcome = run(arguments)
    assert outcome.status == 0, outcome
    assert len(outcome.complaints) == len(notes), outcome.err
    for line, note in zip(outcome.complaints, notes, strict=True):
        assert note in line
    words = outcome.out.lower().replace(",", " ").replace(":", " ").split()
    assert not {"nan", "inf", "-inf", "infinity", "-infinity"} & set(words), outcome.out
    return outcome
