"""Files that appear whole or not at all, and what is no file left as it is."""

import os
import stat
import threading
from pathlib import Path

import pytest

from freeanchor.files import write_atomically


def test_a_file_is_replaced_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """Missing folders are made; an older file gives way to the new one."""
    path = tmp_path / "new" / "table.csv"
    for content in (b"old", b"new"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    """A folder in the place of a file, `.` included, is named with the remedy."""
    for folder in (tmp_path, Path()):
        with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file in it"):
            write_atomically(folder, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """What is no file, as /dev/null and /dev/stdout are none, gets the bytes and is not replaced by a file."""
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, b"all of it")
    reader.join(timeout=10)
    assert heard == [b"all of it"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that a link leads to is replaced, not the link."""
    link, target = tmp_path / "link.csv", tmp_path / "far" / "table.csv"
    link.symlink_to(target)
    for content in (b"new", b"newer"):
        write_atomically(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
