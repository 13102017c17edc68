"""The console script `freeanchor`.

Bad input ends with one line on stderr and exit status 2; an interruption with 130. A traceback is for our bugs.

    freeanchor evaluate --gt G.json --detections D.json
    freeanchor detect photo.jpg --checkpoint model.safetensors --out out
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from experiments.commands.options import build_parser
from freeanchor.errors import FreeAnchorError

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
    "evaluate": "evaluate.evaluate",
    "compare": "evaluate.compare",
    "nms-recall": "evaluate.nms_recall",
    "nms": "evaluate.nms",
}


def _handler(command: str) -> Handler:
    """The function behind a command; imported late, and alone, so that nobody waits for what they do not use."""
    module, _, name = HANDLERS[command].partition(".")
    handler: Handler = getattr(import_module(f"experiments.commands.{module}"), name)
    return handler


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parsed = build_parser().parse_args(arguments)
    try:
        _handler(parsed.command)(parsed)
    except KeyboardInterrupt as interruption:
        print(f"freeanchor: {str(interruption) or 'interrupted; the same command goes on'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (FreeAnchorError, OSError) as error:  # about what we were given: anything else is our bug
        rank = os.environ.get("RANK")
        print(f"freeanchor{f' (process {rank})' if rank else ''}: {_in_one_line(error)}", file=sys.stderr)
        return 2
    return 0


_GOES_ON = "the same command goes on"
_REMEDIES = {
    errno.ENOSPC: f"free some space, {_GOES_ON}",
    errno.EDQUOT: f"free some space, {_GOES_ON}",
    errno.EFBIG: f"raise the limit (ulimit -f), {_GOES_ON}",
    errno.EROFS: "write elsewhere, or mount it writable",
    errno.EACCES: "change its permissions, or use another folder",
    errno.EPERM: "change its permissions, or use another folder",
    errno.ENOENT: "is the path right, and the folder still there?",
    errno.EIO: "the disk or the network behind it failed; look there first",
}


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.errno in _REMEDIES:
        return f"{error.filename}: {error.strerror}; {_REMEDIES[error.errno]}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
