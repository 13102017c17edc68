"""Frames of measurements as lines for people: fractions with four digits, counts whole, `-` for what is undefined.

print(printed(frame))
print(printed_parts({"errors": errors, "slices": slices}))
"""

from typing import Any

import numpy as np
import pandas as pd

_ROWS = 10  # of a table of images, classes that are confused, or points of a curve
_HEADINGS = {
    "errors": "error types: AP50, what fixing each would add to it (dap), and how many there are (num)",
    "slices": "slices",
    "working_points": "working point: the best threshold and what it gives",
    "images": "images, the worst first",
    "confusion": "classes taken for others at IoU 0.5, the most first",
}
_ERRORS = ("classification", "localisation", "both", "duplicate", "background", "missed")


def cell(value: Any) -> str:
    """One entry: fractions with four digits, `-` for what is undefined."""
    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)


def printed(frame: pd.DataFrame) -> str:
    """The frame without columns that hold nothing; rows of a metric or measure `num…` are whole numbers."""
    filled = frame.loc[:, [not (frame[name].isna() | (frame[name] == "")).all() for name in frame.columns]]
    text = filled.astype(object).map(cell)
    for name in ("metric", "measure"):
        if name in frame:
            is_count = frame[name].str.startswith("num_") | (frame[name] == "num")
            whole = filled[is_count].astype(object).map(_whole)
            text.loc[is_count, whole.columns] = whole
    return text.to_string(index=False)


def printed_parts(parts: dict[str, pd.DataFrame]) -> str:
    """Each part under its heading; long ones are cut, and say so."""
    texts = []
    for name, frame in parts.items():
        if name == "curves":  # for figures and files
            continue
        note = f"\n… {len(frame):,} rows in all" if name in ("images", "confusion") else ""
        texts.append(f"\n\n{_HEADINGS[name]}\n{_TEXTS[name](frame)}{note}")
    return "".join(texts)


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float | np.floating) and np.isfinite(value) else cell(value)


def _slices(frame: pd.DataFrame) -> str:
    """AP, AR and NR with intervals, one row each; then what fixing each error would add, one row per slice."""
    is_short = frame["metric"].isin(["ap", "nr"]) | frame["metric"].str.startswith("ar_")
    text = printed(frame[is_short].drop(columns=["column", "bin"]))
    value = "difference" if "difference" in frame else "value"
    fixes = frame[frame["metric"].isin([f"dap_{name}" for name in _ERRORS])]
    if fixes.empty:
        return text
    table = fixes.assign(metric=fixes["metric"].str.removeprefix("dap_")).pivot(
        index="slice", columns="metric", values=value
    )
    table = table.loc[frame["slice"].unique(), list(_ERRORS)]
    what = "second minus first in what" if value == "difference" else "what"
    lines = table.map(cell).reset_index().to_string(index=False, index_names=False)
    return f"{text}\n\n{what} fixing each error would add to AP50, by slice\n{lines}"


def _images(frame: pd.DataFrame) -> str:
    """The first images; of two detectors only the sums of their errors."""
    if "difference" in frame:
        sides = {side: frame[[f"{name}_{side}" for name in _ERRORS]].sum(axis=1) for side in ("first", "second")}
        kept = frame[["image_id", "num_objects", "ap_50_first", "ap_50_second", "difference"]]
        frame = kept.assign(errors_first=sides["first"], errors_second=sides["second"])
    return printed(frame.head(_ROWS))


def _confusion(frame: pd.DataFrame) -> str:
    """The pairs of different classes that occur most."""
    value = "difference" if "difference" in frame else "num"
    wrong = frame[frame["true"] != frame["predicted"]]
    order = wrong[value].abs().sort_values(ascending=False, kind="stable").index
    return printed(wrong.loc[order].head(_ROWS))


def _working_points(frame: pd.DataFrame) -> str:
    """One row per class: the threshold and F1 with intervals, precision and recall."""
    if "difference" in frame:
        return printed(frame[frame["measure"].isin(["f1", "threshold"])].drop(columns=["num_images"]))
    wide = frame.pivot(index="label", columns="measure", values="value").loc[frame["label"].unique()]
    bounds = frame[frame["measure"] == "threshold"].set_index("label")
    wide = wide[["threshold", "precision", "recall", "f1"]]
    wide.insert(1, "low", bounds["low"])
    wide.insert(2, "high", bounds["high"])
    wide = wide.join(bounds[["num_objects", "note"]]).reset_index()
    return printed(wide)


_TEXTS = {
    "errors": printed,
    "slices": _slices,
    "working_points": _working_points,
    "images": _images,
    "confusion": _confusion,
}
