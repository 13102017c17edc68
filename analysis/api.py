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

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import Area, DetectionSource, GroundTruthSource, read_detections, read_ground_truth
from analysis.evaluation.errors import Convention
from analysis.evaluation.evaluate import Wanted, comparison_frames, contexts_of, evaluation_frames
from analysis.evaluation.nms_recall import NmsRecallDefinition, recall_text, streamed_frame
from analysis.evaluation.parts import Context
from analysis.evaluation.per_image import confusion_frame, confusions_compared, images_compared, images_frame
from analysis.evaluation.protocol import COCO_PROTOCOL, Protocol
from analysis.evaluation.slices import DEFAULT_BINS, Bins, SliceSource, read_slices
from analysis.evaluation.suppression import (
    GaussianSoftNms,
    HardNms,
    LinearSoftNms,
    SoftNms,
    Suppression,
    suppress,
    suppressions,
)
from analysis.evaluation.ultralytics import with_ultralytics
from analysis.evaluation.working_point import Goal, checked_goal, curves_frame
from analysis.pages.content import Subject
from analysis.tables.printed import cell, printed, printed_parts
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
    """What an analysis found: `table`, one row per measurement, fractions, nan where undefined; `print` shows it.

    `parts` holds what was asked for beside it, by name: errors, slices, working_points, curves, images, confusion.
    """

    title: str
    caption: str
    table: pd.DataFrame = field(repr=False)
    text: str = field(repr=False)  # the table in lines for people
    drawing: str = field(repr=False)  # of `analysis.figures.intervals`, which brings matplotlib
    parts: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    subject: Any = field(default=None, repr=False)  # `analysis.pages.content.Subject`: what the page draws

    def __str__(self) -> str:
        return self.text + printed_parts(self.parts)

    def figure(self, part: str = "") -> "Figure":
        """The table as a matplotlib figure, values with their intervals; or the figure of one of the `parts`."""
        if part and part not in self.parts:
            raise UsageError(f"part must be one of {', '.join(self.parts) or 'none'}, got {part!r}; ask for it first")
        if part:
            drawn: Figure = import_module("analysis.figures.parts").part_figure(part, self.parts[part])
            return drawn
        figure: Figure = getattr(import_module("analysis.figures.intervals"), self.drawing)(self.table)
        return figure

    def to_html(
        self, path: str | Path | None = None, *, photos: str | Path | None = None, size_limit: int = 3_000_000
    ) -> str:
        """The page to mail as one self-contained text, also written to `path` where given.

        It shows the table and every one of the `parts`, and of an evaluation or a comparison the images with their
        boxes: over the images themselves where `photos` is their folder, as many as `size_limit` bytes allow. The file
        appears whole or not at all, folders are made; raises `OSError` where it cannot be written.
        """
        if self.subject is not None:
            page = import_module("analysis.pages.page").evaluation_page(
                self.subject,
                title=self.title,
                caption=self.caption.replace("Fractions. low and high bound each value", "Intervals"),
                table=self.table,
                parts=self.parts,
                photos=photos,
                size_limit=size_limit,
            )
        else:
            page = self._plain_page()
        if path is not None:
            write_bytes(Path(path), page.encode())
        return page

    def _plain_page(self) -> str:
        return _PAGE.format(
            title=escape(self.title),
            caption=escape(self.caption),
            figure=_svg(self.figure()),
            table=self.table.astype(object).map(cell).to_html(index=False, border=0),
        )


def evaluate(
    gt: GroundTruthSource,
    detections: DetectionSource,
    *,
    per_category: bool = False,
    area: Area = "annotation",
    resamples: int = 1000,
    check: bool = False,
    ultralytics: bool = False,
    protocol: Protocol = COCO_PROTOCOL,
    errors: Convention | None = None,
    slices: SliceSource | None = None,
    bins: Bins = DEFAULT_BINS,
    candidates: DetectionSource | None = None,
    working_point: Goal | None = None,
    per_image: bool = False,
    confusion: float | Literal["f1"] | None = None,
) -> Result:
    """COCO's twelve statistics of a detector, AP by slenderness and by crowdedness, each with an interval over images.

    The table has the columns metric, label, value, low, high, num_objects, num_images. `per_category` adds one row
    `ap_category` per category, its name in `label`. `area` says what makes an object small, medium or large: the area
    in the file (COCO's own: the mask's), or the box's. `resamples` 0 leaves the intervals out. `check` computes the
    twelve with pycocotools too and raises `ArithmeticError` where one differs in its last bit. `protocol` sets size
    ranges, aspect cuts, crowd bins, detections that count and IoU thresholds. `ultralytics` adds its kind of AP.

    The others ask for `parts` of the result: `errors` ("coco" or "tide") for TIDE's error types
    (`analysis.evaluation.errors`); `slices`, a csv or json file or a list of dicts, for the same of any subset of
    objects or images (`analysis.evaluation.slices`), with NMS recall where `candidates` are given; `working_point`
    ("f1", or a precision) for the best threshold of each class, and curves; `per_image` for a table of the images,
    the worst first; `confusion`, a score threshold or "f1" for the best one, for which classes are taken for
    which.
    """
    _check_resamples(resamples, may_be_none=True)
    _check_wanted(errors, working_point, protocol, check=check)
    ground_truth = read_ground_truth(gt, area=_checked_area(area))
    found = read_detections(detections, ground_truth)
    wanted = Wanted(
        protocol=protocol,
        per_category=per_category,
        errors=errors,
        slices=() if slices is None else read_slices(slices, ground_truth, bins=bins),
        candidates=() if candidates is None else (read_detections(candidates, ground_truth, name="candidates"),),
        working_point=working_point,
    )
    (context,) = contexts_of(ground_truth, (found,), wanted)
    frames = evaluation_frames(ground_truth, found, wanted, num_resamples=resamples, check=check, context=context)
    if ultralytics:
        frames["metrics"] = with_ultralytics(frames["metrics"], ground_truth, found)
    frames |= _looked_at(context, working_point, per_image, confusion)
    title = f"Evaluation of {_name(detections, 'detections')} on {_name(gt, 'the ground truth')}"
    subject = Subject(
        contexts=[context], names=[_name(detections, "detections")], ground_truth_source=gt, slices=wanted.slices
    )
    return _result(title, resamples, protocol, frames, subject)


def _looked_at(
    context: Context, working_point: Goal | None, per_image: bool, confusion: float | Literal["f1"] | None
) -> dict[str, pd.DataFrame]:
    """Tables that are not resampled."""
    frames = {}
    if working_point is not None:
        frames["curves"] = curves_frame(context)
    if per_image:
        frames["images"] = images_frame(context)
    if confusion is not None:
        frames["confusion"] = confusion_frame(context, confusion)
    return frames


def compare(
    gt: GroundTruthSource,
    first: DetectionSource,
    second: DetectionSource | Suppression,
    *,
    area: Area = "annotation",
    resamples: int = 1000,
    per_category: bool = False,
    protocol: Protocol = COCO_PROTOCOL,
    errors: Convention | None = None,
    slices: SliceSource | None = None,
    bins: Bins = DEFAULT_BINS,
    candidates: tuple[DetectionSource, DetectionSource] | None = None,
    working_point: Goal | None = None,
    per_image: bool = False,
    confusion: float | Literal["f1"] | None = None,
    names: tuple[str, str] | None = None,
) -> Result:
    """Two detectors on the same images: every metric of `evaluate` of both, and second minus first with its interval.

    The table has the columns metric, first, second, difference, low, high; with `per_category` also `label`, the
    category of the rows `ap_category`. Intervals are paired: each resample of the images is the same for both. The
    other arguments are as for `evaluate`; `candidates` are those of both. `names` are what titles and the page call the
    detectors; without them it is their files' names, with the folders that differ where these are the same.

    `second` may be an NMS (`HardNms(nms_iou=0.7)`, `LinearSoftNms()`, `GaussianSoftNms()`): then the first detector is
    compared with itself after it, error types included. Boxes of every score are kept, soft-NMS leaves out what falls
    to 0.
    """
    _check_resamples(resamples, may_be_none=False)
    if errors is None and isinstance(second, get_args(Suppression)):
        errors = "coco"  # duplicates are what NMS is asked about
    _check_wanted(errors, working_point, protocol)
    ground_truth = read_ground_truth(gt, area=_checked_area(area))
    one = read_detections(first, ground_truth, name="first")
    other = _second(second, one, ground_truth)
    before = candidates or ()
    wanted = Wanted(
        protocol=protocol,
        per_category=per_category,
        errors=errors,
        slices=() if slices is None else read_slices(slices, ground_truth, bins=bins),
        candidates=tuple(read_detections(own, ground_truth, name="candidates") for own in before),
        working_point=working_point,
    )
    contexts = contexts_of(ground_truth, (one, other), wanted)
    frames = comparison_frames(ground_truth, one, other, wanted, num_resamples=resamples, contexts=contexts)
    if working_point is not None:
        sides = zip(("first", "second"), contexts, strict=True)
        frames["curves"] = pd.concat([curves_frame(context).assign(detector=side) for side, context in sides])
    if per_image:
        frames["images"] = images_compared(*(images_frame(context) for context in contexts))
    if confusion is not None:
        frames["confusion"] = confusions_compared(*(confusion_frame(context, confusion) for context in contexts))
    called = names or _names(first, second)
    title = f"{called[1]} minus {called[0]} on {_name(gt, 'the ground truth')}"
    subject = Subject(contexts=contexts, names=list(called), ground_truth_source=gt, slices=wanted.slices)
    return _result(title, resamples, protocol, frames, subject)


def _second(second: DetectionSource | Suppression, first: Detections, ground_truth: GroundTruth) -> Detections:
    if not isinstance(second, HardNms | LinearSoftNms | GaussianSoftNms):
        return read_detections(second, ground_truth, name="second")
    return suppress(first, second, score_threshold=-math.inf if isinstance(second, HardNms) else 0.0)


def _names(first: DetectionSource, second: DetectionSource | Suppression) -> tuple[str, str]:
    """What to call both: their files' names, after the last folders that differ where these are the same."""
    if isinstance(second, HardNms | LinearSoftNms | GaussianSoftNms):
        return _name(first, "first"), f"The same after {second.label}"
    one, other = _name(first, "first"), _name(second, "Second")
    if one == other and isinstance(first, str | Path) and isinstance(second, str | Path):
        folders = zip(Path(first).absolute().parts[-2::-1], Path(second).absolute().parts[-2::-1], strict=False)
        for mine, theirs in folders:
            if mine != theirs:
                return f"{mine}: {one}", f"{theirs}: {other}"
    return one, other


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


def _result(title: str, resamples: int, protocol: Protocol, frames: dict[str, pd.DataFrame], subject: Any) -> Result:
    caption = " ".join(filter(None, ("Fractions.", protocol.note, _intervals_in_words(resamples))))
    table = frames["metrics"]
    parts = {name: frame for name, frame in frames.items() if name != "metrics"}
    return Result(
        title=title,
        caption=caption,
        table=table,
        text="\n".join(filter(None, (printed(table), protocol.note))),
        drawing="interval_figure",
        parts=parts,
        subject=subject,
    )


def _svg(figure: "Figure") -> str:
    from analysis.figures.lettering import noted_letters
    from analysis.figures.style import figure_bytes

    with noted_letters("page"):
        text = figure_bytes(figure, "svg").decode()
    return text[text.index("<svg") :]


def _name(source: object, otherwise: str) -> str:
    return Path(source).name if isinstance(source, str | Path) else otherwise


def _intervals_in_words(resamples: int) -> str:
    return _INTERVALS.format(resamples=resamples) if resamples else "Without intervals."


def _checked_area(area: Area) -> Area:
    if area not in get_args(Area):
        raise UsageError(f'area must be "annotation" or "box", got {area!r}')
    return area


def _check_wanted(errors: object, working_point: Goal | None, protocol: Protocol, *, check: bool = False) -> None:
    if errors is not None and errors not in get_args(Convention):
        raise UsageError(f'errors must be "coco" or "tide", got {errors!r}')
    if working_point is not None:
        checked_goal(working_point)
    if check and not protocol.is_record:
        raise UsageError("check needs COCO's own sizes, detections and IoU thresholds; leave the other options out")


def _check_resamples(resamples: int, *, may_be_none: bool) -> None:
    if resamples < 2 and not (may_be_none and resamples == 0):
        none = " (or 0, for no intervals)" if may_be_none else ""
        raise UsageError(f"resamples must be at least 2{none}, got {resamples}; 1000 is usual")
