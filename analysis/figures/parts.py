"""Figures of what stands beside the main table: error types, slices, working points and their curves, images, classes.

part_figure("errors", result.parts["errors"])
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.lettering import shortened
from analysis.figures.style import BLUE, FAINT_INK, INK, VERMILION, new_figure, styled

_ROW = 0.24  # inches per row
_MOST = 40  # rows of classes, and classes of a matrix
_ALL = "all classes"


@styled
def part_figure(part: str, frame: pd.DataFrame) -> Figure:
    """The figure of one of a result's `parts`."""
    return _FIGURES[part](frame)


def _errors(frame: pd.DataFrame) -> Figure:
    """dAP of each type on the left, numbers on the right; of two detectors the differences."""
    dap, num = (frame[frame["measure"] == measure] for measure in ("dap", "num"))
    is_gap = "difference" in frame
    figure = new_figure(7.4, 0.9 + _ROW * len(dap))
    left, right = figure.subplots(1, 2, sharey=True)
    _forest(left, dap, dap["error"].tolist(), scale=100)
    _forest(right, num, num["error"].tolist(), scale=1)
    left.set_xlabel(f"{'difference of ' if is_gap else ''}dAP50, percentage points")
    right.set_xlabel(f"{'difference of the ' if is_gap else ''}number")
    return figure


def _slices(frame: pd.DataFrame) -> Figure:
    """A forest plot of AP, and of AR, with one row per slice; of two detectors the differences."""
    metrics = [name for name in frame["metric"].unique() if name in ("ap", "nr") or name.startswith("ar_")]
    num_rows = frame["slice"].nunique()
    figure = new_figure(2.6 + 2.4 * len(metrics), 0.9 + _ROW * num_rows)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        own = frame[frame["metric"] == metric]
        names = [f"{shortened(name, 30)} ({num})" for name, num in zip(own["slice"], own["num_objects"], strict=True)]
        _forest(axes, own, names, scale=100)
        gap = ", difference" if "difference" in frame else ""
        axes.set_xlabel(f"{metric.replace('_', ' ').upper()}{gap}, %")
    return figure


def _working_points(frame: pd.DataFrame) -> Figure:
    """F1 at the best threshold, and that threshold, one row per class, those with most objects first."""
    shown = frame[frame["measure"].isin(["f1", "threshold"])]
    order = shown.drop_duplicates("label").sort_values("num_objects", ascending=False)["label"].head(_MOST)
    figure = new_figure(7.4, 0.9 + _ROW * len(order))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, measure, name in zip(panels, ("f1", "threshold"), ("F1", "best threshold"), strict=True):
        own = shown[shown["measure"] == measure].set_index("label").loc[order]
        _forest(axes, own, [shortened(str(label), 30) for label in order], scale=1)
        axes.set_xlabel(f"{name}{', difference' if 'difference' in frame else ''}")
    return figure


def _curves(frame: pd.DataFrame) -> Figure:
    """Precision against recall, and all three by threshold, of all classes pooled; one colour per detector."""
    figure = new_figure(7.4, 3.0)
    left, right = figure.subplots(1, 2)
    pooled = frame[frame["label"] == _ALL]
    sides = pooled["detector"].unique().tolist() if "detector" in pooled else [None]
    for side, colour in zip(sides, (BLUE, VERMILION), strict=False):
        own = pooled if side is None else pooled[pooled["detector"] == side]
        left.plot(own["recall"], own["precision"], color=colour, label=side)
        for measure, line in (("precision", ":"), ("recall", "--"), ("f1", "-")):
            name = measure if side is None else f"{measure}, {side}"
            right.plot(own["threshold"], own[measure], color=colour, linestyle=line, label=name)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    right.set(xlabel="score threshold", ylim=(0, 1.02))
    right.legend()
    if sides != [None]:
        left.legend()
    return figure


def _images(frame: pd.DataFrame) -> Figure:
    """How AP50, or its difference, is spread over the images."""
    figure = new_figure(4.6, 2.8)
    axes = figure.subplots()
    is_gap = "difference" in frame
    values = 100 * frame["difference" if is_gap else "ap_50"].dropna()
    axes.hist(values, bins=40, range=(-100, 100) if is_gap else (0, 100), color=BLUE)
    axes.set(xlabel="difference of AP50, percentage points" if is_gap else "AP50, %", ylabel="images")
    return figure


def _confusion(frame: pd.DataFrame) -> Figure:
    """Shares of each true class, or the difference of numbers, as a matrix; the classes that occur most."""
    value = "difference" if "difference" in frame else "num"
    weight = frame.assign(size=frame[value].abs())
    totals = weight.groupby("true")["size"].sum().add(weight.groupby("predicted")["size"].sum(), fill_value=0)
    names = [name for name in totals.sort_values(ascending=False).index if name != "background"][:_MOST]
    names.append("background")
    matrix = frame.pivot(index="true", columns="predicted", values=value).reindex(index=names, columns=names)
    cells = matrix.fillna(0).to_numpy(dtype=np.float64)
    if value == "num":
        cells = 100 * cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.22 * len(names)
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    most = max(1.0, float(np.abs(cells).max()))
    look = {"cmap": "Blues", "vmin": 0} if value == "num" else {"cmap": "RdBu", "vmin": -most}
    image = axes.imshow(cells, vmax=most, **look)  # type: ignore[arg-type]
    axes.set_xticks(range(len(names)), [shortened(str(name), 24) for name in names], rotation=90)
    axes.set_yticks(range(len(names)), [shortened(str(name), 24) for name in names])
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="% of the true class" if value == "num" else "difference of the number")
    return figure


def _forest(axes: Axes, rows: pd.DataFrame, names: list[str], *, scale: float) -> None:
    """One row per name: value and interval, with a line at 0 for differences."""
    shown = "difference" if "difference" in rows else "value"
    value, low, high = (scale * rows[name].to_numpy(dtype=np.float64) for name in (shown, "low", "high"))
    places = np.arange(len(rows))
    if shown == "difference":
        axes.axvline(0, color=FAINT_INK, linewidth=1)
    axes.hlines(places, low, high, color=FAINT_INK, linewidth=1.5)
    axes.plot(value, places, "o", color=INK, markersize=4)
    axes.set_yticks(places, names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


_FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "errors": _errors,
    "slices": _slices,
    "working_points": _working_points,
    "curves": _curves,
    "images": _images,
    "confusion": _confusion,
}
