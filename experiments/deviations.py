"""Where this differs from the paper, or settles what it leaves open: the list behind the `DEVIATION(Dn)` marks.

A mark stands in the code where the choice is made; a test holds that marks and list agree.

    deviations_table(Path("."))        # Markdown, with the files that carry each mark
"""

import re
from dataclasses import dataclass
from pathlib import Path

_MARK = re.compile(r"DEVIATION\((D\d+)\)")
_PACKAGES = ("freeanchor", "analysis", "experiments", "examples")


@dataclass(frozen=True)
class Deviation:
    """What the paper says (empty: nothing), what is done here, and why."""

    paper: str
    here: str
    why: str


DEVIATIONS = {
    "D1": Deviation(
        "P{a in A-} is one number an anchor",
        "one an (anchor, class) pair: only objects of a class excuse its score",
        "authors' code",
    ),
    "D2": Deviation(
        "P^cls over all classes",
        "the object's own class score; each class score is background on its own",
        "authors' code",
    ),
    "D3": Deviation(
        "exactly one anchor has P = 1",
        "none where the best IoU is at most t, several on ties",
        "authors' code",
    ),
    "D4": Deviation(
        "the maximum in the saturated line is over an unstated set",
        "all anchors, not the bag",
        "authors' code",
    ),
    "D5": Deviation(
        "gradient through P{a->b} unstated",
        "none",
        "authors' code",
    ),
    "D6": Deviation(
        "gradient of Mean-max unstated",
        "through its weights too, straight through the floor of 1 - x",
        "authors' code",
    ),
    "D7": Deviation(
        "smooth-L1's transition, weights of deltas unstated",
        "0.11, (10, 10, 5, 5)",
        "authors' code",
    ),
    "D8": Deviation(
        "the norm of B counts ground-truth boxes",
        "those of a group that is normalised together (`group_size`, two pictures on COCO; else the batch), at least 1",
        "authors' code",
    ),
    "D10": Deviation(
        'NMS recall is a "ratio of recall rates"',
        "class-agnostic, IoU strictly above tau, no caps; alternatives are named options",
        "authors' code",
    ),
    "D14": Deviation(
        "",
        "an object that meets no anchor gives no low-quality match; the authors' gives it all that tie at IoU 0",
        "ours: it is an accident",
    ),
    "D15": Deviation(
        "",
        "the baseline's box term is divided by at least 1; the authors' divides by 0 where nothing is matched",
        "ours: no NaN",
    ),
    "D16": Deviation(
        "",
        "multi-scale testing resizes the picture; the authors resize the tensor already resized to 800 px",
        "ours: larger scales then show more",
    ),
    "D17": Deviation(
        "",
        "the match probability is 0 where an object's best IoU equals t; the authors' is 0/0 there in float32",
        "ours: no NaN",
    ),
    "D18": Deviation(
        "heads without norm from N(0, 0.01), no clipping",
        "on `shapes` and `photos`: group norm, He's variance, clipping at norm 10, both detectors alike",
        "from scratch the baseline does not train otherwise; heads are as narrow on `photos`",
    ),
    "D19": Deviation(
        "",
        "anchors keep their exact shapes; the authors' are rounded at the base size",
        'ours: rounding is an accident; profile `coco` has theirs (`geometry="legacy"`)',
    ),
    "D20": Deviation(
        "anchors of 4 strides a level",
        "3 strides on `shapes`, 2 on `photos`",
        "their objects are smaller; see *Trials*, and the shares of objects in `experiments/photos.py`",
    ),
    "D21": Deviation(
        "frozen batch norm in an ImageNet backbone",
        "batch norm trained from scratch in the small backbones of `shapes`; frozen on `photos`",
        "no weights to download",
    ),
    "D22": Deviation(
        "",
        "batches are not grouped by aspect ratio on `shapes`; the authors always group theirs",
        "all its pictures are square",
    ),
    "D23": Deviation(
        "",
        "profile `coco-mmdetection` keeps the straight-through floor of 1 - x; mmdetection clamps (FACTS M5)",
        "one loss for all; a bag at the floor is rare",
    ),
    "D24": Deviation(
        "",
        "float16 leaves out steps whose gradients overflow; the authors have no mixed precision",
        "torch's own rule",
    ),
}


def find_marks(root: Path) -> dict[str, list[str]]:
    """Mark -> the files under `root` that carry it, as paths from there."""
    found: dict[str, list[str]] = {}
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if path.name == Path(__file__).name:
                continue
            for mark in dict.fromkeys(_MARK.findall(path.read_text(encoding="utf-8"))):
                found.setdefault(mark, []).append(path.relative_to(root).as_posix())
    return found


def deviations_table(root: Path) -> str:
    """All deviations as a Markdown table, in the order of their numbers, each with the files where it happens."""
    marks = find_marks(root)
    lines = ["| mark | paper | here | why | where |", "| --- | --- | --- | --- | --- |"]
    for mark, deviation in DEVIATIONS.items():
        where = ", ".join(f"`{path}`" for path in marks.get(mark, []))
        lines.append(f"| {mark} | {deviation.paper} | {deviation.here} | {deviation.why} | {where} |")
    return "\n".join(lines)
