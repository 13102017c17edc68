"""README.md and its companions: the tables in them are the reports' own, byte for byte; and the notebooks' pages.

A block is everything between `<!-- begin NAME -->` and `<!-- end NAME -->`, on lines of their own.

    python -m experiments.reports.documents             # fill in every block, and the list of targets, make/reports.mk
    python -m experiments.reports.documents --check     # exit status 1, naming the blocks that differ from the reports
    python -m experiments.reports.documents --notebooks # reports/notebooks/*.ipynb, executed -> *.html
"""

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.tables.markup import pipe_table
from experiments.registry.profile import DETECTORS, PEER
from experiments.reports.account import checklist_table, compute_table, deviations_table, read_records
from experiments.reports.anchors import anchors_table
from experiments.reports.catalogue import TARGETS_FILE, targets
from experiments.reports.tables import HEADLINE_ROWS
from experiments.runs.store import ROOT
from freeanchor.errors import FreeAnchorError
from freeanchor.files import write_bytes
from freeanchor.losses.free_anchor import effective_anchors

GAINS = {"ap": "AP", "ap_slender": "slender", "ap_square": "square", "nr": "NMS recall"}  # columns of gains
HEAD = ("Set", "Val. images with objects", "Seeds", "RetinaNet", "FreeAnchor", "with torchvision's loss, seed 0")
SAID = {  # of one claim, of several
    "holds": ("holds", "hold"),
    "does not hold": ("does not hold", "do not hold"),
    "undecided": ("is undecided", "are undecided"),
    "not run": ("is not run", "are not run"),
}
SHORT = {  # rows of the short headline: metric -> claim and part that have the gain, and the paper's where it is a word
    "ap": ("ap-small", "", ""),
    "ap_50": ("ap-family", "AP50", ""),
    "ap_75": ("ap-family", "AP75", ""),
    "ap_slender": ("slender", "", "higher"),
    "ap_square": ("square", "", "comparable"),
    "nr": ("nms-recall", "", ""),
    "nr_90": ("nms-recall-all", "0.90", ""),
}
LOOKED_INTO = ("photos/aquarium", "photos/hardhat", "shapes")  # whose bags stand beside each other
FOUND = {  # rows: budget and metric of `candidates.csv`
    "all candidates, before NMS": ("all", "recall_before"),
    "all candidates, after NMS": ("all", "recall_after"),
    "the hundred best per image, before NMS": ("100", "recall_before"),
    "the hundred best per image, after NMS": ("100", "recall_after"),
}
BOXES = {  # rows: anchor and quantity of `bag_boxes.csv`
    "the anchor of highest IoU with the object": ("1", "box_iou"),
    "the 25th": ("25", "box_iou"),
    "the best-scoring anchor, each detector's own": ("highest score", "box_iou"),
    "the anchor of the best box, each detector's own": ("best box", "box_iou"),
    "regret: the best box minus the best-scoring one": ("regret", "box_iou"),
}
METHOD_COLUMNS = {
    "ap": "AP",
    "ap_slender": "slender",
    "ap_square": "square",
    "ap_objects_13_plus": "crowded",
    "nr": "NMS recall",
    "score_iou_correlation": "score and IoU",
}
LEARNING = "anchors that learn an object"
SEEDS_DIFFER = 0.005  # range over seeds from which it is shown
ABOVE_PEER = "AP minus that of torchvision's loss, seed 0: RetinaNet; FreeAnchor"


def photographs_table(root: Path) -> str:
    """A Markdown table of every set that has a report: AP of each detector, and gains with their intervals.

    Percent. The gains' intervals are over images, paired, and do not know the seed; verdicts (`claims.md`) know both.
    """
    head = [*HEAD, ABOVE_PEER, *(f"gain: {name}" for name in GAINS.values())]
    paths = sorted((root / "reports" / "photos").glob("*/headline.csv"))
    return pipe_table([head, ["---"] * len(head), *map(_cells, paths)])


def _cells(path: Path) -> list[str]:
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
    """AP of both detectors minus that with torchvision's loss; a report of an earlier version has none."""
    if not path.exists():
        return "not run"
    frame = pd.read_csv(path)
    rows = frame[frame["metric"] == "ap"].set_index("detector").reindex(list(DETECTORS)).to_dict("records")
    return "; ".join(map(_gain, rows)) if len(frame) else "not run"


def _percent(value: float) -> str:
    return "not run" if math.isnan(value) else f"{100 * value:.1f}"


def _gain(row: Mapping[Hashable, Any]) -> str:
    """A difference with its interval, in points."""
    if math.isnan(row["value"]):
        return "not run"
    return f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _side_by_side(root: Path, report: str, rows: Mapping[str, tuple[str, str]], head: str) -> str:
    """FreeAnchor minus RetinaNet in lines of a report, a column per data set; the range of seeds where they differ."""
    columns = []
    for folder in LOOKED_INTO:
        frame = pd.read_csv(root / "reports" / folder / f"{report}.csv", dtype=str)
        keys = ["budget", "metric"] if "budget" in frame else ["anchor", "quantity"]
        gains = frame[frame["detector"] == "gain"].set_index(keys)
        columns.append([_with_seeds(row) for row in gains.loc[list(rows.values())].to_dict("records")])
    heads = [head, *(f"`{Path(name).name}`" for name in LOOKED_INTO)]
    return pipe_table([heads, ["---"] * len(heads), *zip(rows, *columns, strict=True)])


def _with_seeds(row: Mapping[Hashable, Any]) -> str:
    low, high = float(row["minimum"]), float(row["maximum"])
    said = _gain({name: float(row[name]) for name in ("value", "low", "high")})
    return said + (f"; seeds {100 * low:+.1f} to {100 * high:+.1f}" if high - low > SEEDS_DIFFER else "")


DOCUMENTS = ("README.md", "REPRODUCING.md", "CONTRIBUTING.md", "docs/*.md")
NOTEBOOKS = "reports/notebooks"
CELL_TIMEOUT = 600  # seconds
_BLOCK = re.compile(r"^<!-- begin (?P<name>[\w-]+) -->\n(?P<body>.*?)^<!-- end (?P=name) -->$", re.M | re.S)


class DocumentError(FreeAnchorError):
    """A document with a block that nobody can fill; one line."""


def _table_of(report: str, root: Path) -> str:
    """The pipe table of a report's Markdown."""
    path = root / "reports" / f"{report}.md"
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|"))


def _claims(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "reports/shapes/claims.csv", dtype={"part": str}).fillna({"part": ""})


def _headline_short(root: Path) -> str:
    """Both detectors on `shapes` and their gain beside the paper's; intervals know images and seeds."""
    frame = pd.read_csv(root / "reports/shapes/headline.csv")
    cells = {(str(row["what"]), str(row["metric"])): row for row in frame.to_dict("records")}
    gains = {(str(row["id"]), str(row["part"])): row for row in _claims(root).to_dict("records")}
    lines = [["Metric (percent)", "Paper's gain", "RetinaNet", "FreeAnchor", "Gain"], ["---", *["--:"] * 4]]
    for metric, (claim, part, word) in SHORT.items():
        what = HEADLINE_ROWS[metric]
        means = [_percent(cells[what, name]["value"]) for name in ("retinanet", "freeanchor")]
        paper = word or f"{100 * cells[what, 'gain']['published']:+.1f}"
        lines.append([what, paper, *means, _gain(gains[claim, part])])
    return pipe_table(lines)


def _verdict_counts(root: Path) -> str:
    counts = Counter(_claims(root).drop_duplicates("id")["verdict"])
    said = [f"{counts[verdict]} {words[counts[verdict] > 1]}" for verdict, words in SAID.items() if counts[verdict]]
    return f"**{', '.join(said)}** ([all claims](reports/shapes/claims.md))."


def _methods_table(root: Path) -> str:
    """Every method of assignment on `shapes`: means over seeds, standard deviations, how many anchors learn."""
    frame = pd.read_csv(root / "reports/shapes/assigners.csv")
    learning = pd.read_csv(root / "reports/shapes/learning.csv")
    last = learning[(learning["step"] == learning["num_steps"]) & (learning["group"] == "all")]
    anchors = last[last["metric"] == "effective_anchors"].set_index("detector")["value"]
    head = ["method", "seeds", *METHOD_COLUMNS.values(), LEARNING]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name, rows in frame.groupby("detector", sort=False):
        own = {row["metric"]: row for row in rows.to_dict("records")}
        measured = [_with_deviation(own[metric]) for metric in METHOD_COLUMNS]
        lines.append([str(name), f"{own['ap']['n_seeds']:.0f}", *measured, f"{anchors[name]:.0f}"])
    return pipe_table(lines)


def _coverage_table(root: Path) -> str:
    """In how many simulated data sets the interval holds the true difference, and how wide that is; points of AP."""
    frame = pd.read_csv(root / "reports/benchmarks/coverage.csv")
    lines = [
        ["images", "interval by", "data sets", "hold the true difference", "median width"],
        ["--:", "---", *["--:"] * 3],
    ]
    for row in frame.sort_values("num_images", kind="stable").to_dict("records"):
        share = f"{100 * row['coverage']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        name = "`freeanchor compare`" if row["method"] == "ours" else row["method"]
        lines.append([f"{row['num_images']:,}", name, f"{row['num_worlds']}", share, f"{100 * row['width']:.1f}"])
    return pipe_table(lines)


def _with_deviation(row: Mapping[Hashable, Any]) -> str:
    return _percent(row["value"]) + (f" ±{100 * row['sd']:.1f}" if row["sd"] > 0 else "")


def _mean_max_table(bag_size: int = 50) -> str:
    """Effective anchors of a bag by how sure one anchor of it is, all others being sure that it is not the object."""
    sure = (0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
    confidence = torch.zeros(len(sure), bag_size, dtype=torch.float64)
    confidence[:, 0] = torch.tensor(sure)
    cells = [f"{number:.1f}" for number in effective_anchors(confidence).tolist()]
    head = ["confidence of the one anchor", *(f"{value:g}" for value in sure)]
    return pipe_table([head, ["--:"] * len(head), [f"effective anchors of {bag_size}", *cells]])


BLOCKS: dict[str, Callable[[Path], str]] = {
    "headline": lambda root: _table_of("shapes/headline", root),
    "headline-short": _headline_short,
    "claims": lambda root: _table_of("shapes/claims", root),
    "verdict-counts": _verdict_counts,
    "ablations": lambda root: _table_of("shapes/ablations", root),
    "methods": _methods_table,
    "coverage": _coverage_table,
    "benchmarks": lambda root: _table_of("benchmarks", root),
    "mean-max": lambda root: _mean_max_table(),
    "anchors": anchors_table,
    "photographs": photographs_table,
    "found": lambda root: _side_by_side(root, "candidates", FOUND, "objects found, FreeAnchor minus RetinaNet"),
    "bag-boxes": lambda root: _side_by_side(root, "bag_boxes", BOXES, "the box predicted from"),
    "photographs-pooled": lambda root: _table_of("photos/pooled", root),
    "deviations": deviations_table,
    "compute": lambda root: compute_table(read_records(root / "reports/shapes")),
    "compute-photographs": lambda root: compute_table(read_records(root / "reports/photos", "*/runs")),
    "checklist": lambda root: checklist_table(read_records(root / "reports/shapes")),
}


def documents(root: Path) -> list[Path]:
    """The documents under `root` that may hold blocks."""
    return [path for pattern in DOCUMENTS for path in sorted(root.glob(pattern))]


def filled(path: Path, root: Path) -> str:
    """The document with every block as the reports under `root` have it, links from where it lies.

    Raises DocumentError for an unknown block.
    """
    up = "../" * (len(path.relative_to(root).parts) - 1)

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise DocumentError(f"{path.name}: no block {name!r}; choose one of {', '.join(BLOCKS)}")
        body = BLOCKS[name](root).replace("](reports/", f"]({up}reports/")
        return f"<!-- begin {name} -->\n{body}\n<!-- end {name} -->"

    return _BLOCK.sub(fill, path.read_text(encoding="utf-8"))


def stale_blocks(path: Path, root: Path) -> list[str]:
    """The names of a document's blocks that differ from the reports."""
    now, fresh = (_BLOCK.finditer(text) for text in (path.read_text(encoding="utf-8"), filled(path, root)))
    return [old["name"] for old, new in zip(now, fresh, strict=True) if old["body"] != new["body"]]


def publish(source: Path) -> Path:
    """Execute a notebook from the project's root, in a kernel of this Python, and write its page beside it.

    A notebook that fails raises the cell's own error, and no page of it is written.
    """
    import nbformat  # here, for those who fill in tables alone
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.read(source, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    executed = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources).execute()
    page, _ = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(executed)
    write_bytes(source.with_suffix(".html"), page.encode())
    return source.with_suffix(".html")


def publish_all(folder: Path) -> int:
    """Publish every notebook of a folder; the exit status."""
    from nbclient.exceptions import CellExecutionError

    for source in sorted(folder.glob("*.ipynb")):
        try:
            print(publish(source))
        except CellExecutionError as error:
            print(f"{source.name}: a cell failed: {error.ename}: {error.evalue}", file=sys.stderr)
            return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Fill in, or check, the documents of the project; the exit status."""
    parser = argparse.ArgumentParser(description="Fill in the tables of the documents, and make/reports.mk.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where one is stale")
    parser.add_argument("--notebooks", action="store_true", help="execute the notebooks instead")
    options = parser.parse_args(arguments)
    if options.notebooks:
        return publish_all(ROOT / NOTEBOOKS)
    stale = {path: stale_blocks(path, ROOT) for path in documents(ROOT)}
    targets_file = ROOT / TARGETS_FILE
    if not targets_file.exists() or targets_file.read_text(encoding="utf-8") != targets():
        stale[targets_file] = ["targets"]
    for path, names in stale.items():
        if names and options.check:
            place = path.relative_to(ROOT)
            print(f"{place}: {', '.join(names)} differ from the reports; run make documents", file=sys.stderr)
        elif names:
            write_bytes(path, (targets() if path == targets_file else filled(path, ROOT)).encode())
    return int(options.check and any(stale.values()))


if __name__ == "__main__":
    sys.exit(main())
