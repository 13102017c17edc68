"""The front door: console script `freeanchor`.

Bad input ends with one line on stderr and exit status 2; an interruption with 130. A traceback is for our bugs.

    freeanchor list
    freeanchor train freeanchor-small-s0
    freeanchor detect photo.jpg --checkpoint model.safetensors --out out
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from experiments.command_line import build_parser

Handler = Callable[[argparse.Namespace], None]


def _handler(command: str) -> Handler:
    """The function behind a command; imported late, so that --help does not wait for torch."""
    from experiments import commands, data_commands, explore, plain

    return {
        "train": commands.train,
        "predict": commands.predict,
        "cost": commands.cost,
        "show": commands.show,
        "report": commands.report,
        "list": commands.list_runs,
        "plan": commands.plan,
        "data": data_commands.data,
        "convert": data_commands.convert,
        "export": data_commands.export,
        "replay": data_commands.replay,
        "detect": plain.detect,
        "matches": explore.matches,
        "evaluate": plain.evaluate,
        "compare": plain.compare,
        "nms-recall": plain.nms_recall,
        "nms": plain.nms,
    }[command]


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
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_input_error(error):
            raise
        rank = os.environ.get("RANK")
        print(f"freeanchor{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr)
        return 2
    return 0


def _is_input_error(error: Exception) -> bool:
    """Whether an error is about what we were given (one line is enough) or about our code (show the traceback)."""
    from analysis.columns import DataError as AnalysisDataError
    from experiments.commands import UsageError
    from experiments.remote_file import DownloadError
    from freeanchor.checkpoints import CheckpointError
    from freeanchor.data import DataError
    from freeanchor.distributed import LostProcessError
    from freeanchor.shapes import ShapesError
    from freeanchor.train import TrainingError

    ours = (AnalysisDataError, CheckpointError, DataError, DownloadError, LostProcessError, ShapesError)
    return isinstance(error, (*ours, TrainingError, UsageError, OSError))


if __name__ == "__main__":
    sys.exit(main())
