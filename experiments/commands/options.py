"""The command line: which commands there are, and what each takes. What they do is in the other modules of this room.

arguments = build_parser().parse_args()
runtime = runtime_of(arguments)
"""

import argparse
import math
from pathlib import Path

from experiments.commands.evaluation_options import add_second, add_tables
from experiments.commands.parser import Commands, Parser
from experiments.commands.source_options import add_data, add_match, add_split
from freeanchor.checkpoints.code_bases import CODE_BASES

CLASSES = ("own", "supercategory", "one")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_GT = "ground truth: COCO json (or .json.gz), or a folder of YOLO's (data.yaml) or VOC's layout"
_RESULTS = "detections: COCO results as .json, .json.gz or .parquet; a folder of YOLO's txt or VOC's; parts of match"
_CANDIDATES = "candidates before NMS: COCO results as .json, .json.gz or .parquet; with --gt also a folder"


def build_parser() -> Parser:
    """The whole command line: everyday commands first, then those that make calls."""
    parser = Parser(prog="freeanchor", description="Evaluate detectors, and reproduce FreeAnchor (NeurIPS 2019).")
    commands = Commands(parser, "command")
    commands.group("detections and candidates of any detector")
    _add_evaluate(commands)
    _add_compare(commands)
    add_match(commands.add)
    _add_nms_recall(commands)
    _add_nms(commands)
    commands.group("images, under a trained model")
    _add_detect(commands)
    _add_matches(commands)
    _add_explore(commands)
    commands.group("data sets and model files")
    _add_anchors(commands)
    add_data(commands.add, _add_profile)
    _add_convert(commands)
    _add_export(commands)
    commands.group("registered runs and their reports (the Makefile calls these)")
    _add_registry(commands)
    return parser


def _add_evaluate(commands: Commands) -> None:
    evaluate = commands.add(
        "evaluate",
        "COCO statistics and breakdowns of any detections, with intervals over images",
        "freeanchor evaluate --gt G.json --detections D.json",
    )
    evaluate.add_argument("--gt", type=Path, required=True, help=_GT)
    evaluate.add_argument("--detections", type=Path, required=True, help=_RESULTS)
    evaluate.add_argument(
        "--check", action="store_true", help="compute COCO's twelve statistics with pycocotools as well, and compare"
    )
    evaluate.add_argument("--ultralytics", action="store_true", help="add AP as Ultralytics computes it, beside COCO's")
    _add_area(evaluate)
    _add_answer(evaluate, "resamples of the images; 0: no intervals")
    add_tables(evaluate, detectors=1)


def _add_compare(commands: Commands) -> None:
    compare = commands.add(
        "compare",
        "two detectors on the same images, with a paired interval of every difference",
        "freeanchor compare --gt G.json one.json two.json",
    )
    compare.add_argument("--gt", type=Path, required=True, help=_GT)
    compare.add_argument("first", type=Path, help=_RESULTS)
    add_second(compare)
    _add_area(compare)
    _add_answer(compare, "resamples of the images")
    add_tables(compare, detectors=2)


def _add_nms_recall(commands: Commands) -> None:
    recall = commands.add(
        "nms-recall",
        "the share of found objects that NMS keeps, under four definitions, with intervals",
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
        help="IoU above which NMS suppresses; several are compared (default: 0.5)",
    )
    recall.add_argument(
        "--soft-nms",
        nargs="+",
        default=[],
        choices=("linear", "gaussian"),
        help="compare soft-NMS too; linear at each --nms",
    )
    recall.add_argument(
        "--max-candidates",
        type=int,
        default=0,
        help="hand NMS only so many of the best-scoring candidates per image; 0: all (default: 0)",
    )
    recall.add_argument("--include-crowd", action="store_true", help="count crowd regions as objects")
    recall.add_argument(
        "--inclusive", action="store_true", help="an object is found at IoU >= tau (the authors: IoU > tau)"
    )
    _add_suppression(recall)
    add_split(recall)
    _add_answer(recall, "resamples of the images; 0: no intervals")


def _add_nms(commands: Commands) -> None:
    nms = commands.add(
        "nms",
        "turn candidates into detections by NMS or soft-NMS",
        "freeanchor nms --candidates C.json.gz --out D.json --nms 0.5",
    )
    nms.add_argument("--candidates", type=Path, required=True, help=_CANDIDATES)
    nms.add_argument("--out", type=Path, required=True, help="COCO results to write, .json or .json.gz")
    nms.add_argument(
        "--gt", type=Path, help="leave out candidates of images and categories that this ground truth does not list"
    )
    nms.add_argument(
        "--nms", type=float, nargs=1, default=[0.5], metavar="IOU", help="IoU above which NMS suppresses (default: 0.5)"
    )
    nms.add_argument(
        "--soft-nms", choices=("linear", "gaussian"), help="lower scores instead of suppressing (linear: above --nms)"
    )
    nms.add_argument("--max-detections", type=int, default=100, help="detections kept per image; 0: all (default: 100)")
    _add_suppression(nms)
    add_split(nms)


def _add_area(parser: argparse.ArgumentParser) -> None:
    add_split(parser)
    parser.add_argument(
        "--area",
        choices=("annotation", "box"),
        default="annotation",
        help="what makes an object small, medium or large: the file's area (in COCO the mask's) or the box's "
        "(default: annotation)",
    )


def _add_answer(parser: argparse.ArgumentParser, resamples: str) -> None:
    parser.add_argument("--resamples", type=int, default=1000, help=f"{resamples} (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print json, for programs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table there, one row per measurement")


def _add_suppression(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sigma", type=float, default=0.5, help="width of gaussian soft-NMS (default: 0.5)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.05,
        help="boxes must score more than this, before and after (default: 0.05)",
    )


def _add_detect(commands: Commands) -> None:
    detect = commands.add(
        "detect", "draw a model's boxes on images", "freeanchor detect a.jpg --checkpoint model.safetensors"
    )
    detect.add_argument("images", nargs="+", type=Path, help="image files, or folders of them; turned as EXIF says")
    detect.add_argument(
        "--checkpoint", type=Path, required=True, help="a model.safetensors of ours, or a model.onnx made from it"
    )
    detect.add_argument("--out", type=Path, default=Path("detections"), help="folder to write to (default: detections)")
    detect.add_argument(
        "--min-score", type=float, default=0.5, help="draw boxes that score more than this (default: 0.5)"
    )
    detect.add_argument("--json", action="store_true", help="print the detections as json")
    _add_compute(detect)


def _add_matches(commands: Commands) -> None:
    matches = commands.add(
        "matches",
        "draw which anchors one or several models match with an object, beside IoU",
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
        help="without --gt or --box, take the last model's own detections above this score (default: 0.5)",
    )
    matches.add_argument("--bag-size", type=int, default=50, help="anchors in an object's bag (default: 50)")
    matches.add_argument("--out", type=Path, default=Path("matches"), help="folder to write to (default: matches)")
    matches.add_argument("--json", action="store_true", help="print each bag's summary as json")
    _add_compute(matches)


def _add_explore(commands: Commands) -> None:
    explore = commands.add(
        "explore",
        "write one page to explore which anchors one or two models match with objects, over training",
        "freeanchor explore --gt val.json --images photos --checkpoint a.safetensors b.safetensors --out explorer.html",
    )
    explore.add_argument("--gt", type=Path, help="COCO json (or .json.gz) with the objects (default: the profile's)")
    explore.add_argument("--images", type=Path, metavar="DIR", help="folder of its images (default: the profile's)")
    explore.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        help="a model.safetensors of ours, or two that are compared (default: both runs of the profile, or the example "
        "models kept with its reports)",
    )
    explore.add_argument("--snapshots", action="store_true", help="also show the step-*.safetensors beside each model")
    explore.add_argument("--num-stages", type=int, default=5, help="stages shown of a training (default: 5)")
    explore.add_argument("--num-images", type=int, default=40, help="images shown (default: 40)")
    explore.add_argument("--seed", type=int, default=0, help="of the draw of images (default: 0)")
    explore.add_argument("--bag-size", type=int, default=50, help="anchors in an object's bag (default: 50)")
    explore.add_argument(
        "--blur",
        choices=("restricted", "all"),
        help="blur images whose licence forbids derivatives (default: leave them out), or all",
    )
    explore.add_argument("--title", help="what the data are called on the page (default: the folder or profile)")
    explore.add_argument(
        "--out", type=Path, help="page to write (default: explorer.html, or reports/…/explorer.html of a profile)"
    )
    _add_profile(explore, is_report=True)
    _add_compute(explore)


def _add_anchors(commands: Commands) -> None:
    fit = commands.add(
        "anchors",
        "how anchor grids fit a data set's objects, what they cost, and which to take",
        "freeanchor anchors photos --short-side 320",
    )
    fit.add_argument("folder", type=Path, nargs="?", help="a folder with train.json, or COCO's own layout")
    fit.add_argument("--gt", type=Path, help="instead of a folder: COCO json (or .json.gz)")
    fit.add_argument("--split", choices=("train", "val"), default="train", help="of the folder (default: train)")
    fit.add_argument("--pyramid", choices=("P3-P7", "P2-P6"), default="P3-P7", help="your levels (default: P3-P7)")
    size = "side of a level's smallest square anchor, in the level's strides (default: 4, RetinaNet's)"
    fit.add_argument("--anchor-strides", type=float, default=4.0, help=size)
    fit.add_argument("--short-side", type=int, help="short side of your input in pixels (default: 224)")
    limit = "its long side at most (default: 336, or 1333/800 of a given --short-side)"
    fit.add_argument("--max-long-side", type=int, help=limit)
    spread = "images to look at, evenly spread; 0: all (default: as many as hold about 3,000 objects)"
    fit.add_argument("--max-images", type=int, help=spread)
    fit.add_argument("--json", action="store_true", help="print json, for programs")
    fit.add_argument("--csv", type=Path, metavar="FILE", help="also write one row per grid, group and metric there")
    fit.add_argument("--figure", type=Path, metavar="FILE", help="also draw it there: .png, .pdf or .svg")


def _eps(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}; 1e-5 is usual")
    return value


def _add_convert(commands: Commands) -> None:
    convert = commands.add(
        "convert",
        "turn another code base's RetinaNet or FreeAnchor into a model file of ours",
        "freeanchor convert --from mmdetection --detector FreeAnchor theirs.pth model.safetensors",
    )
    convert.add_argument(
        "--from", dest="format", choices=CODE_BASES, required=True, help="the code base that trained it"
    )
    convert.add_argument("source", type=Path, help="the file of that code base (.pth or .pkl)")
    convert.add_argument("target", type=Path, help="the model file to write")
    convert.add_argument("--detector", choices=("RetinaNet", "FreeAnchor"), help="which of the two was trained")
    convert.add_argument("--caffe", action="store_true", help="mmdetection: its backbone is Caffe's (BGR)")
    convert.add_argument(
        "--norm-eps", type=_eps, help="epsilon of batch norm; 0 for torchvision's file of 36.4 AP (default: 1e-5)"
    )
    convert.add_argument(
        "--categories", type=Path, help="COCO json with the detector's categories (default: COCO's 80)"
    )


def _add_export(commands: Commands) -> None:
    export = commands.add(
        "export",
        "turn a model file of ours into another code base's, or into ONNX",
        "freeanchor export --to torchvision m.safetensors m.pth",
    )
    formats = (*(name for name, base in CODE_BASES.items() if base.export), "onnx")
    export.add_argument("--to", dest="format", choices=formats, required=True, help="the format to write")
    export.add_argument("source", type=Path, help="a model.safetensors of ours")
    export.add_argument("target", type=Path, help="the file to write")


def _add_registry(commands: Commands) -> None:
    listing = commands.add(
        "list", "list the runs of a profile and whether they are done", "freeanchor list --profile shapes"
    )
    listing.add_argument("--json", action="store_true", help="print json, for programs")
    show = commands.add("show", "print a run's recipe, its cost and its needs", "freeanchor show freeanchor-small-s0")
    show.add_argument("--json", action="store_true", help="print the configuration, for programs")
    train = commands.add("train", "train a run, or resume it", "freeanchor train freeanchor-small-s0")
    predict = commands.add("predict", "test and measure a trained run", "freeanchor predict freeanchor-small-s0")
    train.add_argument("--compile", action="store_true", help="train through torch.compile: faster on a GPU")
    for parser in (show, train, predict):
        parser.add_argument("name", help="registry name; see freeanchor list")
    cost = commands.add("cost", "time training steps of both detectors in turn", "freeanchor cost small")
    cost.add_argument("backbone", help="a backbone whose two runs are timed: small, r50 …; or assigners: every method")
    report = commands.add("report", "write tables, figures, or the index page", "freeanchor report table2 figure5")
    report.add_argument("names", nargs="+", metavar="name", help="one or several of the list below")
    report.more_help = _reports
    plan = commands.add("plan", "print the Make rules of a profile", "freeanchor plan --chosen demo")
    pack = commands.add(
        "pack", "keep measured runs, without weights, beside their reports", "freeanchor pack --seeds 3"
    )
    unpack = commands.add("unpack", "put kept runs back into the run store", "freeanchor unpack --seeds 3")
    reporting = (report, plan, pack, unpack)
    for parser in (listing, show, train, predict, cost, *reporting):
        _add_profile(parser, is_report=parser in reporting)
    for parser in (train, predict, cost):
        _add_compute(parser)
    replay = commands.add(
        "replay",
        "repeat a diverged training step, and say where it broke",
        "freeanchor replay divergence-step-000123-process-0.safetensors",
    )
    replay.add_argument("file", type=Path, help="the file that the stopped training names")
    replay.add_argument(
        "--precision", default="", choices=("", *PRECISIONS[1:]), help="precision, instead of the training's own"
    )
    replay.add_argument("--json", action="store_true", help="print json, for programs")


def _reports() -> str:
    from experiments.reports.catalogue import summary

    return summary()


def _add_profile(parser: argparse.ArgumentParser, *, is_report: bool = False) -> None:
    """Options that say which runs are meant, and where their files lie; those of reports are shown for reports alone.

    The Makefile gives all of them to every command of the registry.
    """

    def of_reports(text: str) -> str:
        return text if is_report else argparse.SUPPRESS

    parser.add_argument(
        "--profile", default="shapes", help="shapes, photos, coco, coco-mmdetection or mini (default: shapes)"
    )
    parser.add_argument("--data", type=Path, help="folder of your own images (profile photos), or of COCO")
    parser.add_argument(
        "--classes",
        choices=CLASSES,
        help="classes of your own images: as annotated, by supercategory, or all as one (default: own)",
    )
    parser.add_argument(
        "--backbone",
        dest="backbone_name",
        metavar="NAME",
        help="backbone for your own images: resnet18, resnet34, resnet50 … or one of timm's with feature maps",
    )
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="ImageNet weights for that backbone (default: the published ones)",
    )
    parser.add_argument(
        "--compare", nargs=2, default=(), metavar="METHOD", help="two others than the paper's: atss tal …"
    )
    parser.add_argument("--assigner", type=Path, metavar="FILE", help="a Python file with an assigner of your own, too")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per run (default: 1)")
    parser.add_argument("--batch-size", type=int, help="images per step; rate and schedule follow by the linear rule")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="run store (default: runs)")
    parser.add_argument(
        "--drawn", type=Path, default=Path("data"), help="folder of synthetic data sets (default: data)"
    )
    parser.add_argument(
        "--downloads", type=Path, default=Path("downloads"), help="folder of fetched weights (default: downloads)"
    )
    parser.add_argument(
        "--credit", default="", metavar="TEXT", help=of_reports("whose images they are, and under which licence")
    )
    parser.add_argument(
        "--hide-images", action="store_true", help=of_reports("keep the images out of reports: only numbers and plots")
    )
    parser.add_argument(
        "--chosen",
        choices=("demo", "paper", "zoo", "trials", "models", "ablations", "grids", "assigners"),
        default="paper",
        help=of_reports("the runs that reports wait for; from zoo on, those made on request (default: paper)"),
    )
    parser.add_argument(
        "--reports", type=Path, default=Path("reports"), help=of_reports("folder of reports (default: reports)")
    )


def _add_compute(parser: argparse.ArgumentParser) -> None:
    """Options that say where and how fast to compute; no run's fingerprint depends on them."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's own choice (default: 0)")
    parser.add_argument(
        "--precision", default="auto", choices=PRECISIONS, help="precision of the network (default: auto)"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that load images (default: 0)")
