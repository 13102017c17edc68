"""Options that `evaluate` and `compare` alone have, and what they say as arguments of the analyses.

add_second(compare)                 # another detector, or the first one after NMS
add_tables(evaluate, detectors=1)   # more tables, how to measure, pages and figures
analysis.evaluate(gt, detections, **parts_of(arguments))
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeanchor.errors import UsageError

if TYPE_CHECKING:
    from analysis.evaluation.protocol import Protocol


def add_second(parser: argparse.ArgumentParser) -> None:
    """What the first detector is compared with."""
    parser.add_argument(
        "second", type=Path, nargs="?", help="those of another detector; a difference is second minus first"
    )
    parser.add_argument(
        "--nms", type=float, metavar="IOU", help="in the place of another detector: the first one after NMS at this IoU"
    )
    parser.add_argument("--soft-nms", choices=("linear", "gaussian"), help="the same after soft-NMS (linear: at --nms)")
    parser.add_argument("--sigma", type=float, default=0.5, help="width of gaussian soft-NMS (default: 0.5)")
    parser.add_argument("--names", nargs=2, metavar="NAME", help="of the detectors, in titles (default: their files')")


def add_tables(parser: argparse.ArgumentParser, *, detectors: int) -> None:
    """Tables beside the main one, how things are measured, and where pages and figures go."""
    _add_parts(parser, detectors)
    _add_protocol(parser)
    _add_pages(parser)


def _add_parts(parser: argparse.ArgumentParser, detectors: int) -> None:
    group = parser.add_argument_group("more tables")
    group.add_argument("--per-category", action="store_true", help="the AP of every category")
    group.add_argument("--errors", action="store_true", help="TIDE's error types: counts, and AP50 that each costs")
    group.add_argument("--tide", action="store_true", help="error types by tidecv's own matching and AP")
    group.add_argument(
        "--slices", type=Path, metavar="FILE", help="csv or json: image_id or annotation_id, then a column per slice"
    )
    group.add_argument(
        "--bins",
        nargs="+",
        default=[],
        metavar="BINS",
        help="for the slices' numbers: how many (default: 4), or name=0,10,25",
    )
    group.add_argument(
        "--candidates",
        type=Path,
        nargs=detectors,
        metavar="FILE",
        help="candidates before NMS, for the NMS recall of slices" + (", of both detectors" if detectors > 1 else ""),
    )
    group.add_argument(
        "--working-point", action="store_true", help="best score threshold of each class for F1, with its curves"
    )
    group.add_argument("--precision", type=float, metavar="P", help="the same for this precision in the place of F1")
    group.add_argument("--images", action="store_true", help="AP50 and errors of each image, the worst first")
    group.add_argument("--confusion", action="store_true", help="which classes are taken for which, and background")
    group.add_argument(
        "--confusion-score",
        type=float,
        metavar="S",
        help="the same from this score on (default: the best for F1)",
    )


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to measure (the defaults are COCO's)")
    group.add_argument(
        "--sizes", type=float, nargs="+", metavar="SIDE", help="cuts of size ranges, square roots of areas (32 96)"
    )
    group.add_argument("--aspects", type=float, nargs="+", metavar="RATIO", help="cuts of aspect ratios (1.333 3)")
    group.add_argument(
        "--crowds", type=int, nargs="+", metavar="NUM", help="fewest objects of each bin of images (1 4 8 13)"
    )
    group.add_argument(
        "--max-detections", type=int, metavar="NUM", help="detections of an image and class that count (100)"
    )
    group.add_argument("--ious", type=float, nargs="+", metavar="IOU", help="thresholds (0.5 0.55 … 0.95)")


def _add_pages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pages and figures")
    group.add_argument("--html", type=Path, metavar="FILE", help="a page to mail: one file, no network")
    group.add_argument("--photos", type=Path, metavar="DIR", help="the folder of the images, to show them on the page")
    group.add_argument(
        "--page-size", type=float, default=3.0, metavar="MB", help="what the page may take, images fill it (default: 3)"
    )
    group.add_argument("--figures", type=Path, metavar="DIR", help="a figure of each table: png, pdf and csv")


def parts_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of `analysis.evaluate` and `compare`."""
    has_page = arguments.html is not None  # which shows everything
    goal = "f1" if arguments.working_point or has_page else None
    score = arguments.confusion_score
    return {
        "per_category": arguments.per_category or has_page,
        "errors": "tide" if arguments.tide else "coco" if arguments.errors or has_page else None,
        "slices": arguments.slices,
        **({"bins": _bins(arguments.bins)} if arguments.bins else {}),
        "working_point": goal if arguments.precision is None else arguments.precision,
        "per_image": arguments.images,
        "confusion": score if score is not None else "f1" if arguments.confusion else None,
        "protocol": _protocol(arguments),
    }


def _protocol(arguments: argparse.Namespace) -> "Protocol":
    from analysis.evaluation.protocol import Protocol

    given = {
        "size_cuts": arguments.sizes,
        "aspect_cuts": arguments.aspects,
        "crowd_edges": arguments.crowds,
        "iou_thresholds": arguments.ious,
    }
    kept: dict[str, Any] = {name: tuple(values) for name, values in given.items() if values is not None}
    if arguments.max_detections is not None:
        kept["max_detections"] = arguments.max_detections
    return Protocol(**kept)


def _bins(words: list[str]) -> "int | dict[str, list[float]]":
    try:
        if len(words) == 1 and "=" not in words[0]:
            return int(words[0])
        pairs = [word.rpartition("=") for word in words]
        if all(name for name, _, _ in pairs):
            return {name: [float(edge) for edge in edges.split(",")] for name, _, edges in pairs}
    except ValueError:
        pass
    raise UsageError(f"bins must be a whole number or name=edge,edge,…, got {' '.join(words)}; 4 for instance")
