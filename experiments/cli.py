"""The console script `freeanchor`.

Bad input, and a machine's limits, end with one line on stderr and exit status 2; an interruption with 130. A traceback
is for our bugs.

    freeanchor evaluate --gt G.json --detections D.json
    freeanchor detect photo.jpg --checkpoint model.safetensors --out out
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TextIO

from experiments.commands.options import build_parser
from freeanchor.errors import LINE, FreeAnchorError, printable, shown

Handler = Callable[[argparse.Namespace], None]


HANDLERS = {
    "train": "runs.train",
    "predict": "runs.predict",
    "cost": "runs.cost",
    "show": "runs.show",
    "report": "runs.report",
    "list": "runs.list_runs",
    "plan": "runs.plan",
    "pack": "runs.pack",
    "unpack": "runs.unpack",
    "anchors": "anchors.anchors",
    "data": "data.data",
    "convert": "data.convert",
    "export": "data.export",
    "replay": "data.replay",
    "detect": "detect.command",
    "matches": "matches.matches",
    "explore": "explore.explore",
    "evaluate": "evaluate.evaluate",
    "compare": "evaluate.compare",
    "nms-recall": "evaluate.nms_recall",
    "nms": "evaluate.nms",
    "match": "evaluate.match",
}


def _handler(command: str) -> Handler:
    """The function behind a command; imported late, and alone, so that nobody waits for what they do not use."""
    module, _, name = HANDLERS[command].partition(".")
    handler: Handler = getattr(import_module(f"experiments.commands.{module}"), name)
    return handler


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    _escape_on(sys.stdout)
    parsed = build_parser().parse_args(arguments)
    try:
        _handler(parsed.command)(parsed)
        if sys.stdout is not None:  # closed
            sys.stdout.flush()  # here, where a full disk or a closed pipe behind it can be told
    except KeyboardInterrupt as interruption:
        _say(str(interruption) or f"interrupted; {_GOES_ON}")
        return 130
    except BrokenPipeError:  # whoever read our output has enough
        _silence_stdout()
        return 0
    except Exception as error:
        line = _line_of(error, parsed.command)
        if line is None:  # our bug
            raise
        _say(line)
        if isinstance(error, OSError) and error.filename is None:  # stdout's: Python would try once more
            _silence_stdout()
        return 2
    return 0


def _escape_on(stream: TextIO | None) -> None:
    """Let characters that a terminal's encoding lacks be written as escapes, as Python does on stderr."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    with suppress(AttributeError, OSError, ValueError):  # it is none, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends


def _say(line: str) -> None:
    rank = os.environ.get("RANK")
    with suppress(OSError):  # stderr may be gone as well
        print(f"freeanchor{f' (process {rank})' if rank else ''}: {shown(line, LINE)}", file=sys.stderr)


def _line_of(error: Exception, command: str) -> str | None:
    """What a user is told of an error about what we were given, or of the machine's limits; None for our bugs."""
    if isinstance(error, FreeAnchorError):
        return str(error)
    if isinstance(error, MemoryError) or _is_of_memory(error):
        return f"{command}: not enough memory ({_last_line(error)}); free some, or give smaller input or batches"
    if isinstance(error, RecursionError):
        return f"{command}: input nested too deeply to be read or written; flatten it"
    if isinstance(error, UnicodeError):
        return f"{command}: text in an encoding that cannot be read or written here ({error}); use UTF-8"
    return _line_of_system(error) if isinstance(error, OSError) else None


def _is_of_memory(error: Exception) -> bool:
    # CUDA's error has a class of its own; the CPU's, pandas' and ONNX Runtime's have none
    words = ("allocate memory", "not enough memory", "out of memory", "bad_alloc", "can't start new thread")
    return any(word in str(error) for word in words)


def _last_line(error: Exception) -> str:
    # What comes from a process that loads images has its whole traceback as its message.
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or ["no more is known"])[-1]


_GOES_ON = "the same command goes on"
_PERMISSIONS = "change its permissions, or use another folder"
_REMEDIES = {
    errno.ENOSPC: f"free some space, {_GOES_ON}",
    errno.EDQUOT: f"free some space, {_GOES_ON}",
    errno.EFBIG: f"raise the limit (ulimit -f), {_GOES_ON}",
    errno.EROFS: "write elsewhere, or mount it writable",
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.ENOENT: "is the path right, and the folder still there?",
    errno.EIO: "the disk or the network behind it failed; look there first",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a part of the path is a file; give another path",
    errno.EISDIR: "give the name of a file in it",
    errno.ELOOP: "its links lead in a circle; give another path",
    errno.EMFILE: f"raise the limit (ulimit -n), {_GOES_ON}",
    errno.ENOMEM: "free some memory, or give smaller input or batches",
}


def _line_of_system(error: OSError) -> str:
    if error.errno is None or error.strerror is None:
        return _last_line(error) if "Traceback" in str(error) else printable(str(error).strip()) or "no more is known"
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    where = "" if name is None else f"{name}: "
    return f"{where}{error.strerror}; {_REMEDIES.get(error.errno, 'look at the path, and at the disk behind it')}"


if __name__ == "__main__":
    sys.exit(main())
