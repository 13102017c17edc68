"""The analyses of `freeanchor evaluate`, `compare` and `nms-recall` as functions, for any detector's files or lists.

    from analysis import compare, evaluate, nms_recall

    evaluate("gt.json", "detections.json").table
    compare("gt.json", "first.json", "second.json").to_html("comparison.html")
    nms_recall("gt.json", "candidates.json.gz", nms=(0.4, 0.5, 0.6), soft_nms="gaussian").figure()

Ground truth is a COCO instances file (`.json`, `.json.gz`) or its content, a dict. Detections, and candidates before
NMS, are a COCO results file (`.json`, `.json.gz`, `.parquet`) or its content, a list of dicts. Whatever is wrong with
them raises `freeanchor.errors.DataError`, one line that says what, where and how to fix it; what is repaired instead is
a warning, `analysis.coco.reading.DataNote`. Options that mean nothing raise `freeanchor.errors.UsageError`. Both are
`ValueError`s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from analysis.coco.reading import Area, DetectionSource, GroundTruthSource, read_detections, read_ground_truth
from analysis.evaluation.evaluate import compare_detections, evaluation_frame
from analysis.evaluation.nms_recall import NmsRecallDefinition, recall_text, streamed_frame
from analysis.evaluation.suppression import SoftNms, suppressions
from analysis.evaluation.ultralytics import ultralytics_frame
from freeanchor.errors import UsageError
from freeanchor.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INTERVALS = "low and high bound each value: 95 %, by bootstrap over {resamples} resamples of the images."
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #22262b; max-width: 60em; margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.4em; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2em 0.7em; border-bottom: 1px solid #e4e7ea; text-align: left; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{caption}</p>
{figure}
{table}
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an analysis found: `table`, one row per measurement, fractions, nan where undefined; `print` shows it."""

    title: str
    caption: str
    table: pd.DataFrame = field(repr=False)
    text: str = field(repr=False)  # the table in lines for people
    drawing: str = field(repr=False)  # of `analysis.figures.intervals`, which brings matplotlib

    def __str__(self) -> str:
        return self.text

    def figure(self) -> "Figure":
        """The table as a matplotlib figure: values with their intervals."""
        figure: Figure = getattr(import_module("analysis.figures.intervals"), self.drawing)(self.table)
        return figure

    def to_html(self, path: str | Path | None = None) -> str:
        """The page with caption, figure and table as one self-contained text, also written to `path` where given.

        The file appears whole or not at all, folders are made; raises `OSError` where it cannot be written.
        """
        page = _PAGE.format(
            title=escape(self.title),
            caption=escape(self.caption),
            figure=_svg(self.figure()),
            table=self.table.astype(object).map(_cell).to_html(index=False, border=0),
        )
        if path is not None:
            write_bytes(Path(path), page.encode())
        return page


def evaluate(
    gt: GroundTruthSource,
    detections: DetectionSource,
    *,
    per_category: bool = False,
    area: Area = "annotation",
    resamples: int = 1000,
    check: bool = False,
    ultralytics: bool = False,
) -> Result:
    """COCO's twelve statistics of a detector, AP by slenderness and by crowdedness, each with an interval over images.

    The table has the columns metric, label, value, low, high, num_objects, num_images. `per_category` adds one row
    `ap_category` per category, its name in `label`. `area` says what makes an object small, medium or large: the area
    in the file (COCO's own: the mask's), or the box's. `resamples` 0 leaves the intervals out. `check` computes the
    twelve with pycocotools too and raises `ArithmeticError` where one differs in its last bit. `ultralytics` adds AP as
    Ultralytics computes it (`analysis.evaluation.ultralytics`), without intervals.
    """
    _check_resamples(resamples, may_be_none=True)
    ground_truth = read_ground_truth(gt, area=_checked_area(area))
    found = read_detections(detections, ground_truth)
    table = evaluation_frame(
        ground_truth,
        found,
        num_resamples=resamples,
        per_category=per_category,
        check=check,
    )
    if ultralytics:
        table = pd.concat([table, ultralytics_frame(ground_truth, found).assign(label="")], ignore_index=True)
    title = f"Evaluation of {_name(detections, 'detections')} on {_name(gt, 'the ground truth')}"
    return _result(title, f"Fractions. {_intervals_in_words(resamples)}", table)


def compare(
    gt: GroundTruthSource,
    first: DetectionSource,
    second: DetectionSource,
    *,
    area: Area = "annotation",
    resamples: int = 1000,
) -> Result:
    """Two detectors on the same images: every metric of `evaluate` of both, and second minus first with its interval.

    The table has the columns metric, first, second, difference, low, high. Intervals are paired: each resample of the
    images is the same for both. `area` is as for `evaluate`.
    """
    _check_resamples(resamples, may_be_none=False)
    ground_truth = read_ground_truth(gt, area=_checked_area(area))
    one = read_detections(first, ground_truth, name="first")
    two = read_detections(second, ground_truth, name="second")
    table = compare_detections(ground_truth, one, two, num_resamples=resamples).rename(columns={"value": "difference"})
    title = f"{_name(second, 'Second')} minus {_name(first, 'first')} on {_name(gt, 'the ground truth')}"
    return _result(title, f"Fractions. {_intervals_in_words(resamples)}", table)


def nms_recall(
    gt: GroundTruthSource,
    candidates: DetectionSource,
    *,
    nms: float | Sequence[float] = (0.5,),
    soft_nms: SoftNms | Sequence[SoftNms] | None = None,
    sigma: float = 0.5,
    score_threshold: float = 0.05,
    max_candidates: int | None = None,
    include_crowd: bool = False,
    inclusive: bool = False,
    resamples: int = 1000,
) -> Result:
    """The share of the objects found by candidates that NMS keeps (Sec. 4.2), under four definitions, with intervals.

    NMS suppresses above each IoU of `nms`; `soft_nms` adds "linear" (at each of them) or "gaussian" (of width `sigma`),
    or both. The table has one row per suppression, definition and tau, and one for their mean (tau nan), with the
    columns nms, definition, tau, metric, recall_before, recall_after, nr, low, high, and the difference of nr from the
    first suppression's, paired over images: difference, difference_low, difference_high.

    Candidates score more than `score_threshold`, before and after; `max_candidates` takes only the best of an image
    (None: all). `include_crowd` counts crowd regions as objects. An object is found at IoU > tau, as in the authors'
    code, or at IoU >= tau if `inclusive`. `resamples` 0 leaves the intervals out.
    """
    _check_resamples(resamples, may_be_none=True)
    compared = suppressions(nms, soft_nms, sigma)
    base = NmsRecallDefinition(
        score_threshold=score_threshold,
        max_candidates=max_candidates,
        include_crowd=include_crowd,
        strict=not inclusive,
    )
    ground_truth = read_ground_truth(gt)
    table = streamed_frame(candidates, ground_truth, compared, base=base, num_resamples=resamples)
    limit = f"at most {max_candidates} candidates per image\n" if max_candidates else ""
    return Result(
        title=f"NMS recall of {_name(candidates, 'candidates')} on {_name(gt, 'the ground truth')}",
        caption=f"{limit.capitalize().replace(chr(10), '. ')}Fractions. {_intervals_in_words(resamples)}",
        table=table,
        text=limit + recall_text(table),
        drawing="nms_recall_figure",
    )


def _result(title: str, caption: str, table: pd.DataFrame) -> Result:
    filled = table.loc[:, [not (table[name].isna() | (table[name] == "")).all() for name in table.columns]]
    text = filled.astype(object).map(_cell).to_string(index=False)
    return Result(title=title, caption=caption, table=table, text=text, drawing="interval_figure")


def _svg(figure: "Figure") -> str:
    from analysis.figures.lettering import noted_letters
    from analysis.figures.style import figure_bytes

    with noted_letters("page"):
        text = figure_bytes(figure, "svg").decode()
    return text[text.index("<svg") :]


def _cell(value: Any) -> str:
    """One entry of the table for people: fractions with four digits, `-` for what is undefined."""
    if pd.isna(value):
        return "-"
    return f"{value:.4f}" if isinstance(value, float | np.floating) else str(value)


def _name(source: object, otherwise: str) -> str:
    return Path(source).name if isinstance(source, str | Path) else otherwise


def _intervals_in_words(resamples: int) -> str:
    return _INTERVALS.format(resamples=resamples) if resamples else "Without intervals."


def _checked_area(area: Area) -> Area:
    if area not in get_args(Area):
        raise UsageError(f'area must be "annotation" or "box", got {area!r}')
    return area


def _check_resamples(resamples: int, *, may_be_none: bool) -> None:
    if resamples < 2 and not (may_be_none and resamples == 0):
        none = " (or 0, for no intervals)" if may_be_none else ""
        raise UsageError(f"resamples must be at least 2{none}, got {resamples}; 1000 is usual")
