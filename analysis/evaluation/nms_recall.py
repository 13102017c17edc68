"""NMS recall: how many of the objects that a detector's candidates cover are still covered after NMS (Sec. 4.2).

    recall = object_recall(ground_truth, candidates, definition=NmsRecallDefinition())
    nms_recall(recall, 0.7)                         # nr_70
    nms_recall_table(recall).nr.mean()              # nr
    counts = found_by_image(recall, ground_truth.image_ids)
    bootstrap(partial(nms_recall_values, counts), num_images=..., generator=...)    # intervals over images
    frame = recall_frame(ground_truth, candidates, [HardNms(nms_iou=0.5), GaussianSoftNms()])   # the same in one table

It is not a measure of a detector's recall. The objects found before NMS are each detector's own, and there are more of
them the more candidates it has. So the two recalls stand beside the ratio, and `max_candidates` evens the numbers out.
A detector can stream the same columns, one image at a time, and never hold all candidates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from analysis.coco.by_image import image_blocks, is_streamed
from analysis.coco.columns import Detections, GroundTruth, positions
from analysis.coco.pieces import NotInPieces
from analysis.coco.reading import DetectionSource, read_detections
from analysis.evaluation.statistics import bootstrap, paired_bootstrap
from analysis.evaluation.suppression import (
    HardNms,
    Suppression,
    check_threshold,
    pairwise_iou,
    rows_by_image,
    survivors,
)
from freeanchor.errors import DataError, UsageError

TAUS = tuple(round(0.50 + 0.05 * step, 2) for step in range(9))  # authors' code: tools/eval_NR.py, .50, .55 ... .90
AUTHORS_NMS = HardNms(nms_iou=0.5)
MAX_DETECTIONS = 100  # of an image, where a definition caps: COCO's number
DEFINITION_NAMES = {
    "": "class-agnostic",
    "_class_aware": "class-aware",
    "_capped": f"class-agnostic, best {MAX_DETECTIONS}",
    "_class_aware_capped": f"class-aware, best {MAX_DETECTIONS}",
}  # suffix of metric names -> what tables say; the first is the authors' definition
_ROUNDING = 1e-6  # a detector may stream its IoUs in float32
_PAIRS_AT_ONCE = 2_000_000  # candidates times objects whose IoU is held at once
_SEED = 0  # of the resampling: every definition and suppression meets the same images


@dataclass(frozen=True, kw_only=True)
class NmsRecallDefinition:
    """What counts as a candidate, and when it has found an object. The defaults are the authors' (nms_recall/*.py).

    - `score_threshold`: candidates score more than this; the authors' 0.05. After soft-NMS they must do so still.
    - `max_candidates`: how many candidates of an image count, best first, before NMS. The authors take all.
    - `nms`: what removes candidates, class by class: the authors' NMS at IoU 0.5, or another of `Suppression`.
    - `class_aware`: only candidates of the object's own class can find it. The authors ignore classes.
    - `max_detections`: keep this many of an image after NMS, best first (100 as COCO does). The authors keep all.
    - `include_crowd`: count crowd regions as objects. The authors leave them out.
    - `strict`: found means IoU > tau, as in the authors' code; False means IoU >= tau, as COCO has it.

    One candidate may find several objects. The authors take boxes clipped to the resized image.
    """

    score_threshold: float = 0.05
    max_candidates: int | None = None
    nms: Suppression = AUTHORS_NMS
    class_aware: bool = False
    max_detections: int | None = None
    include_crowd: bool = False
    strict: bool = True

    def __post_init__(self) -> None:
        check_threshold(self.score_threshold)
        for name in ("max_candidates", "max_detections"):
            cap = getattr(self, name)
            if cap is not None and cap < 1:
                raise UsageError(f"{name} must be at least 1, got {cap}; None keeps all")


def four_definitions(base: NmsRecallDefinition = NmsRecallDefinition()) -> dict[str, NmsRecallDefinition]:
    """The definitions in use, side by side: class-agnostic and class-aware, each without a cap and with COCO's 100.

    The first is the authors'. The keys are suffixes of metric names (`nr_70`, `nr_70_class_aware`, …); everything
    but classes and cap is as in `base`.
    """
    return {
        "": replace(base, class_aware=False, max_detections=None),
        "_class_aware": replace(base, class_aware=True, max_detections=None),
        "_capped": replace(base, class_aware=False, max_detections=MAX_DETECTIONS),
        "_class_aware_capped": replace(base, class_aware=True, max_detections=MAX_DETECTIONS),
    }


@dataclass(frozen=True, kw_only=True)
class ObjectRecall:
    """Each object's best IoU with a candidate before and after NMS, under one definition; G objects, 0 for none."""

    image_id: Int[np.ndarray, " G"]
    annotation_id: Int[np.ndarray, " G"]
    iou_before: Float[np.ndarray, " G"]
    iou_after: Float[np.ndarray, " G"]

    def __post_init__(self) -> None:
        # what is left after NMS was there before it, apart from rounding, which is undone
        grown = np.flatnonzero(self.iou_after > self.iou_before + _ROUNDING)
        if len(grown):
            row = grown[0]
            raise DataError(
                f"annotation {self.annotation_id[row]} has IoU {self.iou_after[row]} after NMS but "
                f"{self.iou_before[row]} before; detections must be taken from the candidates"
            )
        object.__setattr__(self, "iou_after", np.minimum(self.iou_after, self.iou_before))


def nms_recall(recall: ObjectRecall, tau: float, *, strict: bool = True) -> float:
    """Share of the objects found before NMS that NMS keeps, at one IoU threshold.

    NR_tau = recall(after) / recall(before), Sec. 4.2; in [0, 1]. Found means IoU > tau (authors' code:
    tools/eval_NR.py), or IoU >= tau unless `strict`. nan where nothing was found before NMS.
    """
    before, after = _recalls(recall, tau, strict=strict)
    return after / before if before > 0 else float("nan")


def nms_recall_table(recall: ObjectRecall, *, strict: bool = True) -> pd.DataFrame:
    """One row per tau: tau, metric (`nr_50` …), recall_before, recall_after, nr. The paper's NR is the mean of `nr`."""
    rows = []
    for tau in TAUS:
        nr = nms_recall(recall, tau, strict=strict)
        rows.append((tau, f"nr_{round(100 * tau):02d}", *_recalls(recall, tau, strict=strict), nr))
    return pd.DataFrame(rows, columns=["tau", "metric", "recall_before", "recall_after", "nr"])


@dataclass(frozen=True, kw_only=True)
class FoundByImage:
    """Objects found in each image before and after NMS, at each tau: all that NR under image weights takes."""

    before: Float[np.ndarray, "N T"]
    after: Float[np.ndarray, "N T"]


def found_by_image(recall: ObjectRecall, image_ids: Int[np.ndarray, " N"], *, strict: bool = True) -> FoundByImage:
    """Counts the objects found, one row per image of `image_ids` (sorted, as `GroundTruth` has them).

    Raises `DataError` where an object's image is not among them.
    """
    place = positions(recall.image_id, image_ids, what="objects", kind="image")
    sides = []
    for iou in (recall.iou_before, recall.iou_after):
        counts = np.zeros((len(image_ids), len(TAUS)))
        np.add.at(counts, place, np.stack([_is_found(iou, tau, strict=strict) for tau in TAUS], axis=1))
        sides.append(counts)
    return FoundByImage(before=sides[0], after=sides[1])


def nms_recall_values(found: FoundByImage, weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R T+1"]:
    """NR_tau at each tau, then NR, their mean, when each image counts `weights` times; R weightings at once.

    nan where nothing was found before NMS, the mean where any tau is nan.
    """
    before, after = weights @ found.before, weights @ found.after
    values = np.divide(after, before, out=np.full(before.shape, np.nan), where=before > 0)
    return np.hstack([values, values.mean(axis=1, keepdims=True)])


def recall_frame(
    ground_truth: GroundTruth,
    candidates: Detections | Iterable[Detections],
    suppressions: Sequence[Suppression],
    *,
    base: NmsRecallDefinition = NmsRecallDefinition(),
    num_resamples: int = 1000,
) -> pd.DataFrame:
    """One row per suppression, definition and tau, and one for their mean (tau nan).

    Columns: nms, definition, tau, metric (`nr_50` … `nr`, with the definition's suffix), recall_before, recall_after,
    nr, low, high; then `difference`, `difference_low`, `difference_high`: NR minus that of the first suppression,
    paired over images (nan for the first itself). Intervals: 95 %, percentile bootstrap over images, those of NR inside
    [0, 1]; nan with `num_resamples` 0. All but suppression, classes and cap is as `base` says.
    """
    definitions = {
        (suppression.label, suffix): definition
        for suppression in suppressions
        for suffix, definition in four_definitions(replace(base, nms=suppression)).items()
    }
    recalls = object_recall_under(ground_truth, candidates, list(definitions.values()))
    found = [found_by_image(recall, ground_truth.image_ids, strict=base.strict) for recall in recalls]
    blocks = []
    for i, ((label, suffix), recall) in enumerate(zip(definitions, recalls, strict=True)):
        block = _rows(recall, suffix, strict=base.strict)
        block.insert(0, "definition", DEFINITION_NAMES[suffix])
        block.insert(0, "nms", label)
        first = found[i % len(DEFINITION_NAMES)] if i >= len(DEFINITION_NAMES) else None
        blocks.append(block.assign(**_intervals(found[i], first, num_resamples)))
    return pd.concat(blocks, ignore_index=True)


def streamed_frame(
    source: DetectionSource,
    ground_truth: GroundTruth,
    suppressions: Sequence[Suppression],
    *,
    base: NmsRecallDefinition = NmsRecallDefinition(),
    num_resamples: int = 1000,
) -> pd.DataFrame:
    """`recall_frame` of a file of candidates, which is never held as a whole where it is large and image by image."""
    if is_streamed(source):
        try:
            blocks = image_blocks(Path(str(source)), ground_truth)
            return recall_frame(ground_truth, blocks, suppressions, base=base, num_resamples=num_resamples)
        except NotInPieces:
            pass
    found = read_detections(source, ground_truth, name="candidates")
    return recall_frame(ground_truth, found, suppressions, base=base, num_resamples=num_resamples)


def object_recall(
    ground_truth: GroundTruth, candidates: Detections, *, definition: NmsRecallDefinition = NmsRecallDefinition()
) -> ObjectRecall:
    """Each object's best IoU with the candidates, before and after per-class NMS, an image at a time.

    `candidates` are boxes before NMS. Objects keep the order of the ground truth, crowd regions left out unless the
    definition says otherwise (their IoU is the plain one). Raises `DataError` for unknown images or categories.
    """
    return object_recall_under(ground_truth, candidates, [definition])[0]


def object_recall_under(
    ground_truth: GroundTruth, candidates: Detections | Iterable[Detections], definitions: Sequence[NmsRecallDefinition]
) -> list[ObjectRecall]:
    """`object_recall` under each of several definitions, in one pass: those with the same NMS share its work.

    `candidates` may come in blocks of whole images. Progress on stderr where it is a terminal.
    """
    num_images = len(ground_truth.image_ids)
    objects_in = rows_by_image(ground_truth.image_index, num_images)
    best = np.zeros((len(definitions), 2, len(ground_truth.boxes)))
    with tqdm(total=num_images, desc="nms-recall", unit="image", disable=None) as progress:
        for block in [candidates] if isinstance(candidates, Detections) else candidates:
            positions(block.category_id, ground_truth.category_ids, what="candidates", kind="category")
            image = positions(block.image_id, ground_truth.image_ids, what="candidates", kind="image")
            present, own = np.unique(image, return_inverse=True)
            for i, found in zip(present.tolist(), rows_by_image(own, len(present)), strict=bool(len(block))):
                if len(objects := objects_in[i]):
                    best[:, :, objects] = _image_recall(ground_truth, objects, block, found, definitions)
                progress.update()
    return [_columns(ground_truth, ious, definition) for ious, definition in zip(best, definitions, strict=True)]


def _image_recall(
    ground_truth: GroundTruth,
    objects: np.ndarray,
    candidates: Detections,
    found: np.ndarray,
    definitions: Sequence[NmsRecallDefinition],
) -> np.ndarray:
    """Best IoUs of one image's objects, [definition, before and after, object]."""
    best = np.zeros((len(definitions), 2, len(objects)))
    places: dict[tuple[float, int | None], _Covered] = {}
    kept: dict[tuple[Suppression, float, int | None], np.ndarray] = {}
    for d, definition in enumerate(definitions):
        limits = (definition.score_threshold, definition.max_candidates)
        if limits not in places:
            places[limits] = _Covered(ground_truth, objects, candidates, _before_nms(candidates, found, definition))
        before = places[limits]
        key = (definition.nms, *limits)
        if key not in kept:
            rows, _ = survivors(candidates, before.rows, definition.nms, score_threshold=definition.score_threshold)
            kept[key] = before.order[np.searchsorted(before.rows[before.order], rows)]
        best[d, 0] = before.best(None, definition.class_aware)
        best[d, 1] = before.best(kept[key][: definition.max_detections], definition.class_aware)
    return best


class _Covered:
    """IoUs of one image's objects with its candidates in `rows`, computed once; all of them that memory takes."""

    def __init__(
        self, ground_truth: GroundTruth, objects: np.ndarray, candidates: Detections, rows: np.ndarray
    ) -> None:
        self.rows, self.order = rows, np.argsort(rows)
        self._of = ground_truth.boxes[objects], ground_truth.category_id[objects]
        self._candidates = candidates
        fits = len(rows) * len(objects) <= _PAIRS_AT_ONCE
        self._iou = pairwise_iou(self._of[0], candidates.boxes[rows]) if fits else None
        self._best: dict[bool, np.ndarray] = {}

    def best(self, places: np.ndarray | None, class_aware: bool) -> Float[np.ndarray, " G"]:
        """Each object's highest IoU with the candidates at these places of `rows` (None: all), 0 for none."""
        if places is not None:
            return self._of_all(places, class_aware)
        if class_aware not in self._best:
            self._best[class_aware] = self._of_all(np.arange(len(self.rows)), class_aware)
        return self._best[class_aware]

    def _of_all(self, places: np.ndarray, class_aware: bool) -> np.ndarray:
        boxes, categories = self._of
        best = np.zeros(len(boxes))
        block = max(1, _PAIRS_AT_ONCE // len(boxes))
        for start in range(0, len(places), block):
            part = places[start : start + block]
            rows = self.rows[part]
            iou = pairwise_iou(boxes, self._candidates.boxes[rows]) if self._iou is None else self._iou[:, part]
            if class_aware:
                iou = np.where(categories[:, None] == self._candidates.category_id[rows], iou, 0.0)
            best = np.maximum(best, iou.max(axis=1))
        return best


def _before_nms(candidates: Detections, found: np.ndarray, definition: NmsRecallDefinition) -> np.ndarray:
    """Those of one image's rows that NMS is given: above the threshold, and the best of them where there is a cap."""
    rows = found[candidates.scores[found] > definition.score_threshold]
    if definition.max_candidates is None:
        return rows
    return rows[np.argsort(-candidates.scores[rows], kind="stable")[: definition.max_candidates]]


def _columns(ground_truth: GroundTruth, ious: np.ndarray, definition: NmsRecallDefinition) -> ObjectRecall:
    """The columns of the objects that count, from best IoUs [before and after, object]."""
    counts = ~ground_truth.iscrowd | definition.include_crowd
    return ObjectRecall(
        image_id=ground_truth.image_id[counts],
        annotation_id=ground_truth.annotation_id[counts],
        iou_before=ious[0, counts],
        iou_after=ious[1, counts],
    )


def _recalls(recall: ObjectRecall, tau: float, *, strict: bool) -> tuple[float, float]:
    """Recall before and after NMS; nan without objects."""
    if not 0 < tau <= 1:
        raise ValueError(f"tau must lie in (0, 1], got {tau}; pass a fraction, not a percentage")
    num_objects = len(recall.iou_before)
    found = (int(_is_found(iou, tau, strict=strict).sum()) for iou in (recall.iou_before, recall.iou_after))
    before, after = (count / num_objects if num_objects else float("nan") for count in found)
    return before, after


def _is_found(iou: np.ndarray, tau: float, *, strict: bool) -> Bool[np.ndarray, " G"]:
    return iou > tau if strict else iou >= tau


def _rows(recall: ObjectRecall, suffix: str, *, strict: bool) -> pd.DataFrame:
    """One row per tau, then their mean."""
    table = nms_recall_table(recall, strict=strict)
    means = {name: [table[name].mean(skipna=False)] for name in ("recall_before", "recall_after", "nr")}
    table = pd.concat([table, pd.DataFrame({"tau": [np.nan], "metric": ["nr"], **means})], ignore_index=True)
    return table.assign(metric=table["metric"] + suffix)


def _intervals(found: FoundByImage, first: FoundByImage | None, num_resamples: int) -> dict[str, np.ndarray]:
    """low, high, and the difference from `first` with its bounds, one value per row of `_rows`."""
    nothing = np.full(len(TAUS) + 1, np.nan)
    columns = dict.fromkeys(("low", "high", "difference", "difference_low", "difference_high"), nothing)
    metric = partial(nms_recall_values, found)
    num_images = len(found.before)
    as_it_is = np.ones((1, num_images))
    if first is not None:
        columns["difference"] = (metric(as_it_is) - nms_recall_values(first, as_it_is))[0]
    if not num_resamples:
        return columns
    own = bootstrap(metric, num_images=num_images, generator=np.random.default_rng(_SEED), num_resamples=num_resamples)
    columns |= {"low": np.clip(own.low, 0.0, 1.0), "high": np.clip(own.high, 0.0, 1.0)}
    if first is not None:
        gain = paired_bootstrap(
            partial(nms_recall_values, first),
            metric,
            num_images=num_images,
            generator=np.random.default_rng(_SEED),
            num_resamples=num_resamples,
        )
        columns |= {"difference_low": np.asarray(gain.low), "difference_high": np.asarray(gain.high)}
    return columns


def recall_text(frame: pd.DataFrame) -> str:
    """The frame for people: one table per suppression, rows tau, columns definitions; then the suppressions' means."""
    parts = ["found: objects found before NMS, of all; NR: of those, the ones found after it [95 %]"]
    parts += [f"{label}\n{_side_by_side(block)}" for label, block in frame.groupby("nms", sort=False)]
    if frame["nms"].nunique() > 1:
        parts.append(f"NR, mean over tau [minus that of {frame['nms'].iloc[0]}, 95 %]\n{_against_the_first(frame)}")
    return "\n\n".join(parts)


def _side_by_side(block: pd.DataFrame) -> str:
    """One suppression: tau, and for both ways to take classes the objects found, NR, and NR of the best alone."""
    columns: dict[tuple[str, str], list[str]] = {}
    of = {str(name): rows for name, rows in block.groupby("definition", sort=False)}
    for suffix in ("", "_class_aware"):
        name, rows = DEFINITION_NAMES[suffix], of[DEFINITION_NAMES[suffix]]
        columns[name, "found"] = [_number(value) for value in rows["recall_before"]]
        columns[name, "NR"] = _bracketed(rows, "nr", "low", "high")
        columns[name, f"NR, best {MAX_DETECTIONS}"] = _bracketed(
            of[DEFINITION_NAMES[f"{suffix}_capped"]], "nr", "low", "high"
        )
        taus = ["mean" if np.isnan(tau) else f"{tau:.2f}" for tau in rows["tau"]]
    return pd.DataFrame(columns, index=pd.Index(taus)).rename_axis(columns=["", "tau"]).to_string()


def _against_the_first(frame: pd.DataFrame) -> str:
    """One row per suppression, one column per definition: NR's mean, and its difference where it is not the first."""
    means = frame[frame["tau"].isna()]
    gains = _bracketed(means, "difference", "difference_low", "difference_high", sign="+")
    texts = [
        _number(nr) if gain == "-" else f"{_number(nr)}  {gain}" for nr, gain in zip(means["nr"], gains, strict=True)
    ]
    table = means.assign(text=texts).pivot(index="nms", columns="definition", values="text")
    return table.loc[means["nms"].unique(), means["definition"].unique()].to_string(index_names=False)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _bracketed(rows: pd.DataFrame, value: str, low: str, high: str, sign: str = "") -> list[str]:
    """Each value with its interval, if it has one; `-` where it is undefined."""
    texts = []
    for v, a, b in rows[[value, low, high]].to_numpy(dtype=np.float64):
        interval = "" if np.isnan(a) else f" [{a:{sign}.3f}, {b:{sign}.3f}]"
        texts.append("-" if np.isnan(v) else f"{v:{sign}.3f}{interval}")
    return texts
