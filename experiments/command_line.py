"""The command line: which commands there are, and what each takes. What they do is in the modules of commands.

arguments = build_parser().parse_args()
"""

import argparse
from collections.abc import Callable
from pathlib import Path

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
FORMATS = ("authors", "mmdetection", "torchvision", "detectron2")
Add = Callable[[str, str, str], argparse.ArgumentParser]


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Options that say which profile, and where things lie."""
    parser.add_argument("--profile", default="shapes", help="shapes, photos, coco … (default: shapes)")
    parser.add_argument("--data", type=Path, help="folder of your own pictures (profile photos)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds a run (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run store (default: runs)")
    parser.add_argument("--drawn", type=Path, default=Path("data"), help="folder of drawn data sets (default: data)")
    parser.add_argument(
        "--downloads", type=Path, default=Path("downloads"), help="folder of fetched weights (default: downloads)"
    )
    parser.add_argument("--batch-size", type=int, help="pictures a step in place of the recipe's, by the linear rule")
    parser.add_argument(
        "--chosen",
        choices=("demo", "paper", "zoo"),
        default="paper",
        help="runs that reports wait for; zoo: published checkpoints, compared with each other",
    )
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of reports (default: reports)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how fast to compute; no result's fingerprint depends on them."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is torch's own choice")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the network")
    parser.add_argument("--workers", type=int, default=0, help="processes that load pictures (default: 0)")


def _add_data(add: Add) -> None:
    """The commands that look after data sets."""
    data = add("data", "draw, fetch or check data sets", "freeanchor data check photos")
    data.add_argument(
        "action", choices=("shapes", "draw", "coco", "check"), help="shapes DIR, draw RUN, coco DIR, or check DIR"
    )
    data.add_argument("target", help="a folder; for draw, the run whose data set to draw")
    data.add_argument("--splits", default="train,val", help="of COCO, those to fetch (default: train,val)")
    _add_where(data)


def _add_weights(add: Add) -> None:
    """The commands that bring checkpoints in and out, and look at a step that went wrong."""
    convert = add(
        "convert",
        "turn another code base's RetinaNet or FreeAnchor into a model file of ours",
        "freeanchor convert --from mmdetection --detector FreeAnchor theirs.pth model.safetensors",
    )
    convert.add_argument("--from", dest="format", choices=FORMATS, required=True, help="the code base it is of")
    convert.add_argument("source", type=Path, help="its file (.pth or .pkl)")
    convert.add_argument("target", type=Path, help="the model file to write")
    convert.add_argument("--detector", choices=("RetinaNet", "FreeAnchor"), help="which of the two was trained")
    convert.add_argument("--caffe", action="store_true", help="mmdetection: its backbone is Caffe's (BGR)")
    convert.add_argument("--norm-eps", type=float, help="of batch norm; 0 for torchvision's file of 36.4 AP")
    convert.add_argument("--categories", type=Path, help="COCO json with its categories (default: COCO's 80)")
    export = add(
        "export",
        "turn a model file of ours into another code base's",
        "freeanchor export --to torchvision m.safetensors m.pth",
    )
    export.add_argument(
        "--to", dest="format", choices=("torchvision", "mmdetection"), required=True, help="the code base"
    )
    export.add_argument("source", type=Path, help="a model.safetensors of ours")
    export.add_argument("target", type=Path, help="the file to write")
    replay = add(
        "replay",
        "do a diverged step of a training again, and say where it broke",
        "freeanchor replay divergence-step-000123-process-0.safetensors",
    )
    replay.add_argument("file", type=Path, help="the file that the stopped training names")
    replay.add_argument("--precision", default="", choices=("", *PRECISIONS[1:]), help="in place of the training's own")
    replay.add_argument("--json", action="store_true", help="for programs")


def _add_files(add: Add) -> None:
    """The commands on plain files, which need no registry."""
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
    compare = add(
        "compare",
        "two detectors on the same pictures, with paired intervals",
        "freeanchor compare --gt G one.json two.json",
    )
    compare.add_argument("--gt", type=Path, required=True, help="ground truth, COCO json (or .gz)")
    compare.add_argument("first", type=Path, help="detections, COCO results json (or .gz)")
    compare.add_argument("second", type=Path, help="likewise; the difference is this one minus the first")
    compare.add_argument("--resamples", type=int, default=1000, help="of the pictures (default: 1000)")
    compare.add_argument("--json", action="store_true", help="for programs")
    recall = add(
        "nms-recall", "what NMS costs any detector's candidates", "freeanchor nms-recall --gt G --candidates C"
    )
    recall.add_argument("--gt", type=Path, required=True, help="ground truth, COCO json (or .gz)")
    recall.add_argument(
        "--candidates", type=Path, required=True, help="candidates before NMS, COCO results json (or .gz)"
    )
    recall.add_argument("--nms", type=float, default=0.5, help="IoU above which NMS suppresses (default: 0.5)")
    recall.add_argument("--json", action="store_true", help="for programs")


def build_parser() -> argparse.ArgumentParser:
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
        ("show", "print a run's whole recipe, what it costs, what it needs", "freeanchor show freeanchor-small-s0"),
    ):
        command = add(name, help_text, example)
        command.add_argument("name", help="registry name; see freeanchor list")
        _add_where(command)
        if name == "show":
            command.add_argument("--json", action="store_true", help="the configuration for programs")
        else:
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
    _add_where(plan)
    _add_data(add)
    _add_files(add)
    _add_weights(add)
    return parser
