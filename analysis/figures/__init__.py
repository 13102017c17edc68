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

from analysis.figures.breakdowns import figure5, figure6
from analysis.figures.curves import figure2, figure3, learning_curves, training_curves
from analysis.figures.matching import figure1, figure4
from analysis.figures.style import STYLE, write_figure
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
