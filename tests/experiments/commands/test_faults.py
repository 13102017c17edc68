"""Faults of the machine: a full disk, a read-only folder, data that vanish, two commands at once on one run.

Each gives one line and exit status 2, loses nothing, and the same command goes on once the fault is gone. Being
killed is tested in `test_end_to_end`, and at many moments by `kill_at_random.py`.
"""

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from miniature import Mini

from experiments import cli
from experiments.cli import main
from experiments.registry.build import build_profile
from freeanchor.errors import BusyError
from freeanchor.files import alone_at, in_turn

ROOT = Path(__file__).resolve().parents[3]
RUN = "freeanchor-small-s0"
DROP_CAPABILITY, CAP_DAC_OVERRIDE = 24, 1  # Linux: of prctl; without it root minds permissions as others do
HOLD = "import sys, time; from pathlib import Path; from freeanchor.files import alone_at\n" + (
    "with alone_at(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
)


@pytest.fixture
def folder(mini: Mini) -> Iterator[Path]:
    """A folder that anybody may enter, with the miniature's synthetic data."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        shutil.copytree(mini.store.drawn, path / "data")
        path.chmod(0o755)
        yield path


def _command(folder: Path, *arguments: str, limit: int | None = None) -> tuple[int, str]:
    """Exit status and stderr of a command in a process of its own; `limit` bytes a file, as if the disk were full.

    Permissions hold for it even where root runs the tests.
    """

    def prepare() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if os.geteuid() == 0:
            ctypes.CDLL(None).prctl(DROP_CAPABILITY, CAP_DAC_OVERRIDE, 0, 0, 0)

    prefix = [sys.executable, "-m", "experiments.cli", *arguments, "--profile", "mini", "--precision", "float32"]
    answer = subprocess.run(
        prefix,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=prepare,
    )
    return answer.returncode, answer.stderr


def _here(folder: Path, *arguments: str) -> int:
    """Exit status of a command in this process."""
    with contextlib.chdir(folder):
        return main([*arguments, "--profile", "mini", "--precision", "float32", "--threads", "1"])


def _last_line(stderr: str) -> str:
    assert "Traceback" not in stderr, stderr
    return stderr.strip().splitlines()[-1]


def _run_folder(folder: Path) -> Path:
    return build_profile("mini").evaluations[RUN].training.directory(folder / "runs")


def _weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_a_full_disk_stops_a_training_in_one_line_and_it_goes_on(mini: Mini, folder: Path) -> None:
    """No room for a state: status 2 and a line with file and remedy; with room the same weights as ever come out."""
    status, stderr = _command(folder, "train", RUN, limit=50_000)
    line = _last_line(stderr)
    assert status == 2
    assert "safetensors" in line
    assert "File too large" in line
    assert not list(folder.rglob("*.tmp"))
    status, stderr = _command(folder, "train", RUN)
    assert status == 0, stderr
    expected = build_profile("mini").evaluations[RUN].training.directory(mini.store.runs)
    assert _weights(_run_folder(folder)) == _weights(expected)


def test_a_read_only_folder_is_refused_in_one_line(folder: Path) -> None:
    """Where nothing may be written, status 2 and a line that says where and what to do."""
    if os.geteuid() == 0 and sys.platform != "linux":
        pytest.skip("root may write everywhere on this system")
    (folder / "runs").mkdir()
    (folder / "runs").chmod(0o555)
    status, stderr = _command(folder, "train", RUN)
    line = _last_line(stderr)
    assert status == 2
    assert "runs" in line
    assert "ermission" in line
    assert "another folder" in line
    (folder / "runs").chmod(0o755)
    assert not list((folder / "runs").iterdir())


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda data: shutil.rmtree(data), "val.json"),
        (lambda data: shutil.rmtree(data / "images"), "images"),
        (lambda data: (data / "train.json").unlink(), "train.json"),
    ],
    ids=["all of it", "the images", "the annotations"],
)
def test_vanished_data_are_told_in_one_line(
    folder: Path, harm: Callable[[Path], object], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data folder, or a part of it, that is gone: status 2, the missing thing named, no run begun."""
    (data,) = (folder / "data").glob("shapes-*")
    harm(data)
    assert _here(folder, "predict", RUN) == 2
    assert _last_line(capsys.readouterr().err).startswith("freeanchor: ")
    status = _here(folder, "train", RUN)
    line = _last_line(capsys.readouterr().err)
    if status == 0:  # train draws what is wholly gone
        assert named == "val.json"
        assert (data / "val.json").exists()
    else:
        assert status == 2
        assert named in line
        assert not list((folder / "runs").rglob("*.safetensors"))


def test_two_trainings_of_one_run_do_not_tread_on_each_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While another process holds a run, its training is refused in one line; once it lets go, it runs."""
    directory = _run_folder(folder)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert _here(folder, "train", RUN) == 2
        assert "another process is at work on it" in _last_line(capsys.readouterr().err)
        assert not directory.exists()
    finally:
        holder.kill()
        holder.communicate()
    assert _here(folder, "train", RUN) == 0
    assert (directory / "train.json").exists()


def test_a_lock_ends_with_its_block_and_leaves_no_file(tmp_path: Path) -> None:
    """A second holder is refused inside the block and welcome after it; nothing is left."""
    with (
        alone_at(tmp_path / "run"),
        pytest.raises(BusyError, match=r"^[^\n]+run: another process[^\n]+$"),
        alone_at(tmp_path / "run"),
    ):
        pytest.fail("both hold it")
    with alone_at(tmp_path / "run"), in_turn(tmp_path / "other"):
        assert {path.name for path in tmp_path.iterdir()} == {".run.lock", ".other.lock"}
    assert not list(tmp_path.iterdir())


def test_without_locks_the_work_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that has no locks is said once, and the block runs."""
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with alone_at(tmp_path / "run"):
        assert "has no locks" in capsys.readouterr().err


LIMITS: dict[str, tuple[BaseException, str]] = {
    "memory": (MemoryError(), "list: not enough memory (no more is known); free some"),
    "an array": (MemoryError("Unable to allocate 9.3 TiB"), "list: not enough memory (Unable to allocate 9.3 TiB); free"),
    "torch": (RuntimeError("[enforce fail]\nDefaultCPUAllocator: can't allocate memory: 9 bytes"), "not enough memory (De"),
    "pandas": (ValueError("Error tokenizing data. C error: out of memory"), "list: not enough memory (Error"),
    "nesting": (RecursionError("maximum recursion depth exceeded"), "list: input nested too deeply to be read or written; f"),
    "encoding": (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "list: text in an encoding"),
    "decoding": (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid byte"), "list: text in an encoding"),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space, the same"),
    "a long name": (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), "File name too long; give a shorter name"),
    "a read-only disk": (OSError(errno.EROFS, "Read-only", "a\nb"), "a\\nb: Read-only; write elsewhere"),
    "another": (OSError(errno.ESTALE, "Stale file handle", b"\xff"), "\\udcff: Stale file handle; look at the path"),
    "a loader's": (FileNotFoundError("Caught in process 0\nTraceback\n  File x\nno such image\n"), "no such image"),
    "ours": (BusyError("one\nline\x1b[2J"), "one\\nline\\x1b[2J"),
}  # fmt: skip


@pytest.mark.parametrize(("error", "said"), LIMITS.values(), ids=LIMITS)
def test_the_machines_limits_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, said: str
) -> None:
    """Memory, nesting, encodings and the system's own errors: status 2, one line without control characters."""
    monkeypatch.setattr(cli, "_handler", lambda _: Mock(side_effect=error))
    assert cli.main(["list"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("freeanchor: ") and said in line and line.isprintable()


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), KeyError("a bug"), AssertionError()])
def test_a_bug_of_ours_is_a_traceback(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """It is not hidden behind a line about the user's input."""
    monkeypatch.setattr(cli, "_handler", lambda _: Mock(side_effect=error))
    with pytest.raises(type(error)):
        cli.main(["list"])


@pytest.mark.parametrize("text", ["Café 热带鱼 …", "half a character \udcff"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch, text: str, encoding: str) -> None:
    """As on stderr: a result is not lost since a name in it has letters that the terminal's encoding lacks."""
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding=encoding))
    monkeypatch.setattr(cli, "_handler", lambda _: lambda _: print(text))
    assert cli.main(["list"]) == 0
    assert screen.getvalue() == f"{text}\n".encode(encoding, "backslashreplace")


def test_results_that_go_nowhere_are_told_in_one_line() -> None:
    """A full disk behind stdout: status 2; a closed pipe, or no stdout at all: nothing is said."""
    code = "import sys; from experiments import cli; cli._handler = lambda _: lambda _: print('x' * 100_000); "
    command = [sys.executable, "-c", f"{code}sys.exit(cli.main(['list']))"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Path("/dev/full").open("w") as full:
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr == "freeanchor: No space left on device; free some space, the same command goes on\n"
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (0, "")
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    none = subprocess.run(shell, stderr=subprocess.PIPE, env=environment, text=True, check=False)
    assert (none.returncode, none.stderr) == (0, "")


def test_waiting_in_turn_is_said_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who comes second says that it waits, and goes on once the first has let go."""
    hold_briefly = HOLD.replace("time.sleep(60)", "time.sleep(0.5)")
    holder = subprocess.Popen(
        [sys.executable, "-c", hold_briefly, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with in_turn(tmp_path):
        assert "waiting for another process" in capsys.readouterr().err
    holder.communicate()
