"""The training loop, on one process or many, resumable at any step.

Which loss trains the network is one field of `TrainConfig`; nothing else here differs between the two detectors. Data
order and augmentation depend on (seed, step) alone, so k steps, an interruption and k more give the same weights as
2k at once, and the number of processes changes nothing but the time (see `TrainConfig.group_size`). Reports are made
elsewhere, from what is stored.

    result = train(Path("runs/demo"), split, detector, TrainConfig(loss=FreeAnchorLoss()), Runtime())
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from freeanchor.checkpoints.native import DetectorConfig, save_model
from freeanchor.data.augmentation import TrainingStream
from freeanchor.data.coco import Batch, Sample, Split, collate
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.errors import DataError
from freeanchor.files import replacing
from freeanchor.losses.focal import Terms
from freeanchor.runtime import Interrupted, Runtime, deferred_interrupts
from freeanchor.training.processes import ALONE, LostProcessError, Processes, lost_processes
from freeanchor.training.recipe import TrainConfig, TrainingError
from freeanchor.training.state import TrainingState, share_network, start
from freeanchor.training.step import DivergedError, bag_concentration, save_divergence, training_step


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The trained network with the time it took, interruptions left out, and how it was computed."""

    model: RetinaNet
    seconds: float
    images_per_second: float
    precision: str
    threads: int
    processes: int


def _collate_groups(size: int, samples: Sequence[Sample]) -> tuple[Batch, ...]:
    """A process's samples of one step as groups of `size`, each padded on its own."""
    return tuple(collate(samples[first : first + size]) for first in range(0, len(samples), size))


def _batches(
    stream: TrainingStream, config: TrainConfig, first_step: int, runtime: Runtime, processes: Processes
) -> Iterator[tuple[Batch, ...]]:
    """This process's groups of images in each step from `first_step` on."""
    num_groups, size = config.share(processes.count)
    first, own = processes.rank * num_groups * size, num_groups * size
    starts = (step * config.batch_size + first for step in range(first_step, config.num_steps))
    loader = DataLoader(
        stream,
        batch_sampler=[range(begin, begin + own) for begin in starts],  # type: ignore[misc]  # any positions will do
        collate_fn=partial(_collate_groups, size),
        num_workers=runtime.num_workers,
        persistent_workers=runtime.num_workers > 0,
    )
    try:
        yield from loader
    except DataError as error:  # a loading process's comes wrapped in its traceback, whose last line is the message
        line = str(error).strip().splitlines()[-1]
        raise DataError(line.partition("DataError: ")[2] or line) from None


def _cut_log(path: Path, step: int) -> None:
    """Drop log lines of steps after `step`: they were done, but not saved, before an interruption."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _log(
    directory: Path, state: TrainingState, terms: dict[str, float], speed: float, config: TrainConfig, bags: float
) -> None:
    """Append one line of metrics."""
    row: dict[str, Any] = {"step": state.step, "lr": config.lr_at(state.step - 1)}
    row |= {f"loss_{name}": value for name, value in terms.items()}
    row |= {"effective_anchors": bags, "images_per_second": round(speed, 2)}
    with (directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _overall(terms: Terms, config: TrainConfig, processes: Processes) -> dict[str, float]:
    """The loss terms of the whole batch: the mean over groups, or the sum of what each process has of the one group."""
    over = processes.count if config.group_size else 1
    return {name: processes.total(term.item()) / over for name, term in terms.items()}


def _report_divergence(error: DivergedError, directory: Path, course: "_Course") -> TrainingError:
    """Keep what is needed to replay the step, and say so in one line, the same on every process."""
    processes, words = course.processes, ""
    if error.divergence is not None:
        path = directory / f"divergence-step-{error.divergence.step:06d}-process-{processes.rank}.safetensors"
        save_divergence(path, course.state.model, course.detector, error.batch, course.config.loss, error.divergence)
        words = f"{error.divergence}; to look at it: freeanchor replay {path}"
    first, *others = [line for line in processes.gather(words) if line]
    also = f" ({len(others)} more process(es) kept theirs beside it)" if others else ""
    return TrainingError(first + also)


@dataclass(frozen=True, kw_only=True)
class _Course:
    """What a training's parts need to know of each other."""

    state: TrainingState
    detector: DetectorConfig
    config: TrainConfig
    runtime: Runtime
    processes: Processes


def _stretch(
    directory: Path, course: _Course, batches: Iterator[tuple[Batch, ...]], signals: list[int], progress: Any
) -> bool:
    """Train to the next line of the log or a request to stop, log and save; whether to stop."""
    state, config, runtime, processes = course.state, course.config, course.runtime, course.processes
    started, before = time.perf_counter(), state.step
    is_stopping = False
    for groups in islice(batches, runtime.log_every - state.step % runtime.log_every):
        terms, output = training_step(state, groups, config, runtime, processes)
        progress.update()
        if processes.is_main and state.step in config.snapshot_steps:
            save_model(directory / "snapshots" / f"step-{state.step:06d}.safetensors", state.model, course.detector)
        is_stopping = processes.total(len(signals)) > 0
        if is_stopping:
            break
    seconds = time.perf_counter() - started
    state.seconds += seconds
    is_over = state.step == config.num_steps
    if state.step % runtime.log_every == 0 or is_over:
        overall = _overall(terms, config, processes)
        speed = (state.step - before) * config.batch_size / seconds
        if processes.is_main:
            _log(directory, state, overall, speed, config, bag_concentration(output, groups[-1]))
    is_due = state.step // runtime.checkpoint_every > before // runtime.checkpoint_every
    if processes.is_main and (is_stopping or is_due or is_over):
        state.save(directory / "state.safetensors", config)
    return is_stopping


def train(
    directory: Path,
    split: Split,
    detector: DetectorConfig,
    config: TrainConfig,
    runtime: Runtime,
    processes: Processes = ALONE,
    backbone_weights: Path | None = None,
) -> TrainingResult:
    """Train a detector in `directory`, going on from the state that lies there, if any.

    `backbone_weights` is the file of ImageNet weights to start from (`backbone_weights.py`); without it all are random.
    Leaves `metrics.jsonl`, `snapshots/` and `state.safetensors` (at the last step) behind, written by the first of the
    processes. Raises TrainingError where the loss is not finite or another process is gone, `Interrupted` after saving
    when asked to stop.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = start(detector.model, config, runtime, processes, backbone_weights)
    state.resume(directory / "state.safetensors", config, processes)
    share_network(state, processes)
    course = _Course(state=state, detector=detector, config=config, runtime=runtime, processes=processes)
    stream = TrainingStream(split, detector.inputs, config.augment, config.seed, config.aspect_group)
    batches = _batches(stream, config, state.step, runtime, processes)
    progress = tqdm(
        total=config.num_steps,
        initial=state.step,
        desc=directory.name,
        unit="step",
        disable=None if processes.is_main else True,
    )
    contact = lost_processes() if processes.count > 1 else nullcontext()
    try:
        with deferred_interrupts() as signals, progress, contact:
            if processes.is_main:
                _cut_log(directory / "metrics.jsonl", state.step)
            while state.step < config.num_steps:
                if _stretch(directory, course, batches, signals, progress) and state.step < config.num_steps:
                    raise Interrupted(
                        f"stopped at step {state.step} of {config.num_steps}; the same command goes on from there"
                    )
    except DivergedError as error:
        raise _report_divergence(error, directory, course) from None
    except LostProcessError as error:
        raise TrainingError(
            f"{error} after step {state.step} of {config.num_steps}; the same command goes on from the last checkpoint"
        ) from None
    return TrainingResult(
        model=state.model.eval(),
        seconds=state.seconds,
        images_per_second=config.num_samples / state.seconds,
        precision=str(runtime.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        processes=processes.count,
    )
