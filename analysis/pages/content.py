"""What a page says of one or two detectors: verdicts, rows of its tables and charts, and the images with their boxes.

content = page_content(subject, title=…, table=…, parts=…)
content["data"]         # json for the page's own script: images, curves, classes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation.breakdowns import category_counts
from analysis.evaluation.errors import MAIN, TypedErrors
from analysis.evaluation.parts import Context
from analysis.evaluation.per_image import image_precision
from analysis.evaluation.slices import Slice, too_few
from analysis.evaluation.working_point import ALL_CLASSES, best_threshold
from analysis.pages.charts import Mark, forest
from analysis.pages.photos import file_names, photo_paths, small_photos

MOST_IMAGES = 300  # on a page
_KINDS = ("cls", "loc", "both", "dup", "bkg", "ok", "ign")  # in the order of the kinds of `errors`
_CURVE_POINTS = 60
_USUAL_THRESHOLD = 0.3  # of boxes that are drawn, where nothing is right
_HEADLINE = ("ap", "ap_50", "ap_75", "ar_100")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The detectors that a page is about, first and second, with what draws their images."""

    contexts: Sequence[Context]
    names: Sequence[str]
    ground_truth_source: object
    slices: Sequence[Slice] = field(default=())


def page_content(
    subject: Subject,
    *,
    table: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    photos: Path | str | None,
    size_limit: int,
) -> dict[str, Any]:
    """Everything that the template fills in; photos take what `size_limit` bytes leave."""
    is_difference = len(subject.contexts) == 2
    main = table[table["metric"] != "ap_category"]
    shown = {
        "is_comparison": is_difference,
        "names": list(subject.names),
        "verdict": verdict(main, subject.names) if is_difference else "",
        "headline": [_headline_row(row) for row in main.to_dict("records") if row["metric"] in _HEADLINE],
        "metrics": _forest_of(main, "metric", is_difference, skip=_HEADLINE),
        "errors": _errors(parts.get("errors"), is_difference),
        "slices": _slices(parts.get("slices"), is_difference),
        "classes": _classes(subject, table, parts.get("working_points")),
        "num_images": len(subject.contexts[0].ground_truth.image_ids),
    }
    data: dict[str, Any] = {
        "names": shown["names"],
        "curves": _curves(parts.get("curves")),
        **_images(subject, photos, size_limit),
    }
    return {**shown, "data": data, "num_shown": len(data["images"])}


def verdict(main: pd.DataFrame, names: Sequence[str]) -> str:
    """One sentence on AP: which is better and by how much, or that neither is shown to be."""
    row = main.loc[main["metric"] == "ap", ["difference", "low", "high"]]
    gap, low, high = (100 * row.to_numpy(dtype=np.float64)[0]).tolist()
    numbers = f"{gap:+.2f} points of AP, 95 % interval {low:+.2f} to {high:+.2f}"
    if not np.isfinite(gap):
        return "AP is not defined: nothing is compared."
    if low > 0 or high < 0:
        return f"{names[1]} is {'better' if low > 0 else 'worse'} than {names[0]}: {numbers}."
    return f"No difference is shown between {names[1]} and {names[0]}: {numbers}."


def _headline_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    sides = ("first", "second") if "difference" in row else ("value",)
    value = row["difference"] if "difference" in row else row["value"]
    cells = [_percent(row[side]) for side in sides]
    word = ""
    if "difference" in row:
        word = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "no difference shown"
    sign = "+" if "difference" in row else ""
    has_interval = np.isfinite(row["low"])
    return {
        "name": row["metric"].replace("_", " ").upper(),
        "cells": cells,
        "difference": f"{100 * value:+.2f}" if sign else "",
        "interval": f"{100 * row['low']:{sign}.2f} to {100 * row['high']:{sign}.2f}" if has_interval else "–",
        "word": word,
    }


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "–"


def _marks(rows: pd.DataFrame, names: Sequence[str], scale: float) -> list[Mark]:
    shown = "difference" if "difference" in rows else "value"
    notes = rows["note"] if "note" in rows else [""] * len(rows)
    numbers = (scale * rows[column].to_numpy(dtype=np.float64) for column in (shown, "low", "high"))
    return [
        Mark(name=name, value=value, low=low, high=high, note=note.partition(":")[0])
        for name, value, low, high, note in zip(names, *numbers, notes, strict=True)
    ]


def _forest_of(rows: pd.DataFrame, column: str, is_difference: bool, skip: Sequence[str] = ()) -> Any:
    kept = rows[~rows[column].isin(skip)]
    names = [str(name).replace("_", " ") for name in kept[column]]
    unit = "difference, percentage points" if is_difference else "percent"
    return forest(_marks(kept, names, 100), unit=unit, is_difference=is_difference)


def _errors(frame: pd.DataFrame | None, is_difference: bool) -> dict[str, Any] | None:
    if frame is None:
        return None
    num, dap = (frame[frame["measure"] == measure] for measure in ("num", "dap"))
    sides = ["first", "second"] if is_difference else ["value"]
    rows = [
        {"name": name.replace("_", " "), "num": [f"{count:,.0f}" for count in counts]}
        for name, *counts in num[["error", *sides]].itertuples(index=False)
    ]
    return {"rows": rows, "chart": _forest_of(dap, "error", is_difference)}


def _slices(frame: pd.DataFrame | None, is_difference: bool) -> list[dict[str, Any]]:
    if frame is None:
        return []
    charts = []
    for metric in frame["metric"].unique():
        if metric in ("ap", "nr") or metric.startswith("ar_"):
            own = frame[frame["metric"] == metric]
            names = [f"{name} ({num})" for name, num in zip(own["slice"], own["num_objects"], strict=True)]
            unit = "difference, percentage points" if is_difference else "percent"
            chart = forest(_marks(own, names, 100), unit=unit, is_difference=is_difference)
            charts.append({"name": metric.replace("_", " ").upper(), "chart": chart})
    return charts


def _classes(subject: Subject, table: pd.DataFrame, points: pd.DataFrame | None) -> list[dict[str, Any]]:
    """AP of each class with its interval, and F1 at its best threshold; classes of few objects say so."""
    sides = ["first", "second"] if len(subject.contexts) == 2 else ["value"]
    own = table[table["metric"] == "ap_category"] if "label" in table else table.iloc[:0]
    best: list[list[str]] = []
    if points is not None:
        f1 = points.loc[points["measure"] == "f1", sides].iloc[1:]  # the first is of all classes
        best = [[_percent(value) for value in values] for values in f1.to_numpy()]
    counts = category_counts(subject.contexts[0].ground_truth).to_dict("records")
    rows = []
    for place, row in enumerate(own.to_dict("records")):
        num = counts[place]
        cells = {**_headline_row(row), "name": row["label"], "f1": best[place] if best else []}
        if too_few(num["num_objects"], num["num_images"]):
            cells |= {"interval": f"too few: {num['num_objects']}", "word": ""}
        if np.isfinite(row[sides[-1]]):
            rows.append(cells)
    return rows


def _curves(frame: pd.DataFrame | None) -> dict[str, list]:
    """Class -> one list of points [threshold, precision, recall, F1] per detector."""
    if frame is None:
        return {}
    sides = ("first", "second") if "detector" in frame else ("only",)
    frame = frame if "detector" in frame else frame.assign(detector="only")
    curves: dict[str, list] = {}
    for label, rows in frame.groupby("label", sort=False):
        lines = []
        for side in sides:
            own = rows.loc[rows["detector"] == side, ["threshold", "precision", "recall", "f1"]]
            most = _CURVE_POINTS * (2 if label == ALL_CLASSES else 1)
            kept = np.unique(np.linspace(0, max(len(own) - 1, 0), most).round().astype(int))[: len(own)]
            lines.append(own.iloc[kept].round(4).to_numpy().tolist())
        curves[str(label)] = lines
    return curves


def _images(subject: Subject, photos: Path | str | None, size_limit: int) -> dict[str, Any]:
    """The images where the two differ most, or where the one is worst, with every box above its best threshold."""
    truth = subject.contexts[0].ground_truth
    precision = [image_precision(context.typed) for context in subject.contexts]
    thresholds = [_threshold(context) for context in subject.contexts]
    above = [context.above(score) for context, score in zip(subject.contexts, thresholds, strict=True)]
    typed = [context.typed for context in above]
    order = _order(precision, typed)[:MOST_IMAGES]
    ids = [int(truth.image_ids[place]) for place in order]
    names = file_names(subject.ground_truth_source)
    paths = photo_paths(photos, [names.get(identity, "") for identity in ids])
    boxes = [_boxes_by_image(own) for own in above]
    objects = _objects_by_image(typed)
    images = []
    for place, identity in zip(order.tolist(), ids, strict=True):
        counts = [own.num_by_image[place, : len(MAIN)].tolist() for own in typed]
        images.append(
            {
                "id": identity,
                "name": names.get(identity, ""),
                "size": _size(truth.image_sizes[place], objects[place], [own[place] for own in boxes]),
                "ap": [None if np.isnan(own[place]) else round(float(own[place]), 4) for own in precision],
                "errors": counts,
                "slices": [i for i, one in enumerate(subject.slices) if one.images[place]],
                "objects": objects[place],
                "found": [own[place] for own in boxes],
            }
        )
    spent = 7 * sum(len(str(image)) for image in images) // 8
    uris = small_photos(paths, budget=size_limit - spent - 150_000)
    return {
        "images": [{**image, "photo": uri} for image, uri in zip(images, uris, strict=True)],
        "categories": list(truth.category_names),
        "slices": [one.name for one in subject.slices],
        "kinds": list(MAIN),
        "thresholds": [round(score, 4) for score in thresholds],
    }


def _threshold(context: Context) -> float:
    best = best_threshold(context)
    return best if np.isfinite(best) else _USUAL_THRESHOLD


def _order(precision: Sequence[np.ndarray], typed: Sequence[TypedErrors]) -> np.ndarray:
    totals = [own.num_by_image[:, : len(MAIN)].sum(axis=1) for own in typed]
    if len(precision) == 1:
        return np.lexsort((-totals[0], np.nan_to_num(precision[0], nan=2.0)))
    gap = np.abs(np.nan_to_num(precision[1] - precision[0]))
    return np.lexsort((-np.abs(totals[1] - totals[0]), -gap))


def _boxes_by_image(context: Context) -> list[list]:
    """[x, y, w, h, category, score, kind] of each detection, best first, of every image."""
    typed, found = context.typed, context.detections
    rows = np.argsort(-typed.ranking.score, kind="stable")
    numbers = np.hstack([found.boxes[:, :2], found.sizes])[typed.ranking.detection_row[rows]].round(1).tolist()
    images: list[list] = [[] for _ in context.ground_truth.image_ids]
    columns = (typed.ranking.image_index, typed.ranking.category_index, typed.ranking.score.round(3), typed.kind)
    for box, place, category, score, kind in zip(numbers, *(own[rows].tolist() for own in columns), strict=True):
        images[place].append([*box, category, score, _KINDS[kind]])
    return images


def _objects_by_image(typed: Sequence[TypedErrors]) -> list[list]:
    """[x, y, w, h, category, crowd, missed by each detector] of each object of every image."""
    truth = typed[0].ground_truth
    images: list[list] = [[] for _ in truth.image_ids]
    places, sizes = truth.image_index.tolist(), truth.sizes.round(1).tolist()
    corners, categories = truth.boxes[:, :2].round(1).tolist(), truth.category_index.tolist()
    for row, place in enumerate(places):
        missed = [int(not own.is_found[row]) for own in typed]
        images[place].append([*corners[row], *sizes[row], categories[row], int(truth.iscrowd[row]), *missed])
    return images


def _size(size: np.ndarray, objects: list, found: Sequence[list]) -> list[float]:
    """Width and height: the image's own, or what its boxes take."""
    if np.isfinite(size).all():
        return [float(side) for side in size]
    boxes = [row[:4] for rows in (objects, *found) for row in rows] or [[0, 0, 100, 100]]
    return [max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)]
