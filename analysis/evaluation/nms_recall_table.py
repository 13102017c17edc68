"""NMS recall of any detector under four definitions and several suppressions, side by side, with intervals.

What it is: the frame behind `freeanchor nms-recall`, and its text. What it is not: the definition
(`analysis.nms_recall`), or the NMS recall of a run of ours (`experiments.measure`, from streamed IoUs).

    frame = recall_frame(ground_truth, candidates, [HardNms(nms_iou=0.5), GaussianSoftNms()])
    print(recall_text(frame))
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation.nms_recall import (
    MAX_DETECTIONS,
    TAUS,
    FoundByImage,
    NmsRecallDefinition,
    ObjectRecall,
    found_by_image,
    four_definitions,
    nms_recall_table,
    nms_recall_values,
    object_recall_under,
)
from analysis.evaluation.statistics import bootstrap, paired_bootstrap
from analysis.evaluation.suppression import Suppression

DEFINITION_NAMES = {
    "": "class-agnostic",
    "_class_aware": "class-aware",
    "_capped": f"class-agnostic, best {MAX_DETECTIONS}",
    "_class_aware_capped": f"class-aware, best {MAX_DETECTIONS}",
}  # suffix of metric names -> what tables say; the first is the authors' definition
AUTHORS = NmsRecallDefinition()
_SEED = 0  # of the resampling: every definition and suppression meets the same images


def recall_frame(
    ground_truth: GroundTruth,
    candidates: Detections,
    suppressions: Sequence[Suppression],
    *,
    base: NmsRecallDefinition = AUTHORS,
    num_resamples: int = 1000,
) -> pd.DataFrame:
    """One row a suppression, definition and tau, and one for their mean (tau nan).

    Columns: nms, definition, tau, metric (`nr_50` … `nr`, with the definition's suffix), recall_before, recall_after,
    nr, low, high; then `difference`, `difference_low`, `difference_high`: NR less that of the first suppression, paired
    over images (nan for the first itself). Intervals: 95 %, percentile bootstrap over images, those of NR inside
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


def _rows(recall: ObjectRecall, suffix: str, *, strict: bool) -> pd.DataFrame:
    """A row a tau, then the mean of the nine."""
    table = nms_recall_table(recall, strict=strict)
    means = {name: [table[name].mean(skipna=False)] for name in ("recall_before", "recall_after", "nr")}
    table = pd.concat([table, pd.DataFrame({"tau": [np.nan], "metric": ["nr"], **means})], ignore_index=True)
    return table.assign(metric=table["metric"] + suffix)


def _intervals(found: FoundByImage, first: FoundByImage | None, num_resamples: int) -> dict[str, np.ndarray]:
    """low, high, and the difference from `first` with its bounds, a value a row of `_rows`."""
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
    """The frame for people: a table a suppression, rows tau, columns definitions; then the suppressions' means."""
    parts = ["found: objects found before NMS, of all; NR: of those, the ones found after it [95 %]"]
    parts += [f"{label}\n{_side_by_side(block)}" for label, block in frame.groupby("nms", sort=False)]
    if frame["nms"].nunique() > 1:
        parts.append(f"NR, mean over tau [less that of {frame['nms'].iloc[0]}, 95 %]\n{_against_the_first(frame)}")
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
    """A row a suppression, a column a definition: NR's mean, and its difference where it is not the first."""
    means = frame[frame["tau"].isna()]
    gains = _bracketed(means, "difference", "difference_low", "difference_high", sign="+")
    texts = [
        _number(nr) if gain == "-" else f"{_number(nr)}  {gain}" for nr, gain in zip(means["nr"], gains, strict=True)
    ]
    table = means.assign(text=texts).pivot(index="nms", columns="definition", values="text")
    return table.loc[means["nms"].unique(), means["definition"].unique()].to_string(index_names=False)


def _number(value: float) -> str:
    """Three digits; `-` where it is undefined."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def _bracketed(rows: pd.DataFrame, value: str, low: str, high: str, sign: str = "") -> list[str]:
    """Each value with its interval, if it has one; `-` where it is undefined."""
    texts = []
    for v, a, b in rows[[value, low, high]].to_numpy(dtype=np.float64):
        interval = "" if np.isnan(a) else f" [{a:{sign}.3f}, {b:{sign}.3f}]"
        texts.append("-" if np.isnan(v) else f"{v:{sign}.3f}{interval}")
    return texts
