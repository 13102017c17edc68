"""Methods of assignment on one network: what they reach, which anchors learn which object, and where they agree.

    ASSIGNERS.write(profile, store, Path("reports"))        # the table, the figure, and the rates that were tried
    frame = methods_frame(profile, store)                   # one row per method and metric

Beside the paper's two stand the methods of `experiments/registry/methods.py`, and an assigner of the user's own.
"""

import math
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import pandas as pd

from analysis.bags.learning import groups_of, learning_frame, mean_interval, overlap
from analysis.evaluation.errors import MAIN, error_metrics, type_errors
from analysis.evaluation.evaluate import metric_intervals
from analysis.evaluation.metrics import alignment_metrics
from analysis.figures import bags, learning
from experiments.registry.config import Evaluation, Training
from experiments.registry.methods import MethodRuns
from experiments.registry.profile import Profile
from experiments.reports.matching import box_rows
from experiments.reports.report import figure_report, split_of, table_report
from experiments.runs.cost import COLUMNS as COST_COLUMNS
from experiments.runs.cost import METHODS, cost_file, cost_ratio, timed_pairs
from experiments.runs.learning import done_runs, learning_stage, stored_learning, stored_shares
from experiments.runs.measured import NOT_RUN, SEED_COLUMNS, measurements, over_seeds, predicted
from experiments.runs.store import Store, is_measured, stored_frame

STORED = (
    "ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "ap_slender", "ap_square", "ap_objects_13_plus", "nr",
)  # fmt: skip
DAP = tuple(f"dap_{kind}" for kind in MAIN)  # AP50 that fixing each kind of error would give, duplicates among them
OF_DETECTIONS = (*DAP, "score_iou_correlation")
STEP_COST = "step_cost"


def every_run(profile: Profile) -> list[str]:
    """The runs of every method, and those that tried its rate."""
    return list(dict.fromkeys(run for method in profile.methods for run in (*method.runs, *method.tried.values())))


def methods_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """One row per method and metric, as cells of a table: value, low, high, over seeds; nan where not run.

    `lr` is the rate of its runs, `tried` the AP that seed 0 reached at each rate.
    """
    costs, rows = _costs(profile, store), []
    for method in profile.methods:
        runs = [profile.evaluations[run] for run in method.runs]
        done = [run for run in runs if is_measured(run, store)]
        frames = [pd.concat([measurements(run, store), _of_detections(run, store)], ignore_index=True) for run in done]
        measured = over_seeds(frames).drop_duplicates("metric").set_index("metric") if frames else pd.DataFrame()
        training = runs[0].training
        assert isinstance(training, Training)
        head = {
            "detector": method.label,
            "run": " ".join(method.runs),
            "profile": profile.name,
            "backbone": training.backbone_label,
            "split": split_of(profile),
            "lr": training.recipe.lr,
            "tried": _tried(method, profile, store),
            "published": math.nan,
            "source": "",
        }
        for metric in (*STORED, *OF_DETECTIONS):
            known = metric in measured.index
            cell: dict[Any, Any] = NOT_RUN
            if known:
                cell = measured.loc[metric, ["value", "low", "high", *SEED_COLUMNS]].to_dict()
            rows.append({**head, "metric": metric, **cell})
        rows.append({**head, "metric": STEP_COST, **NOT_RUN, **costs.get(method.label, {})})
    columns = ["detector", "metric", "value", "low", "high", *SEED_COLUMNS, "run", "profile", "backbone", "split"]
    return pd.DataFrame(rows, columns=[*columns, "lr", "tried", "published", "source"])


def _of_detections(run: Evaluation, store: Store) -> pd.DataFrame:
    ground_truth, detections, _ = predicted(run, store)
    errors = error_metrics(type_errors(ground_truth, detections))
    frame = metric_intervals(errors.and_those_of(alignment_metrics(ground_truth, detections)), ground_truth)
    return frame[frame["metric"].isin(OF_DETECTIONS)]


def _tried(method: MethodRuns, profile: Profile, store: Store) -> str:
    """Each rate that was tried with the AP of seed 0 there."""
    told = []
    for share, run in sorted(method.tried.items()):
        evaluation = profile.evaluations[run]
        ap = math.nan
        if is_measured(evaluation, store):
            frame = measurements(evaluation, store)
            ap = float(frame.loc[frame["metric"] == "ap", "value"].iloc[0])
        told.append(f"{share:g}x: {'not run' if math.isnan(ap) else f'{100 * ap:.1f}'}")
    return ", ".join(told)


def _costs(profile: Profile, store: Store) -> dict[str, dict[str, Any]]:
    """A step's cost over RetinaNet's by method's label; none where steps were not timed."""
    runs = timed_pairs(profile).get(METHODS, ())
    path = cost_file(profile, runs, store)
    if not runs or not path.exists():
        return {}
    times, found = stored_frame(path, COST_COLUMNS), {}
    first, *others = (profile.evaluations[run].training.detector for run in runs)
    for name in others:
        value, low, high = cost_ratio(times, name, first)
        found[name] = {"value": value, "low": low, "high": high, "n_seeds": 1}
    return {first: {"value": 1.0, "n_seeds": 1}, **found}


ASSIGNERS = table_report(
    methods_frame,
    name="assigners",
    title="Methods of assignment on one network",
    caption="RetinaNet's network, schedule and data under each method; only the loss differs, and for the lines of one "
    "anchor per cell the anchors (one square of twice the size). Each method's learning rate is one of those tried, "
    "with seed 0 (the second column has AP at each). AP crowded: images of 13 or more objects. Duplicates: points of "
    "AP50 that they cost, after TIDE; the csv has the other kinds of error. Alignment: rank correlation of score and "
    "IoU of detections that find an object, times 100. "
    "Step: a training step's time in percent of RetinaNet's.",
    figure_caption="The same with 95 % intervals over images.",
    labels={"detector": "Method", "tried": "AP by learning rate"},
    metrics={
        "ap": "AP", "ap_50": "AP50", "ap_75": "AP75", "ap_small": "APS", "ap_medium": "APM", "ap_large": "APL",
        "ap_slender": "AP slender", "ap_square": "AP square", "ap_objects_13_plus": "AP crowded", "nr": "NR",
        "dap_duplicate": "Duplicates", "score_iou_correlation": "Alignment", STEP_COST: "Step",
    },
    has_paper_lines=False,
    draw=learning.methods_figure,
    runs=every_run,
    needs=("learning", "agreement", "method_boxes"),
    needs_costs=True,
    is_extra=True,
)  # fmt: skip


def learning_by_method(profile: Profile, store: Store) -> pd.DataFrame:
    """`learning_frame` of every method, seeds together."""
    return learning_frame(stored_learning(profile, store))


LEARNING = figure_report(
    learning_by_method,
    learning.learning_figure,
    name="learning",
    title="Which anchors learn an object",
    caption="Over training, and at its end for slender, square, crowded (13 or more in an image), acentric objects: "
    "how many anchors learn an object (FreeAnchor's by their shares in Mean-max: effective anchors), their IoU with "
    "it, that of the boxes predicted there, their class score, and how far their centres lie from its centre and from "
    "its discriminative part, in diagonals. Means over objects weighted by share, 95 % intervals over images.",
    runs=every_run,
)


def agreement_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """What two methods have in common at the end of training, and a method with itself a snapshot before.

    Columns kind, group, detector, other, step, num_steps, value, low, high, num_objects; seed 0, by groups of objects.
    """
    done = {label: runs[0] for label, runs in done_runs(profile, store).items() if runs}
    asked = {label: (run, stored_shares(run, store)) for label, run in done.items()}
    rows = [*_agreements(asked, store), *_stabilities(asked, store)]
    columns = ["kind", "group", "detector", "other", "step", "num_steps", "value", "low", "high", "num_objects"]
    return pd.DataFrame(rows, columns=columns)


_Asked = dict[str, tuple[Evaluation, dict[int, pd.DataFrame]]]


def _agreements(asked: _Asked, store: Store) -> Iterator[tuple[Any, ...]]:
    for (label, (run, shares)), (other, (second, others)) in combinations(asked.items(), 2):
        if not shares or not others or _grid(run) != _grid(second):  # an anchor's number means another place there
            continue
        last, end = max(shares), max(others)
        for group, *found in _by_group(run, store, overlap(shares[last], others[end])):
            yield (learning.AGREEMENT, group, label, other, last, last, *found)


def _stabilities(asked: _Asked, store: Store) -> Iterator[tuple[Any, ...]]:
    for label, (run, shares) in asked.items():
        for before, after in pairwise(sorted(shares)):
            for group, *found in _by_group(run, store, overlap(shares[before], shares[after])):
                yield (learning.STABILITY, group, label, label, after, max(shares), *found)


def _grid(run: Evaluation) -> object:
    training = run.training
    assert isinstance(training, Training)
    return training.model.anchors, training.inputs


def _by_group(run: Evaluation, store: Store, common: pd.Series) -> Iterator[tuple[Any, ...]]:
    """Mean over the objects of each group, its interval, and their number."""
    objects = stored_frame(learning_stage(run, store)[0]).drop_duplicates("annotation_id")
    objects = objects.assign(overlap=objects["annotation_id"].map(common))
    for group, members in groups_of(objects).items():
        own = objects[members & objects["overlap"].notna().to_numpy()]
        if len(own):
            yield (group, *mean_interval(own, "overlap"), len(own))


AGREEMENT = figure_report(
    agreement_frame,
    learning.agreement_figure,
    name="agreement",
    title="Where methods of assignment agree",
    caption="Left: of an object's learning anchors, the share that two methods have in common, each asked of its own "
    "trained network, mean over objects, seed 0. Right: the share that a method keeps from one snapshot of its "
    "training to the next. An object's shares add up to 1; in common is the lesser share at each anchor.",
    runs=every_run,
)


def method_box_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Box quality and class score by an anchor's rank in the object's bag of 50, under every method, over seeds.

    Of methods on the anchor grid of the first: on another a rank means other anchors.
    """
    done = {label: runs for label, runs in done_runs(profile, store).items() if runs}
    usual = [_grid(profile.evaluations[method.runs[0]]) for method in profile.methods[:1]]
    frames = [box_rows(runs, store).assign(detector=label) for label, runs in done.items() if _grid(runs[0]) in usual]
    columns = ["detector", "anchor", "quantity", "value", "low", "high", *SEED_COLUMNS]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


METHOD_BOXES = figure_report(
    method_box_frame,
    bags.bag_boxes_figure,
    name="method_boxes",
    title="Boxes and scores of an object's anchors under each method",
    caption="As *Boxes and scores of a bag's anchors*, for every method: the 50 anchors of highest IoU with an object, "
    "by rank, and the anchors that each detector picks of them. Methods on RetinaNet's nine anchors per cell alone.",
    runs=every_run,
    needs=("bag_boxes",),  # which asks the compared runs
)

REPORTS = (ASSIGNERS, LEARNING, AGREEMENT, METHOD_BOXES)
