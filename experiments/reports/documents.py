"""README.md and REPRODUCING.md: their tables stand between markers and are the reports' own, byte for byte.

A block is everything between `<!-- begin NAME -->` and `<!-- end NAME -->`, on lines of their own.

    python -m experiments.reports.documents             # fill in every block
    python -m experiments.reports.documents --check     # exit status 1, naming the blocks that differ from the reports

What came out on photographs, a line a data set: a block of the documents, from the committed reports alone.

print(photographs_table(Path(".")))

Where this differs from the paper, or settles what it leaves open: the list behind the `DEVIATION(Dn)` marks.

A mark stands in the code where the choice is made; a test holds that marks and list agree.

    deviations_table(Path("."))        # Markdown, with the files that carry each mark
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.claims.claims import VERDICTS
from experiments.registry.profile import DETECTORS, PEER
from experiments.reports.account import checklist_table, compute_table, read_photograph_records, read_records
from experiments.reports.frames import HEADLINE_ROWS
from experiments.runs.store import ROOT
from freeanchor.errors import FreeAnchorError
from freeanchor.files import write_bytes
from freeanchor.losses.free_anchor import effective_anchors

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
        "those of a group that is normalised together (`group_size`, two images on COCO; else the batch), at least 1",
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
        "multi-scale testing resizes the image; the authors resize the tensor already resized to 800 px",
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
        "all its images are square",
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


GAINS = {"ap": "AP", "ap_slender": "slender", "ap_square": "square", "nr": "NMS recall"}  # columns of gains
HEAD = ("Set", "Val. images with objects", "Seeds", "RetinaNet", "FreeAnchor", "with torchvision's loss, seed 0")
ABOVE_PEER = "above it, seed 0: RetinaNet; FreeAnchor"


def photographs_table(root: Path) -> str:
    """A Markdown table of every set that has a report: AP of each detector, and gains with their intervals.

    Percent. The gains' intervals are over images, paired, and do not know the seed; verdicts (`claims.md`) know both.
    """
    head = [*HEAD, ABOVE_PEER, *(f"gain: {name}" for name in GAINS.values())]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for path in sorted((root / "reports" / "photos").glob("*/headline.csv")):
        lines.append(f"| {' | '.join(_cells(path))} |")
    return "\n".join(lines)


def _cells(path: Path) -> list[str]:
    """One set's line."""
    cells = {(str(row["what"]), str(row["metric"])): row for row in pd.read_csv(path).to_dict("records")}
    folder = path.parent
    table = pd.read_csv(folder / "table2.csv")
    peer = table[(table["run"] == PEER) & (table["metric"] == "ap")]["value"].to_list()
    counts = pd.read_csv(folder / "figure6.csv").groupby("bin")["num_images"].max()
    detectors = [cells[HEADLINE_ROWS["ap"], name] for name in ("retinanet", "freeanchor")]
    return [
        f"[{folder.name}](reports/photos/{folder.name}/claims.md)",
        f"{counts.sum():.0f}",
        f"{max(row['n_seeds'] for row in detectors):.0f}",
        *(_percent(value) for value in [*(row["value"] for row in detectors), *(peer or [math.nan])]),
        _above_peer(folder / "peer.csv"),
        *(_gain(cells[HEADLINE_ROWS[metric], "gain"]) for metric in GAINS),
    ]


def _above_peer(path: Path) -> str:
    """AP of both detectors less that with torchvision's loss; a report of an earlier version has none."""
    if not path.exists():
        return "not run"
    frame = pd.read_csv(path)
    rows = frame[frame["metric"] == "ap"].set_index("detector").reindex(list(DETECTORS)).to_dict("records")
    return "; ".join(map(_gain, rows)) if len(frame) else "not run"


def _percent(value: float) -> str:
    """A fraction in percent."""
    return "not run" if math.isnan(value) else f"{100 * value:.1f}"


def _gain(row: Mapping[Hashable, Any]) -> str:
    """A difference with its interval, in points."""
    if math.isnan(row["value"]):
        return "not run"
    return f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


DOCUMENTS = ("README.md", "REPRODUCING.md")
_BLOCK = re.compile(r"^<!-- begin (?P<name>[\w-]+) -->\n(?P<body>.*?)^<!-- end (?P=name) -->$", re.M | re.S)


class DocumentError(FreeAnchorError):
    """A document with a block that nobody can fill; one line."""


def _table_of(path: Path) -> str:
    """The pipe table of a Markdown report."""
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|"))


def _verdicts(root: Path) -> str:
    """How many claims have which verdict, and which."""
    claims = pd.read_csv(root / "reports/shapes/claims.csv").drop_duplicates("id")
    lines = []
    for verdict in VERDICTS:
        rows = claims[claims["verdict"] == verdict].to_dict("records")
        own = [f"{row['claim']} ({row['section']})" for row in rows]
        if own:
            lines.append(f"- **{verdict}** ({len(own)}): {'; '.join(own)}.")
    return "\n".join(lines)


def _mean_max_table(bag_size: int = 50) -> str:
    """Effective anchors of a bag by how sure one anchor of it is, all others being sure that it is not the object."""
    sure = (0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
    confidence = torch.zeros(len(sure), bag_size, dtype=torch.float64)
    confidence[:, 0] = torch.tensor(sure)
    cells = [f"{number:.1f}" for number in effective_anchors(confidence).tolist()]
    head = " | ".join(f"{value:g}" for value in sure)
    lines = [f"| confidence of the one anchor | {head} |", f"|{' --: |' * (len(sure) + 1)}"]
    return "\n".join([*lines, f"| effective anchors of {bag_size} | {' | '.join(cells)} |"])


BLOCKS: dict[str, Callable[[Path], str]] = {
    "headline": lambda root: _table_of(root / "reports/shapes/headline.md"),
    "claims": lambda root: _table_of(root / "reports/shapes/claims.md"),
    "verdicts": _verdicts,
    "ablations": lambda root: _table_of(root / "reports/shapes/ablations.md"),
    "benchmarks": lambda root: _table_of(root / "reports/benchmarks.md"),
    "mean-max": lambda root: _mean_max_table(),
    "photographs": photographs_table,
    "photographs-pooled": lambda root: _table_of(root / "reports/photos/pooled.md"),
    "deviations": deviations_table,
    "compute": lambda root: compute_table(read_records(root / "reports/shapes")),
    "compute-photographs": lambda root: compute_table(read_photograph_records(root / "reports/photos")),
    "checklist": lambda root: checklist_table(read_records(root / "reports/shapes")),
}


def filled(text: str, root: Path) -> str:
    """The document with every block as the reports under `root` have it; raises DocumentError for an unknown block."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise DocumentError(f"no block {name!r}; choose one of {', '.join(BLOCKS)}")
        return f"<!-- begin {name} -->\n{BLOCKS[name](root)}\n<!-- end {name} -->"

    return _BLOCK.sub(fill, text)


def stale_blocks(text: str, root: Path) -> list[str]:
    """The names of blocks that differ from the reports."""
    fresh = {match["name"]: match["body"] for match in _BLOCK.finditer(filled(text, root))}
    return [match["name"] for match in _BLOCK.finditer(text) if match["body"] != fresh[match["name"]]]


def main(arguments: list[str] | None = None) -> int:
    """Fill in, or check, the documents of the project; the exit status."""
    parser = argparse.ArgumentParser(description="Fill in the tables of README.md and REPRODUCING.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where one is stale")
    options = parser.parse_args(arguments)
    is_stale = False
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        stale = stale_blocks(text, ROOT)
        if stale and options.check:
            is_stale = True
            print(f"{name}: {', '.join(stale)} differ from the reports; run make documents", file=sys.stderr)
        elif stale:
            write_bytes(path, filled(text, ROOT).encode())
    return int(is_stale)


if __name__ == "__main__":
    sys.exit(main())
