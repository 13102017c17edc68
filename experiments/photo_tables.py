"""What came out on photographs, a line a data set: a block of the documents, from the committed reports alone.

print(photographs_table(Path(".")))
"""

from pathlib import Path

import pandas as pd

from experiments.headline import ROWS

GAINS = {"ap": "AP", "ap_slender": "slender", "ap_square": "square", "nr": "NMS recall"}  # columns of gains
PEER = "retinanet-small-torchvision-s0"
HEAD = ("Set", "Val. pictures", "Seeds", "RetinaNet", "FreeAnchor", "with torchvision's loss")


def photographs_table(root: Path) -> str:
    """A Markdown table of every set that has a report: AP of each detector, and gains with their intervals.

    Percent. The gains' intervals are over pictures, paired, and do not know the seed; verdicts (`claims.md`) know both.
    """
    lines = [f"| {' | '.join([*HEAD, *(f'gain: {name}' for name in GAINS.values())])} |"]
    lines.append(f"|{' --- |' * (len(HEAD) + len(GAINS))}")
    for path in sorted((root / "reports" / "photos").glob("*/headline.csv")):
        lines.append(f"| {' | '.join(_cells(path))} |")
    return "\n".join(lines)


def _cells(path: Path) -> list[str]:
    """One set's line."""
    frame = pd.read_csv(path).set_index(["what", "metric"])
    folder = path.parent
    table = pd.read_csv(folder / "table2.csv")
    peer = table[(table["run"] == PEER) & (table["metric"] == "ap")]["value"]
    counts = pd.read_csv(folder / "figure6.csv").groupby("bin")["num_images"].max()
    name = folder.name
    ap = frame.loc[ROWS["ap"]]
    return [
        f"[{name}](reports/photos/{name}/claims.md)",
        f"{counts.sum():.0f}",
        f"{ap['n_seeds'].max():.0f}",
        _percent(ap.loc["retinanet", "value"]),
        _percent(ap.loc["freeanchor", "value"]),
        _percent(peer.iloc[0]) if len(peer) else "not run",
        *(_gain(frame.loc[(ROWS[metric], "gain")]) for metric in GAINS),
    ]


def _percent(value: float) -> str:
    """A fraction in percent."""
    return "not run" if pd.isna(value) else f"{100 * value:.1f}"


def _gain(row: pd.Series) -> str:
    """A difference with its interval, in points."""
    if pd.isna(row["value"]):
        return "not run"
    return f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
