"""How every figure looks: type sizes, one colour and marker per detector, and what stands where nothing was run.

    @styled
    def figure9(frame: pd.DataFrame) -> Figure:
        figure = new_figure(5.0, 3.0)
        axes = figure.subplots()
        for detector, look in palette(detectors_in(frame)).items():
            own = frame[frame.detector == detector]
            axes.plot(own.x, own.value, color=look.colour, marker=look.marker, label=detector)
        share_legend(figure, axes)
        return figure

Figures are made with matplotlib's objects: no pyplot, no global state, no display. Sizes are chosen so that a figure
is legible when printed at half the width of a page.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
import seaborn  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.figures.lettering import families, noted_letters
from freeanchor.files import sibling, write_bytes, write_csv


class Look(NamedTuple):
    """How a detector is drawn."""

    colour: str
    marker: str


RETINANET, FREEANCHOR = "RetinaNet", "FreeAnchor"
DETECTORS = (RETINANET, FREEANCHOR)  # the paper's
GAIN = "gain"  # what stands in the column `detector` of rows with FreeAnchor minus RetinaNet
# Blue against vermilion can be told apart with any colour vision, and differ in lightness when printed grey.
BLUE, VERMILION = "#6F8FB3", "#D4481C"
_LOOKS = {
    RETINANET: Look(BLUE, "o"),
    FREEANCHOR: Look(VERMILION, "D"),
    "ATSS": Look("#2F7F5F", "s"),
    "SimOTA": Look("#8A5AA3", "^"),
    "TAL": Look("#B58900", "v"),
    "TAL, own targets": Look("#C9701E", "<"),
    "IoU, one anchor": Look("#35506E", ">"),
    "ATSS, one anchor": Look("#86B89C", "d"),
}
_MORE_COLOURS = ("#1F9AA5", "#7A4E2D", "#CC6699", "#5B6770", "#98A832")  # in turn, for names not known here
_MORE_MARKERS = ("P", "X", "p", "h", "*")
LINE_STYLES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.4, 1.2)), (0, (4, 1.4, 1.2, 1.4)))
ERROR_LOOK: dict[str, Any] = {"elinewidth": 1.2, "capsize": 2.5, "capthick": 1.2}
INK, FAINT_INK = "#22262B", "#6B7178"
STYLE: dict[Any, Any] = {
    **seaborn.axes_style("ticks"),
    "font.family": families(),
    "text.parse_math": False,  # names are called what they like; two dollars in one are no formula
    "text.usetex": False,
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
            figure = draw(*args, **kwargs)
            for axes in figure.axes:  # labels are made here, in the style, and not when they are first drawn
                axes.get_xticklabels(which="both")
                axes.get_yticklabels(which="both")
            return figure

    return draw_in_style


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches whose parts find their own room."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))


def not_run_figure(width: float = 4.6, height: float = 2.6) -> Figure:
    """A figure of which nothing was measured."""
    figure = new_figure(width, height)
    say_not_run(figure.subplots())
    return figure


def say_not_run(axes: Axes, *, keeps_x: bool = False) -> None:
    """Say in an empty panel that nothing was measured; its frame goes, its x axis stays where asked for."""
    if keeps_x:
        axes.spines["left"].set_visible(False)
        axes.set(yticks=[], ylabel="")
    else:
        axes.set_axis_off()
    axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", va="center", color=FAINT_INK, style="italic")


def is_not_run(axes: Axes, rows: pd.DataFrame) -> bool:
    """Whether none of the rows has a value; the panel says so."""
    is_missing = not rows.value.notna().any()
    if is_missing:
        say_not_run(axes)
    return is_missing


def palette(detectors: Iterable[str]) -> dict[str, Look]:
    """Each detector's colour and marker: always the same for those known here, distinct for up to 25 others."""
    names = list(detectors)
    others = [name for name in names if name not in _LOOKS]
    num = len(_MORE_COLOURS)
    more = {
        name: Look(_MORE_COLOURS[place % num], _MORE_MARKERS[(place + place // num) % num])
        for place, name in enumerate(others)
    }
    return {name: _LOOKS[name] if name in _LOOKS else more[name] for name in names}


def detectors_in(frame: pd.DataFrame) -> list[str]:
    """The detectors of a frame, those known here first, in their fixed order; rows of the gain are none."""
    names = [name for name in frame.detector.dropna().unique() if name != GAIN]
    return [*(name for name in _LOOKS if name in names), *(name for name in names if name not in _LOOKS)]


def compared_in(frame: pd.DataFrame) -> list[str]:
    """The detectors of a frame where it has two or more; else the paper's two, run or not, then the one that it has."""
    names = detectors_in(frame)
    return names if len(names) > 1 else list(dict.fromkeys((*DETECTORS, *names)))


def one_detector(frame: pd.DataFrame) -> pd.DataFrame:
    """FreeAnchor's rows, or those of the first detector where the frame has none of FreeAnchor."""
    names = detectors_in(frame)
    return frame[frame.detector == (FREEANCHOR if FREEANCHOR in names else names[0])] if names else frame


def side_by_side(detectors: Iterable[str], distance: float) -> Iterator[tuple[str, Look, float]]:
    """Each detector with its look, and how far it stands to the side so that all are `distance` apart."""
    looks = palette(detectors)
    for place, (name, look) in enumerate(looks.items()):
        yield name, look, (place - (len(looks) - 1) / 2) * distance


def share_legend(figure: Figure, axes: Axes, loc: str = "outside upper center") -> None:
    """One legend for all panels, of what stands in one of them; none where nothing was drawn."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        num_columns = len(labels) if len(labels) <= 3 else 2
        figure.legend(handles, labels, loc=loc, ncols=num_columns)  # type: ignore[call-overload]  # Literals


def error_lengths(rows: pd.DataFrame) -> np.ndarray:
    """Lengths of error bars below and above `value` [2, N], in percent; nan (none drawn) where there is no interval."""
    value = rows.value.to_numpy(dtype=np.float64)
    low, high = rows.low.to_numpy(dtype=np.float64), rows.high.to_numpy(dtype=np.float64)
    return 100 * np.maximum(np.stack([value - low, high - value]), 0)


PNG_DPI = 200
# No format may carry the time or a version: the same frame gives the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """The figure as a png of 200 dpi, a pdf or an svg; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "analysis"}):
        figure.savefig(buffer, format=suffix, dpi="figure" if suffix == "svg" else PNG_DPI, metadata=_METADATA[suffix])
    return buffer.getvalue()


def write_figure(figure: Figure, frame: pd.DataFrame, stem: Path) -> None:
    """Write `stem`.png (200 dpi), `stem`.pdf and, last, `stem`.csv: the frame that the figure draws.

    Each file appears whole or not at all; once the csv is there, the others are.
    """
    with noted_letters(stem):
        drawn = {suffix: figure_bytes(figure, suffix) for suffix in ("png", "pdf")}
    for suffix, content in drawn.items():
        write_bytes(sibling(stem, suffix), content)
    write_csv(sibling(stem, "csv"), frame)
