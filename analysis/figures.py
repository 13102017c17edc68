"""The paper's figures: a frame in, a matplotlib Figure out, one function a figure.

What it is: the list of all figures, and writing them to files. What it is not: the drawing, which is in
`analysis.matching_figures` (Figs. 1 and 4), `function_figures` (2 and 3), `result_figures` (5 and 6) and
`training_figures`.

    write_figure(figure6(frame), frame, Path("reports/shapes/figure6"))     # figure6.png, figure6.pdf, figure6.csv
"""

import io
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.figure_style import STYLE
from analysis.function_figures import figure2, figure3
from analysis.matching_figures import figure1, figure4
from analysis.result_figures import figure5, figure6
from analysis.training_figures import learning_curves, training_curves
from freeanchor.files import sibling, write_atomically

__all__ = [
    "figure1",
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "learning_curves",
    "training_curves",
    "write_figure",
]

PNG_DPI = 200
# Neither format may carry the time or a version: the same frame gives the same bytes.
_METADATA: dict[str, dict[str, None]] = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}


def write_figure(figure: Figure, frame: pd.DataFrame, stem: Path) -> None:
    """Write `stem`.png (200 dpi), `stem`.pdf and, last, `stem`.csv: the frame that the figure draws.

    Each file appears whole or not at all; once the csv is there, the others are.
    """
    for suffix, metadata in _METADATA.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=suffix, dpi=PNG_DPI, metadata=metadata)
        write_atomically(sibling(stem, suffix), buffer.getvalue())
    write_atomically(sibling(stem, "csv"), frame.to_csv(index=False, lineterminator="\n").encode())
