"""What a step of FreeAnchor's training costs beside one of RetinaNet's (Table 2's training time, under control).

Times of whole trainings tell what else the machine did. Here the two trained detectors of a pair take steps in turn on
the same batches, in one process, so that whatever disturbs one disturbs the other.

    path = cost_stage(profile, profile.pair, store, runtime)         # one row per step: detector, round, seconds
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from analysis.evaluation.statistics import percentile_interval
from experiments.registry.config import Training
from experiments.registry.profile import Profile
from experiments.runs.store import Store, is_done
from freeanchor.checkpoints.native import load_model
from freeanchor.data.augmentation import TrainingStream
from freeanchor.data.coco import Batch, collate, read_split
from freeanchor.files import write_csv
from freeanchor.runtime import Runtime, wait_for
from freeanchor.training.recipe import TrainConfig
from freeanchor.training.state import TrainingState, start
from freeanchor.training.step import training_step

NUM_ROUNDS, NUM_WARM_UP = 30, 3  # steps of each detector; the first ones allocate memory and are left out
NUM_RESAMPLES = 2000
COLUMNS = ("detector", "round", "seconds")
METHODS = "assigners"  # in the place of a backbone's name: every method of assignment


@dataclass(frozen=True, kw_only=True)
class _Racer:
    """A trained detector about to take more steps."""

    detector: str
    state: TrainingState
    recipe: TrainConfig


def timed_pairs(profile: Profile) -> dict[str, tuple[str, ...]]:
    """The trained pair of each backbone, whose steps are timed; published checkpoints have none to time.

    Under "assigners", a run of every method of assignment.
    """
    pairs = {backbone: pairs[0] for backbone, pairs in profile.comparisons.items()}
    timed: dict[str, tuple[str, ...]] = {
        backbone: pair for backbone, pair in pairs.items() if not set(pair) & set(profile.zoo)
    }
    return {**timed, METHODS: tuple(method.runs[0] for method in profile.methods)} if profile.methods else timed


def cost_file(profile: Profile, pair: Sequence[str], store: Store) -> Path:
    """Where the times of a pair of runs, or of more, lie: under the fingerprints of all."""
    prints = [profile.evaluations[run].training.fingerprint for run in pair]
    return store.runs / profile.name / "costs" / f"{'-'.join(prints)}.csv"


def cost_stage(profile: Profile, pair: Sequence[str], store: Store, runtime: Runtime) -> Path:
    """Time steps of trained runs in turn; leaves a csv, one row per step: detector, round, seconds.

    Seconds are processor time on a CPU, which other programs hardly touch, and the clock's on a GPU.
    """
    path = cost_file(profile, pair, store)
    if not is_done(path, COLUMNS, touched=True):
        trainings = [profile.evaluations[run].training for run in pair]
        write_csv(path, _race([it for it in trainings if isinstance(it, Training)], store, runtime))
    return path


def _race(trainings: list[Training], store: Store, runtime: Runtime) -> pd.DataFrame:
    racers = [_racer(training, store, runtime) for training in trainings]
    first, recipe = trainings[0], trainings[0].recipe
    split = read_split(store.data(first), "train")
    stream = TrainingStream(split, first.inputs, recipe.augment, recipe.seed, recipe.aspect_group)
    size = recipe.batch_size
    group = recipe.group_size or size
    rows = []
    for number in tqdm(range(NUM_ROUNDS), desc=f"cost of a step, {first.backbone_label}", disable=None):
        samples = [stream[number * size + place] for place in range(size)]
        groups = [collate(samples[begin : begin + group]) for begin in range(0, size, group)]
        # in the other order every other time: the second finds the batch in the processor's cache
        for racer in racers if number % 2 else reversed(racers):
            rows.append((racer.detector, number, _timed_step(racer, groups, runtime)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _racer(training: Training, store: Store, runtime: Runtime) -> _Racer:
    """The detector with its trained weights: more anchors are ignored as background later, which costs time."""
    state = start(training.model, training.recipe, runtime)
    trained, _ = load_model(store.weights(training))
    state.model.load_state_dict(trained.state_dict())
    state.step = training.recipe.num_steps  # at the last, lowest rate: a trained model need not be warmed up
    return _Racer(detector=training.detector, state=state, recipe=training.recipe)


def _timed_step(racer: _Racer, groups: list[Batch], runtime: Runtime) -> float:
    is_gpu = torch.device(runtime.device).type == "cuda"
    clock = time.perf_counter if is_gpu else time.process_time
    wait_for(runtime.device)
    begun = clock()
    training_step(racer.state, groups, racer.recipe, runtime)
    wait_for(runtime.device)
    return clock() - begun


def cost_ratio(
    frame: pd.DataFrame, detector: str = "FreeAnchor", baseline: str = "RetinaNet"
) -> tuple[float, float, float]:
    """A detector's median seconds over the baseline's, and its 95 % interval (bootstrap over rounds)."""
    times = frame[frame["round"] >= NUM_WARM_UP].pivot(index="round", columns="detector", values="seconds")
    ours, theirs = times[detector].to_numpy(), times[baseline].to_numpy()
    draws = np.random.default_rng(0).integers(len(times), size=(NUM_RESAMPLES, len(times)))
    low, high = percentile_interval(np.median(ours[draws], axis=1) / np.median(theirs[draws], axis=1))
    return float(np.median(ours) / np.median(theirs)), float(low), float(high)
