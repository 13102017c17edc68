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
from pathlib import Path

Handler = Callable[[argparse.Namespace], None]


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Options that say which profile, and where things lie."""
    parser.add_argument("--profile", default="shapes", help="shapes, photos or mini (default: shapes)")
    parser.add_argument("--data", type=Path, help="folder of your own pictures (profile photos)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds a run (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run store (default: runs)")
    parser.add_argument("--drawn", type=Path, default=Path("data"), help="folder of drawn data sets (default: data)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of reports (default: reports)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how fast to compute; no result's fingerprint depends on them."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is torch's own choice")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="of the network")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures (default: 0)")


def _parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="freeanchor", description="FreeAnchor (NeurIPS 2019), reproduced and analysed."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_text, description=help_text, epilog=f"example: {example}")

    for name, help_text, example in (
        ("train", "train a registered run, or go on where it stopped", "freeanchor train freeanchor-small-s0"),
        ("predict", "test and measure a trained run", "freeanchor predict freeanchor-small-s0"),
        ("show", "print a run's whole configuration as json", "freeanchor show freeanchor-small-s0"),
    ):
        command = add(name, help_text, example)
        command.add_argument("name", help="registry name; see freeanchor list")
        _add_where(command)
        _add_how(command)
    report = add("report", "write a table, a figure, or the index page", "freeanchor report table2")
    report.add_argument(
        "name", help="table1 to table3, figure1 to figure6, headline, training, comparison, trials, index, or all"
    )
    _add_where(report)
    listing = add("list", "list the runs of a profile and whether they are done", "freeanchor list --profile shapes")
    listing.add_argument("--json", action="store_true", help="for programs")
    _add_where(listing)
    plan = add("plan", "print the Make rules of a profile", "freeanchor plan --chosen demo")
    plan.add_argument("--chosen", choices=("demo", "paper"), default="paper", help="the runs that reports wait for")
    _add_where(plan)
    data = add("data", "draw or look after data sets", "freeanchor data shapes data/shapes")
    data.add_argument("action", choices=("shapes", "draw", "check"), help="shapes DIR, draw RUN, or check DIR")
    data.add_argument("target", help="a folder; for draw, the run whose data set to draw")
    _add_where(data)
    detect = add("detect", "draw a detector's boxes on pictures", "freeanchor detect a.jpg --checkpoint m.safetensors")
    detect.add_argument("images", nargs="+", type=Path, help="picture files")
    detect.add_argument("--checkpoint", type=Path, required=True, help="a model.safetensors of ours")
    detect.add_argument("--out", type=Path, default=Path("detections"), help="folder to write to (default: detections)")
    detect.add_argument("--min-score", type=float, default=0.5, help="draw boxes that score more (default: 0.5)")
    detect.add_argument("--json", action="store_true", help="print the detections as json")
    _add_how(detect)
    evaluate = add(
        "evaluate", "COCO statistics and breakdowns of any detections", "freeanchor evaluate --gt G --detections D"
    )
    evaluate.add_argument("--gt", type=Path, required=True, help="ground truth, COCO json (or .gz)")
    evaluate.add_argument("--detections", type=Path, required=True, help="detections, COCO results json (or .gz)")
    evaluate.add_argument("--json", action="store_true", help="for programs")
    recall = add(
        "nms-recall", "what NMS costs any detector's candidates", "freeanchor nms-recall --gt G --candidates C"
    )
    recall.add_argument("--gt", type=Path, required=True, help="ground truth, COCO json (or .gz)")
    recall.add_argument(
        "--candidates", type=Path, required=True, help="candidates before NMS, COCO results json (or .gz)"
    )
    recall.add_argument("--nms", type=float, default=0.5, help="IoU above which NMS suppresses (default: 0.5)")
    recall.add_argument("--json", action="store_true", help="for programs")
    return parser


def _handler(command: str) -> Handler:
    """The function behind a command; imported late, so that --help does not wait for torch."""
    from experiments import commands, plain

    return {
        "train": commands.train,
        "predict": commands.predict,
        "show": commands.show,
        "report": commands.report,
        "list": commands.list_runs,
        "plan": commands.plan,
        "data": commands.data,
        "detect": plain.detect,
        "evaluate": plain.evaluate,
        "nms-recall": plain.nms_recall,
    }[command]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        _handler(parsed.command)(parsed)
    except KeyboardInterrupt as interruption:
        print(f"freeanchor: {str(interruption) or 'interrupted; the same command goes on'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if not _is_input_error(error):
            raise
        print(f"freeanchor: {error}", file=sys.stderr)
        return 2
    return 0


def _is_input_error(error: Exception) -> bool:
    """Whether an error is about what we were given (one line is enough) or about our code (show the traceback)."""
    from analysis.columns import DataError as AnalysisDataError
    from experiments.commands import UsageError
    from freeanchor.checkpoints import CheckpointError
    from freeanchor.data import DataError
    from freeanchor.shapes import ShapesError
    from freeanchor.train import TrainingError

    ours = (AnalysisDataError, CheckpointError, DataError, ShapesError, TrainingError, UsageError)
    return isinstance(error, (*ours, OSError))


if __name__ == "__main__":
    sys.exit(main())
