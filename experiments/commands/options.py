"""The command line: which commands there are, and what each takes. What they do is in the modules of commands.

arguments = build_parser().parse_args()

argparse's parser, whose refusals say what may have been meant.

parser = Parser(prog="freeanchor")

What every command takes from its command line: where and how fast to compute; and what to say of bad options.

runtime = runtime_of(arguments)
"""

import argparse
import difflib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from freeanchor.checkpoints.code_bases import CODE_BASES
from freeanchor.errors import UsageError

if TYPE_CHECKING:
    from freeanchor.runtime import Runtime
    from freeanchor.training.processes import Processes


class Parser(argparse.ArgumentParser):
    """argparse's, whose refusals name the nearest command, option or choice where one was misspelt."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message with what may have been meant, and exit with status 2."""
        choice = re.match(r".*invalid choice: '(.*)' \(choose from (.*)\)", message)
        stray = re.match(r"unrecognized arguments: (-[^\s=]*)", message)
        near: list[str] = []
        if choice:
            near = difflib.get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1, cutoff=0.5)
        elif stray:
            near = difflib.get_close_matches(stray[1], sorted(set(self._options())), n=1, cutoff=0.6)
        super().error(f"{message}; did you mean {near[0]}?" if near else message)

    def _options(self) -> Iterator[str]:
        """Every option of this parser and of its commands."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from command._options()


CLASSES = ("own", "supercategory", "one")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
Add = Callable[[str, str, str], argparse.ArgumentParser]


def _eps(text: str) -> float:
    """What is added to variances: a finite number, 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}; 1e-5 is usual")
    return value


def _add_where(parser: argparse.ArgumentParser) -> None:
    """Options that say which profile, and where things lie."""
    parser.add_argument("--profile", default="shapes", help="shapes, photos, coco … (default: shapes)")
    parser.add_argument("--data", type=Path, help="folder of your own images (profile photos)")
    parser.add_argument(
        "--classes", choices=CLASSES, help="of your own images: as they are, by supercategory, or all as one"
    )
    parser.add_argument(
        "--backbone",
        dest="backbone_name",
        metavar="NAME",
        help="for your own images: resnet18, resnet34, resnet50 … or any that timm has maps of",
    )
    parser.add_argument(
        "--backbone-weights", type=Path, metavar="FILE", help="ImageNet weights for it, in place of the published ones"
    )
    parser.add_argument("--credit", default="", metavar="TEXT", help="whose images they are, and under which licence")
    parser.add_argument(
        "--hide-images", action="store_true", help="keep them out of reports: numbers and drawings alone"
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds a run (default: 1)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run store (default: runs)")
    parser.add_argument("--drawn", type=Path, default=Path("data"), help="folder of drawn data sets (default: data)")
    parser.add_argument(
        "--downloads", type=Path, default=Path("downloads"), help="folder of fetched weights (default: downloads)"
    )
    parser.add_argument("--batch-size", type=int, help="images a step in place of the recipe's, by the linear rule")
    parser.add_argument(
        "--chosen",
        choices=("demo", "paper", "zoo", "trials", "models", "ablations"),
        default="paper",
        help="runs that reports wait for; zoo: published checkpoints, compared with each other; trials, models, "
        "ablations: for your own images, those besides",
    )
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of reports (default: reports)")


def _add_how(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how fast to compute; no result's fingerprint depends on them."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 is torch's own choice")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the network")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: 0)")


def _add_data(add: Add) -> None:
    """The commands that look after data sets."""
    data = add("data", "draw, fetch, convert or check data sets", "freeanchor data check photos")
    data.add_argument(
        "action",
        choices=("shapes", "draw", "coco", "voc", "check"),
        help="shapes DIR, draw RUN, coco DIR, voc DIR DIR (Pascal VOC xml into our layout), or check DIR",
    )
    data.add_argument("target", help="a folder; for draw, the run whose data set to draw")
    data.add_argument("destination", nargs="?", type=Path, help="for voc, the folder to write")
    data.add_argument("--splits", default="train,val", help="of COCO, those to fetch (default: train,val)")
    _add_where(data)


def _add_weights(add: Add) -> None:
    """The commands that bring checkpoints in and out, and look at a step that went wrong."""
    convert = add(
        "convert",
        "turn another code base's RetinaNet or FreeAnchor into a model file of ours",
        "freeanchor convert --from mmdetection --detector FreeAnchor theirs.pth model.safetensors",
    )
    convert.add_argument("--from", dest="format", choices=CODE_BASES, required=True, help="the code base it is of")
    convert.add_argument("source", type=Path, help="its file (.pth or .pkl)")
    convert.add_argument("target", type=Path, help="the model file to write")
    convert.add_argument("--detector", choices=("RetinaNet", "FreeAnchor"), help="which of the two was trained")
    convert.add_argument("--caffe", action="store_true", help="mmdetection: its backbone is Caffe's (BGR)")
    convert.add_argument("--norm-eps", type=_eps, help="of batch norm; 0 for torchvision's file of 36.4 AP")
    convert.add_argument("--categories", type=Path, help="COCO json with its categories (default: COCO's 80)")
    export = add(
        "export",
        "turn a model file of ours into another code base's, or into ONNX",
        "freeanchor export --to torchvision m.safetensors m.pth",
    )
    formats = (*(name for name, base in CODE_BASES.items() if base.export), "onnx")
    export.add_argument("--to", dest="format", choices=formats, required=True, help="the code base")
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
    detect = add("detect", "draw a detector's boxes on images", "freeanchor detect a.jpg --checkpoint m.safetensors")
    detect.add_argument("images", nargs="+", type=Path, help="image files; turned upright where they say how (EXIF)")
    detect.add_argument(
        "--checkpoint", type=Path, required=True, help="a model.safetensors of ours, or a model.onnx made of it"
    )
    detect.add_argument("--out", type=Path, default=Path("detections"), help="folder to write to (default: detections)")
    detect.add_argument("--min-score", type=float, default=0.5, help="draw boxes that score more (default: 0.5)")
    detect.add_argument("--json", action="store_true", help="print the detections as json")
    _add_how(detect)
    _add_evaluations(add)
    _add_suppressions(add)


_GT = "ground truth, COCO json (or .json.gz)"
_RESULTS = "detections: COCO results, .json, .json.gz or .parquet"
_CANDIDATES = "candidates before NMS: COCO results, .json, .json.gz or .parquet"


def _add_answer(parser: argparse.ArgumentParser, num_resamples: str) -> None:
    """Options that say how sure, and in what form, an answer comes."""
    parser.add_argument("--resamples", type=int, default=1000, help=f"{num_resamples} (default: 1000)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too, a row a measurement")


def _add_matches(add: Add) -> None:
    """The command that takes the matching of one image's objects apart."""
    matches = add(
        "matches",
        "draw which anchors of an object's bag a detector, or several, would match with it, beside IoU",
        "freeanchor matches a.jpg --checkpoint m.safetensors --box 10 20 60 30 --category door",
    )
    matches.add_argument("image", type=Path, help="an image file")
    matches.add_argument(
        "--checkpoint", type=Path, nargs="+", required=True, help="a model.safetensors of ours; several are compared"
    )
    objects = matches.add_mutually_exclusive_group()
    objects.add_argument("--gt", type=Path, help="COCO json (or .gz) with the image's objects")
    objects.add_argument("--box", type=float, nargs=4, metavar=("X", "Y", "W", "H"), help="an object's box in pixels")
    matches.add_argument("--category", help="the category of --box")
    matches.add_argument("--object", type=int, metavar="N", help="only the Nth of the objects, counted from 1")
    matches.add_argument(
        "--min-score",
        type=float,
        default=0.5,
        help="without --gt or --box the objects are the (last) detector's own detections above it (default: 0.5)",
    )
    matches.add_argument("--bag-size", type=int, default=50, help="anchors offered to an object (default: 50)")
    matches.add_argument("--out", type=Path, default=Path("matches"), help="folder to write to (default: matches)")
    matches.add_argument("--json", action="store_true", help="print each bag's summary as json")
    _add_how(matches)


def _add_evaluations(add: Add) -> None:
    """The commands on detections after NMS."""
    evaluate = add(
        "evaluate",
        "COCO statistics and breakdowns of any detections, with intervals over images",
        "freeanchor evaluate --gt G.json --detections D.json",
    )
    evaluate.add_argument("--gt", type=Path, required=True, help=_GT)
    evaluate.add_argument("--detections", type=Path, required=True, help=_RESULTS)
    evaluate.add_argument("--per-category", action="store_true", help="AP of every category, too")
    evaluate.add_argument("--check", action="store_true", help="compute the twelve with pycocotools too, and compare")
    compare = add(
        "compare",
        "two detectors on the same images, with paired intervals",
        "freeanchor compare --gt G.json one.json two.json",
    )
    compare.add_argument("--gt", type=Path, required=True, help=_GT)
    compare.add_argument("first", type=Path, help=_RESULTS)
    compare.add_argument("second", type=Path, help="likewise; the difference is this one minus the first")
    for parser, none in ((evaluate, "; 0: no intervals"), (compare, "")):
        parser.add_argument(
            "--area",
            choices=("annotation", "box"),
            default="annotation",
            help="what makes an object small, medium or large: its area in the file (COCO: the mask's), or its box's",
        )
        _add_answer(parser, f"resamplings of the images{none}")


def _add_suppressions(add: Add) -> None:
    """The commands on candidates before NMS."""
    recall = add(
        "nms-recall",
        "what NMS costs any detector's candidates: NMS recall under four definitions, with intervals",
        "freeanchor nms-recall --gt G.json --candidates C.json.gz --nms 0.4 0.5 0.6 --soft-nms gaussian",
    )
    recall.add_argument("--gt", type=Path, required=True, help=_GT)
    recall.add_argument("--candidates", type=Path, required=True, help=_CANDIDATES)
    recall.add_argument(
        "--nms",
        type=float,
        nargs="+",
        default=[0.5],
        metavar="IOU",
        help="IoU above which NMS suppresses (default: 0.5)",
    )
    recall.add_argument(
        "--soft-nms", nargs="+", default=[], choices=("linear", "gaussian"), help="beside them; linear at each IoU"
    )
    recall.add_argument(
        "--max-candidates", type=int, default=0, help="of an image, the best, before NMS; 0: all (default: 0)"
    )
    recall.add_argument("--include-crowd", action="store_true", help="count crowd regions as objects")
    recall.add_argument("--inclusive", action="store_true", help="found means IoU >= tau (the authors: IoU > tau)")
    _add_answer(recall, "resamplings of the images; 0: no intervals")
    nms = add(
        "nms",
        "turn candidates into detections, by NMS or soft-NMS",
        "freeanchor nms --candidates C.json.gz --out D.json --nms 0.5",
    )
    nms.add_argument("--candidates", type=Path, required=True, help=_CANDIDATES)
    nms.add_argument("--out", type=Path, required=True, help="COCO results to write, .json or .json.gz")
    nms.add_argument("--gt", type=Path, help="check image and category ids against this ground truth")
    nms.add_argument(
        "--nms", type=float, nargs=1, default=[0.5], metavar="IOU", help="IoU above which NMS suppresses (default: 0.5)"
    )
    nms.add_argument("--soft-nms", choices=("linear", "gaussian"), help="let scores fall instead (linear: above --nms)")
    nms.add_argument("--max-detections", type=int, default=100, help="of an image; 0: all (default: 100)")
    for parser in (recall, nms):
        parser.add_argument("--sigma", type=float, default=0.5, help="width of gaussian soft-NMS (default: 0.5)")
        parser.add_argument(
            "--score-threshold",
            type=float,
            default=0.05,
            help="boxes must score more, before and after (default: 0.05)",
        )


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="freeanchor", description="FreeAnchor (NeurIPS 2019), reproduced and analysed.")
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
    cost = add("cost", "time training steps of both detectors in turn", "freeanchor cost small")
    cost.add_argument("backbone", help="backbone of the profile whose two runs are trained: small, large, r50 …")
    _add_where(cost)
    _add_how(cost)
    report = add("report", "write a table, a figure, or the index page", "freeanchor report table2")
    report.add_argument(
        "name",
        help="table1 to table3, figure1 to figure6, headline, claims, ablations, candidates, positions, "
        "concentration, part_distance, bag_boxes, training, convergence, bag_overlap, gallery_slender, "
        "gallery_crowded, gallery_random, comparison, peer, trials, models, index, or all",
    )
    _add_where(report)
    listing = add("list", "list the runs of a profile and whether they are done", "freeanchor list --profile shapes")
    listing.add_argument("--json", action="store_true", help="for programs")
    _add_where(listing)
    for name, help_text, example in (
        ("plan", "print the Make rules of a profile", "freeanchor plan --chosen demo"),
        ("pack", "keep measured runs, without weights, beside their reports: kept/*.zip", "freeanchor pack --seeds 3"),
        ("unpack", "put kept runs into the store, where they are not there", "freeanchor unpack --seeds 3"),
    ):
        _add_where(add(name, help_text, example))
    _add_data(add)
    _add_files(add)
    _add_matches(add)
    _add_weights(add)
    return parser


def check_device(device: str) -> None:
    """Raise UsageError where it is neither the CPU nor a GPU of CUDA, or torchrun's processes here outnumber those."""
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device {device}: torch knows no such device; give cpu, cuda or cuda:1") from None
    if parsed.type not in ("cpu", "cuda"):  # mps, xpu, meta: names of torch's that nothing here was written for
        raise UsageError(f"--device {device}: only CPUs and CUDA's GPUs are supported; give cpu, cuda or cuda:1")
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    if parsed.type == "cuda":
        _check_gpus(device, parsed.index, torch.cuda.device_count())


def _check_gpus(device: str, index: int | None, num_gpus: int) -> None:
    """Raise UsageError where a GPU of that number, or one for each process on this host, is not there."""
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_processes > 1 and index is not None:
        raise UsageError(f"--device {device}: {num_processes} processes cannot share one GPU; give --device cuda")
    if max(num_processes, (index or 0) + 1) > num_gpus:
        raise UsageError(
            f"--device {device}: {num_processes} process(es) on a host with {num_gpus} GPU(s); start as many as there "
            "are, and count them from cuda:0"
        )


def check_counts(arguments: argparse.Namespace) -> None:
    """Raise UsageError where threads or workers are fewer than none."""
    for option in ("threads", "workers"):
        if getattr(arguments, option, 0) < 0:
            raise UsageError(f"--{option} must not be negative, got {getattr(arguments, option)}")


def runtime_of(arguments: argparse.Namespace, processes: "Processes | None" = None) -> "Runtime":
    """Device, threads and precision of the command line, put into force; each process has a GPU of its own."""
    from freeanchor.runtime import Runtime

    check_device(arguments.device)
    check_counts(arguments)
    device = processes.device if processes is not None and processes.count > 1 else arguments.device
    runtime = Runtime(
        device=device, threads=arguments.threads, precision=arguments.precision, num_workers=arguments.workers
    )
    runtime.prepare()
    return runtime
