"""Both detectors on two anchor grids, FreeAnchor with two bag sizes on each: the bag too large, or the grid too coarse?

    frame = grid_frame(profile, store)      # columns grid, detector, bag, metric, value, low, high, n_seeds …
    GRIDS.write(profile, store, Path("reports"))

The plan of these runs, and what would count as an answer, was written before them: REPRODUCING.md.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from analysis.bags.arrays import HIGHEST_SCORE, QUANTITIES, REGRET, BagBoxes
from analysis.bags.summaries import object_mean
from analysis.evaluation.statistics import Metric
from analysis.figures.comparisons import grids_figure
from analysis.tables.cells import TIDY_COLUMNS
from experiments.claims.evidence import Evidence, Measured, SeedNoise, error_of_difference, seed_error, widened
from experiments.registry.config import Evaluation
from experiments.registry.profile import FACTORS, Cell, Pair, Profile
from experiments.reports.comparisons import interval_rows
from experiments.reports.report import split_of, table_report
from experiments.runs.bags import bag_boxes_stage, bags_stage, has_bags
from experiments.runs.measured import ap_metric, measurements, over_seeds
from experiments.runs.store import Store, stored_frame

AP, GAIN = "ap", "gain_ap"
NEAR, FAR = "1", "25"  # ranks in a bag between which the fall of scores is measured
METRICS = (AP, GAIN, "regret", "chosen_box_iou", "score_fall", "effective_anchors")
COLUMNS = (*TIDY_COLUMNS, "grid", "bag")
_UNKNOWN = {"value": math.nan, "low": math.nan, "high": math.nan, "n_seeds": 0}
_Cells = dict[str, dict[str, Any]]  # metric -> value, low, high, n_seeds


def grid_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """One row per cell and metric, then the two differences that answer the question; nan where not run.

    `ap` in the mean over seeds; `gain_ap` over the RetinaNet of the same grid, paired over images and seeds; `regret`
    (best box of a bag minus the best-scoring one), `chosen_box_iou` (of the best-scoring anchor), `score_fall` (from an
    object's anchor of highest IoU to its 25th) and `effective_anchors` of bags of 50, whatever bag trained them.
    Intervals are 95 %; those of gains and differences cover images and seeds, the others images alone.
    """
    evidence = Evidence(profile, store)
    rows: list[dict[str, Any]] = []
    for cell in profile.grids:
        cells = {**dict.fromkeys(METRICS, _UNKNOWN), **_own(cell, evidence)}
        cells[GAIN] = {**_UNKNOWN, "n_seeds": cells[AP]["n_seeds"]}  # RetinaNet's: what the others gain over
        if _bag(cell):
            cells[GAIN] = _numbers(evidence.gain(_pairs(_cell(profile, cell.grid), cell), AP))
        rows += _rows(cells, profile, cell.grid, cell.detector, _bag(cell), cell.runs)
    for grid, bag, runs, measured in _differences(profile, evidence):
        number = _numbers(measured)
        cells = {metric: {**_UNKNOWN, "n_seeds": number["n_seeds"]} for metric in METRICS} | {GAIN: number}
        rows += _rows(cells, profile, grid, "FreeAnchor", bag, runs)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(
    cells: _Cells, profile: Profile, grid: str, detector: str, bag: str, runs: Iterable[str]
) -> list[dict[str, Any]]:
    head = {"profile": profile.name, "run": " ".join(runs), "grid": grid, "detector": detector, "bag": bag}
    head |= {"backbone": profile.evaluations[profile.pair[0]].training.backbone_label, "split": split_of(profile)}
    return [
        {**head, "metric": metric, **numbers, "published": math.nan, "source": ""} for metric, numbers in cells.items()
    ]


def _bag(cell: Cell) -> str:
    return "" if math.isnan(cell.bag_size) else f"{cell.bag_size:g}"


def _cell(profile: Profile, grid: str, bag: str = "") -> Cell:
    """The cell of a grid with bags of that size; RetinaNet's, which has none, by default."""
    return next(cell for cell in profile.grids if (cell.grid, _bag(cell)) == (grid, bag))


def _pairs(first: Cell, second: Cell) -> tuple[Pair, ...]:
    return tuple(zip(first.runs, second.runs, strict=False))


def _numbers(measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return _UNKNOWN
    return {"value": measured.value, "low": measured.low, "high": measured.high, "n_seeds": measured.n_seeds}


def _own(cell: Cell, evidence: Evidence) -> _Cells:
    """What the runs of a cell say of themselves, in the mean over seeds; nothing where none was run."""
    done = [evidence.profile.evaluations[run] for run in cell.runs if evidence.is_done(run)]
    frames = [pd.concat([_measured_ap(run, evidence.store), _of_bags(run, evidence.store)]) for run in done]
    rows = over_seeds(frames).set_index("metric")
    return {str(metric): {name: row[name] for name in _UNKNOWN} for metric, row in rows.iterrows()}


def _measured_ap(run: Evaluation, store: Store) -> pd.DataFrame:
    frame = measurements(run, store)
    return frame.loc[frame["metric"] == AP, ["metric", "value", "low", "high"]]


def _of_bags(run: Evaluation, store: Store) -> pd.DataFrame:
    """What a run's bags of 50 look like; columns metric, value, low, high; effective anchors at its last snapshot.

    Empty where the run can no longer be asked, and where its images have no objects.
    """
    bags = stored_frame(bags_stage(run, store)[0]) if has_bags(run, store) else pd.DataFrame()
    if bags.empty:
        return bags
    boxes = BagBoxes.of(stored_frame(bag_boxes_stage(run, store), dtype={"anchor": str}))
    names = ("regret", "chosen_box_iou", "score_fall")
    asked = interval_rows(pd.DataFrame({"metric": names}), [partial(_box_values, boxes)], len(boxes.image_ids))
    last = bags[bags["step"] == bags["step"].max()]
    mean, num_images = object_mean(last, "effective_anchors")
    return pd.concat(
        [asked, interval_rows(pd.DataFrame({"metric": ["effective_anchors"]}), [_column(mean)], num_images)]
    )


def _column(metric: Metric) -> Metric:
    return lambda weights: np.asarray(metric(weights))[:, None]


def _box_values(boxes: BagBoxes, weights: np.ndarray) -> np.ndarray:
    values = boxes.values(weights)

    def of(anchor: str, quantity: str) -> np.ndarray:
        if anchor not in boxes.names:  # of bags smaller than that
            return np.full(len(values), math.nan)
        return values[:, boxes.names.index(anchor), QUANTITIES.index(quantity)]

    fall = of(NEAR, "score") - of(FAR, "score")
    return np.stack([of(REGRET, "box_iou"), of(HIGHEST_SCORE, "box_iou"), fall], axis=1)


def _differences(profile: Profile, evidence: Evidence) -> list[tuple[str, str, tuple[str, ...], Measured | None]]:
    """The plan's two questions: was the grid too coarse (a gain minus a gain), and was the bag too large?

    Each with the runs that answer it, or would.
    """
    if not profile.grids:
        return []
    coarse, fine = dict.fromkeys(cell.grid for cell in profile.grids)
    small, usual = min((_bag(cell) for cell in profile.grids if _bag(cell)), key=float), f"{FACTORS[0].default:g}"
    quartets = tuple(
        zip(*(_cell(profile, grid, bag).runs for grid in (coarse, fine) for bag in ("", usual)), strict=False)
    )
    bags = _pairs(_cell(profile, coarse, usual), _cell(profile, coarse, small))
    return [
        (f"{fine} minus {coarse}", usual, tuple(chain(*quartets)), _change_of_gain(evidence, quartets)),
        (coarse, f"{small} minus {usual}", tuple(chain(*bags)), evidence.gain(bags, AP)),
    ]


def _change_of_gain(evidence: Evidence, quartets: Iterable[tuple[str, ...]]) -> Measured | None:
    """The second pair's gain minus the first's: the same images for all four runs, then over their common seeds."""
    done = [runs for runs in quartets if all(map(evidence.is_done, runs))]
    if not done:
        return None
    row = over_seeds([_quartet(evidence, runs) for runs in done]).iloc[0]
    if len(done) > 1:
        error = seed_error(row["sd"], len(done))
    else:  # of the two gains, what a single seed of each borrows
        one, two, three, four = done[0]
        borrowed = (evidence.borrowed(pair, AP) for pair in ((one, two), (three, four)))
        error = error_of_difference(*(SeedNoise(sd=own.error, degrees=int(own.degrees)) for own in borrowed))
    return widened(row, error, tuple(chain(*done)))


def _quartet(evidence: Evidence, runs: Sequence[str]) -> pd.DataFrame:
    metrics, counts = zip(*(ap_metric(evidence.profile.evaluations[run], evidence.store) for run in runs), strict=True)
    gains = [_column(_difference(*metrics[:2])), _column(_difference(*metrics[2:]))]
    return interval_rows(pd.DataFrame({"metric": [GAIN]}), gains, counts[0])


def _difference(first: Metric, second: Metric) -> Metric:
    return lambda weights: np.asarray(second(weights)) - np.asarray(first(weights))


GRIDS = table_report(
    grid_frame,
    name="grids",
    title="Two anchor grids, two bag sizes (PROFILE=photos)",
    caption="Both detectors on the coarse grid and on the one that the rule chooses, FreeAnchor with bags of 12 and of "
    "50. Gain: over the RetinaNet of the same grid, intervals over images and seeds. The coarse grid's runs have more "
    "channels and epochs (REPRODUCING.md), so gains compare, AP across grids does not. Regret: IoU lost by taking the "
    "best-scoring box of a bag instead of the best one. Score fall: from an object's anchor of highest IoU to its "
    "25th. Effective anchors: of bags of 50, whatever bag trained them. The last two lines answer the plan's two "
    "questions.",
    figure_caption="Gain over the RetinaNet of the same grid with its two answers, and what bags look like in each "
    "cell; bars are 95 % intervals.",
    labels={"grid": "Grid", "detector": "Detector", "bag": "n"},
    metrics={
        AP: "AP", GAIN: "Gain", "regret": "Regret", "chosen_box_iou": "IoU of the best-scoring box",
        "score_fall": "Score fall", "effective_anchors": "Effective anchors",
    },
    has_paper_lines=False,
    draw=grids_figure,
    runs=lambda profile: list(dict.fromkeys(run for cell in profile.grids for run in cell.runs)),
    is_extra=True,
)  # fmt: skip

REPORTS = (GRIDS,)
