"""What came out on photographs, a line a data set: a block of the documents, from the committed reports alone.

print(photographs_table(Path(".")))
"""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.headline import ROWS
from experiments.registry.profile import DETECTORS, PEER

GAINS = {"ap": "AP", "ap_slender": "slender", "ap_square": "square", "nr": "NMS recall"}  # columns of gains
HEAD = ("Set", "Val. pictures with objects", "Seeds", "RetinaNet", "FreeAnchor", "with torchvision's loss, seed 0")
ABOVE_PEER = "above it, seed 0: RetinaNet; FreeAnchor"


def photographs_table(root: Path) -> str:
    """A Markdown table of every set that has a report: AP of each detector, and gains with their intervals.

    Percent. The gains' intervals are over pictures, paired, and do not know the seed; verdicts (`claims.md`) know both.
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
    detectors = [cells[ROWS["ap"], name] for name in ("retinanet", "freeanchor")]
    return [
        f"[{folder.name}](reports/photos/{folder.name}/claims.md)",
        f"{counts.sum():.0f}",
        f"{max(row['n_seeds'] for row in detectors):.0f}",
        *(_percent(value) for value in [*(row["value"] for row in detectors), *(peer or [math.nan])]),
        _above_peer(folder / "peer.csv"),
        *(_gain(cells[ROWS[metric], "gain"]) for metric in GAINS),
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
