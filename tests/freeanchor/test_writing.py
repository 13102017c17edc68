"""`replacing`: whole files or none, leftovers of the dead removed, and errors that name the file."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from freeanchor.files import replacing


def _dead_process() -> int:
    """The number of a process that has ended."""
    return subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    ).stdout


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """A temporary file of a process that is no more is removed; those of the living and of other hosts stay."""
    here, dead = platform.node(), int(_dead_process())
    gone = tmp_path / f".a.json.{here}-{dead}.tmp"
    kept = [
        tmp_path / f".a.json.{here}-{os.getppid()}.tmp",  # somebody is at it
        tmp_path / f".a.json.elsewhere-{dead}.tmp",
        tmp_path / f".b.json.{here}-{dead}.tmp",  # goes with b.json's next write
        tmp_path / f".a.json.{here}-notes.tmp",
    ]
    for path in (gone, *kept):
        path.write_text("half")
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    assert not gone.exists()
    assert all(path.exists() for path in kept)
    assert (tmp_path / "a.json").read_text() == "whole"


@pytest.mark.parametrize(
    "fault",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")],
    ids=["a failed write", "safetensors"],
)
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, fault: Exception) -> None:
    """The file that was to be written stands in the error, the old one stays, and no temporary one is left."""
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise fault
    assert str(tmp_path / "a.json") in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_an_error_about_another_file_stays_as_it_is(tmp_path: Path) -> None:
    """What could not be read is not reported as what could not be written."""
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.json"):
        (tmp_path / "source.json").read_text()
    assert caught.value.filename == str(tmp_path / "source.json")


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    """A named pipe gets the content and remains a pipe; a folder is refused."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    with replacing(pipe) as target:
        target.write_text("through")
    assert reader.communicate(timeout=20)[0] == "through"
    assert pipe.is_fifo()
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "folder") as temporary:
        temporary.write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
