"""README.md and REPRODUCING.md: their tables stand between markers and are the reports' own, byte for byte.

A block is everything between `<!-- begin NAME -->` and `<!-- end NAME -->`, on lines of their own.

    python -m experiments.documents             # fill in every block
    python -m experiments.documents --check     # exit status 1, and the names, where one is not as the reports are
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from experiments.account import checklist_table, compute_table, read_photograph_records, read_records
from experiments.claims.rules import VERDICTS
from experiments.deviations import deviations_table
from experiments.photo_tables import photographs_table
from experiments.runs.store import ROOT
from freeanchor.files import write_atomically
from freeanchor.losses.matching import effective_anchors

DOCUMENTS = ("README.md", "REPRODUCING.md")
_BLOCK = re.compile(r"^<!-- begin (?P<name>[\w-]+) -->\n(?P<body>.*?)^<!-- end (?P=name) -->$", re.M | re.S)


class DocumentError(ValueError):
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
            write_atomically(path, filled(text, ROOT).encode())
    return int(is_stale)


if __name__ == "__main__":
    sys.exit(main())
