"""How every figure looks: type sizes, one colour a detector, and what stands where nothing was run.

What it is: the shared appearance. What it is not: any figure (`analysis.figures` lists them).

    @styled
    def figure9(frame: pd.DataFrame) -> Figure:
        figure = new_figure(5.0, 3.0)
        axes = figure.subplots()
        axes.plot(frame.x, frame.value, color=COLOURS[FREEANCHOR])
        return figure

Figures are made with matplotlib's objects: no pyplot, no global state, no display. Sizes are chosen so that a figure
is legible when printed at half the width of a page.
"""

import io
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
import seaborn  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from freeanchor.files import sibling, write_bytes, write_csv

RETINANET, FREEANCHOR = "RetinaNet", "FreeAnchor"
DETECTORS = (RETINANET, FREEANCHOR)
# Blue against vermilion can be told apart with any colour vision, and differ in lightness when printed grey.
COLOURS = {RETINANET: "#6F8FB3", FREEANCHOR: "#D4481C"}
MARKERS = {RETINANET: "o", FREEANCHOR: "D"}
INK, FAINT_INK = "#22262B", "#6B7178"
STYLE: dict[Any, Any] = {
    **seaborn.axes_style("ticks"),
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.edgecolor": FAINT_INK,
    "axes.linewidth": 0.9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "text.color": INK,
    "grid.color": "#E4E7EA",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT_INK,
    "ytick.color": FAINT_INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: text stays text
    "mathtext.fontset": "dejavusans",
}
_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """The function, run under the project's style; matplotlib's settings are as they were afterwards."""

    @wraps(draw)
    def draw_in_style(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches whose parts find their own room."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))


def say_not_run(axes: Axes, *, keeps_x: bool = False) -> None:
    """Say in an empty panel that nothing was measured; its frame goes, its x axis stays where asked for."""
    if keeps_x:
        axes.spines["left"].set_visible(False)
        axes.set(yticks=[], ylabel="")
    else:
        axes.set_axis_off()
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=FAINT_INK, style="italic")


def detectors_in(frame: pd.DataFrame) -> list[str]:
    """The two detectors of the paper in their fixed order, as far as the frame has them."""
    return [detector for detector in DETECTORS if (frame.detector == detector).any()]


def error_lengths(rows: pd.DataFrame) -> np.ndarray:
    """Lengths of error bars below and above `value` [2, N], in percent; nan (none drawn) where there is no interval."""
    value = rows.value.to_numpy(dtype=np.float64)
    low, high = rows.low.to_numpy(dtype=np.float64), rows.high.to_numpy(dtype=np.float64)
    return 100 * np.maximum(np.stack([value - low, high - value]), 0)


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
        write_bytes(sibling(stem, suffix), buffer.getvalue())
    write_csv(sibling(stem, "csv"), frame)
