"""`freeanchor.files`: whole files or none, leftovers of the dead removed, errors that name the file, and json."""

import bz2
import errno
import gzip
import json
import lzma
import os
import pickle
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from freeanchor import files
from freeanchor.checkpoints.native import save_tensors
from freeanchor.errors import DataError, FileError
from freeanchor.files import check_unpacked, read_json, replacing, write_bytes


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    """A temporary file of a process that is no more is removed; those of the living and of other hosts stay."""
    dead = int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)
    stem, other = (files._stem(tmp_path / name) for name in ("a.json", "b.json"))
    gone = tmp_path / f"{stem}{dead}.tmp"
    kept = [
        tmp_path / f"{stem}{os.getppid()}.tmp",  # somebody is at it
        tmp_path / f"{stem.replace(platform.node(), 'elsewhere')}{dead}.tmp",
        tmp_path / f"{other}{dead}.tmp",  # goes with b.json's next write
        tmp_path / f"{stem}notes.tmp",
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


def test_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before the rename and its folder after it: a power cut leaves the old file or the new one."""
    seen = []

    def note(handle: int) -> None:
        seen.append((Path(f"/proc/self/fd/{handle}").resolve().name, (tmp_path / "a.json").exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_bytes(tmp_path / "a.json", b"whole")
    (file, early), folder = seen
    assert file.endswith(".tmp") and not early
    assert folder == (tmp_path.name, True)


@pytest.mark.parametrize("name", ["table.csv", "é" * 125 + ".csv"], ids=["a usual name", "as long as names can be"])
def test_a_file_is_replaced_and_nothing_is_left_behind(tmp_path: Path, name: str) -> None:
    """Missing folders are made; an older file gives way to the new one, whose mode is the umask's."""
    path = tmp_path / "new" / name
    for content in (b"old", b"new"):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
            temporary.chmod(0o600)  # as safetensors does
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    """A folder in the place of a file, `.` included, is named with the remedy."""
    for folder in (tmp_path, Path()):
        with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file in it"):
            write_bytes(folder, b"")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    """A named pipe, as /dev/null and /dev/stdout, gets the content and is not replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    write_bytes(pipe, b"through")
    assert reader.communicate(timeout=20)[0] == "through"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that a link leads to is replaced, not the link."""
    link, target = tmp_path / "link.csv", tmp_path / "far" / "table.csv"
    link.symlink_to(target)
    for content in (b"new", b"newer"):
        write_bytes(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_json_is_read_whatever_its_encoding(tmp_path: Path, encoding: str, pack: type[bytes]) -> None:
    """Tools write byte order marks and UTF-16; the first bytes tell, whatever the file's name."""
    value = {"name": "Zürich 山"}
    (tmp_path / "a.json").write_bytes(pack(json.dumps(value, ensure_ascii=False).encode(encoding)))
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize(
    ("size", "limit"),
    [(0, 2 * 10**7), (1, 2 * 10**7), (400_000, 2 * 10**7), (400_001, 20_000_050), (10**9, 5 * 10**10)],
)
def test_packed_files_have_a_stated_limit(size: int, limit: int) -> None:
    """Fifty times their own size, and 20 MB for any; the line says it."""
    check_unpacked(limit, size)
    with pytest.raises(FileError, match=f"to more than {limit:,}, the limit"):
        check_unpacked(limit + 1, size)


ROW = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 3, 4], "score": 0.5}
NAMES = '{"categories": [{"id": 1, "name": "café"}]}'
REFUSED = {
    "nothing": (b"", "it is empty"),
    "blanks": (b" \n\t ", "it is empty"),
    "cut short": (json.dumps([ROW])[:-9].encode(), "it ends early, at line 1"),
    "cut within a word": (json.dumps([ROW])[:12].encode(), "it ends early, at line 1"),
    "a pickle": (pickle.dumps([ROW]), "it is a pickle"),
    "an old pickle": (pickle.dumps([ROW], protocol=0), "it is a pickle"),
    "a pickle in gzip": (gzip.compress(pickle.dumps([ROW])), "it is a pickle"),
    "numpy": (b"\x93NUMPY\x01\x00v\x00", "it is a numpy array"),
    "torch": (b"PK\x03\x04\x00\x00", "it is a zip archive"),
    "bzip2": (bz2.compress(b"[]"), "packed by bzip2"),
    "xz": (lzma.compress(b"[]"), "packed by xz"),
    "csv": (b"image_id,category_id,x,y,w,h,score\n1,1,1,2,3,4,0.9\n", "it is a table, as csv: 'image_id"),
    "tabs": (b"id\tx\ty\n1\t2\t3\n", "it is a table"),
    "words": (b"p101 0 0.9 0.5\n", "Expecting value"),
    "xml": (b"<annotation></annotation>", "it is xml or a web page"),
    "Python": (repr([ROW]).encode(), "it has single quotes"),
    "Python's dict": (repr(ROW).encode(), "it has single quotes"),
    "cp1252": (NAMES.encode("cp1252"), "byte 0xe9 at 38 is not utf-8: in Windows' encoding?"),
    "latin-1 in a list": ('["Zürich"]'.encode("latin-1"), "byte 0xfc at 3"),
    "brackets": (b"[" * 100_000, "nested without end"),
    "objects": (b'{"a":' * 100_000, "nested without end"),
    "digits": (b"[" + b"1" * 5000 + b"]", "limit"),
    "json lines": (b'{"a": 1}\n{"a": 2}\n', "holds json lines"),
    "two lists": (b"[1]\n[2]", "Extra data"),
    "a repeated key": (b'{"images": [1], "images": [2]}', "two values for the key 'images'"),
    "a repeated key in a list": (b'[{"score": 1, "score": 2}]', "two values for the key 'score'"),
    "a repeated key below": (b'{"a": [{"b": {"c": 1, "c": null}}]}', "two values for the key 'c'"),
    "a gzip cut short": (gzip.compress(bytes(range(256)))[:-9], "damaged gzip (it ends early)"),
    "a gzip with something after it": (gzip.compress(b"[]") + b"more", "damaged gzip"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_json_is_refused_in_one_line_that_says_what_it_is(tmp_path: Path, name: str) -> None:
    """Whatever was taken for json is named where its bytes tell, and never opened; the file and the remedy are said."""
    content, words = REFUSED[name]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(tmp_path / "a.json")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.json'}: ") and words in message
    assert message.isprintable() and len(message) < 400


def test_no_file_at_all_is_refused(tmp_path: Path) -> None:
    """A device without end, a name that is too long for any file, and a folder; a pipe is read."""
    for path, words in (
        (Path("/dev/zero"), "is a device"),
        (tmp_path / ("a" * 300), "File name too long"),
        (tmp_path, "is a folder"),
        (tmp_path / "a\0b", "no such file"),
    ):
        with pytest.raises(DataError, match=words):
            read_json(path)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", f"echo '[1]' > {tmp_path / 'pipe'}"]):
        assert read_json(tmp_path / "pipe") == [1]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson.gz"])
@pytest.mark.parametrize("count", [1, 3])
def test_json_lines_are_a_list_where_asked(tmp_path: Path, name: str, count: int) -> None:
    """Blank lines and Windows' line ends count for nothing; what is wrong in a line is said with its number."""
    rows = [{**ROW, "image_id": number} for number in range(count)]
    (tmp_path / name).write_bytes("\r\n\r\n".join(json.dumps(row) for row in rows).encode("utf-8-sig"))
    is_one = count == 1 and name == "a.json"  # which may be json, too
    assert read_json(tmp_path / name, lines=True) == (rows[0] if is_one else rows)
    (tmp_path / name).write_bytes(b'{"a": 1}\n\n{"a": 2,}')
    with pytest.raises(DataError, match="line 3: Expecting property name"):
        read_json(tmp_path / name, lines=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '[{"a": NaN, "a": NaN}]',
        '[{"a": "\\":", "b": {"c": 1}}, {"a" : []}, 3]',
        '[{"a":1},\n {"a"\t:2}]',
    ],
)
def test_keys_that_agree_are_no_repeats(tmp_path: Path, text: str) -> None:
    """A key that is written twice with one value loses nothing, and colons in text are no keys."""
    (tmp_path / "a.json").write_text(text)
    assert repr(read_json(tmp_path / "a.json")) == repr(json.loads(text))


@pytest.mark.parametrize("form", ["[{}]", '{{"a": {}0}}', "[{}[]]"], ids=["blanks", "zeros", "lists"])
def test_gzip_without_measure_is_refused_before_it_is_unpacked(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing near its unpacked size is held in memory, whatever size it declares, joined gzips included."""
    assert files.UNPACKED_BYTES == 20 * 10**6
    monkeypatch.setattr(files, "UNPACKED_BYTES", 10**6)
    fill = {"[{}]": " ", '{{"a": {}0}}': "-", "[{}[]]": "[],"}[form]
    content = gzip.compress(form.format(fill * (9 * files.UNPACKED_BYTES // len(fill))).encode(), mtime=0)
    for number, packed in enumerate((content, content[:-4] + b"\x02\0\0\0", gzip.compress(b" ") + content)):
        (tmp_path / f"{number}.json.gz").write_bytes(packed)
        tracemalloc.start()
        with pytest.raises(DataError, match="unpacks to more than 1 MB.*gunzip"):
            read_json(tmp_path / f"{number}.json.gz")
        assert tracemalloc.get_traced_memory()[1] < 3 * files.UNPACKED_BYTES
        tracemalloc.stop()


def test_joined_and_padded_gzip_is_read(tmp_path: Path) -> None:
    """As gzip itself does: the parts follow each other, and zeros at the end are padding."""
    (tmp_path / "a.json").write_bytes(gzip.compress(b"[1,") + gzip.compress(b"2]") + b"\0" * 512)
    assert read_json(tmp_path / "a.json") == [1, 2]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the disk, in order: names of what is written through, and renamings."""
    asked: list[str] = []
    sync, replace = files._sync, Path.replace

    def note_sync(path: Path) -> None:
        asked.append(f"sync {path.name}")
        sync(path)

    def note_replace(source: Path, target: Path) -> Path:
        asked.append(f"{target.name} appears")
        return replace(source, target)

    monkeypatch.setattr(files, "_sync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    return asked


def test_content_is_on_the_disk_before_its_name_is(tmp_path: Path, synced: list[str]) -> None:
    """A power cut between the two leaves the old file, or none; after it the folder, too, is written through."""
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("whole")
    assert synced == [f"sync {temporary.name}", "a.json appears", f"sync {tmp_path.name}"]


def test_a_folder_is_on_the_disk_before_its_name_is(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file in it, and every folder; of many files all that the disk holds back, at once."""
    (tmp_path / "half" / "images").mkdir(parents=True)
    for name in ("val.json", "images/a.png"):
        (tmp_path / "half" / name).write_text(name)
    (tmp_path / "half" / "link").symlink_to(tmp_path / "nowhere")
    files.settle(tmp_path / "half", tmp_path / "whole")
    written = ["sync a.png", "sync half", "sync images", "sync val.json"]
    assert sorted(synced[:4]) == written and synced[4:] == ["whole appears", f"sync {tmp_path.name}"]
    assert (tmp_path / "whole" / "images" / "a.png").read_text() == "images/a.png"
    synced.clear()
    monkeypatch.setattr(files, "MANY_FILES", 2)
    monkeypatch.setattr(os, "sync", lambda: synced.append("sync all"))
    files.settle(tmp_path / "whole", tmp_path / "again")
    assert synced == ["sync all", "again appears", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("name", ["b" * 255, "é" * 127, "x" * 251 + ".png"])
def test_names_as_long_as_names_can_be_are_written(tmp_path: Path, name: str) -> None:
    """Temporary names and locks do not grow with them."""
    with files.alone_at(tmp_path / name):
        write_bytes(tmp_path / name, b"whole")
        assert all(len(os.fsencode(path.name)) < 143 or path.name == name for path in tmp_path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    """Of model files as of all others: safetensors makes its own readable by their owner alone."""
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "m.safetensors", {"a": torch.zeros(1)}, {})
        write_bytes(tmp_path / "a.json", b"{}")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
