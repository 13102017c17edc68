"""The training loop, on one process or many, resumable at any step.

Which loss trains the network is one field of `TrainConfig`; nothing else here differs between the two detectors. Data
order and augmentation depend on (seed, step) alone, so k steps, an interruption and k more give the same weights as
2k at once, and the number of processes changes nothing but the time (see `TrainConfig.group_size`).

    result = train(Path("runs/demo"), split, detector, TrainConfig(loss=FreeAnchorLoss()), Runtime())
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from freeanchor.checkpoints.native import DetectorConfig, save_model
from freeanchor.data.augmentation import TrainingStream
from freeanchor.data.coco import Batch, Sample, Split, collate
from freeanchor.detector.retinanet import ModelOutput, RetinaNet
from freeanchor.errors import DataError, is_whole
from freeanchor.files import write_bytes
from freeanchor.losses.focal import Terms
from freeanchor.losses.free_anchor import FreeAnchorLoss, effective_anchors
from freeanchor.runtime import Interrupted, Runtime, deferred_interrupts
from freeanchor.training.divergence import DivergedError, report_divergence
from freeanchor.training.processes import ALONE, LostProcessError, Processes, lost_processes
from freeanchor.training.recipe import TrainConfig, TrainingError
from freeanchor.training.state import TrainingState, share_network, start
from freeanchor.training.step import training_step


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The trained network with the time it took, interruptions left out, and how it was computed."""

    model: RetinaNet
    seconds: float
    images_per_second: float
    precision: str
    threads: int
    processes: int


def train(
    directory: Path,
    split: Split,
    detector: DetectorConfig,
    config: TrainConfig,
    runtime: Runtime,
    processes: Processes = ALONE,
    backbone_weights: Path | None = None,
    *,
    run: str = "",
) -> TrainingResult:
    """Train a detector in `directory`, going on from the state that lies there, if any.

    `backbone_weights` is the file of ImageNet weights to start from (`backbone_weights.py`); without it all are random.
    A state that names another `run` (a fingerprint, say) than this is refused.
    Leaves `metrics.jsonl`, `snapshots/` and `state.safetensors` (at the last step) behind, written by the first of the
    processes. Raises TrainingError where the loss is not finite or another process is gone, `Interrupted` after saving
    when asked to stop.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = start(detector.model, config, runtime, processes, backbone_weights)
    state.run = run
    state.resume(directory / "state.safetensors", config, processes)
    share_network(state, processes, compiled=runtime.compiled)
    stream = TrainingStream(split, detector.inputs, config.augment, config.seed, config.aspect_group)
    log = _Log(directory / "metrics.jsonl", state, config, processes)
    with _explained_faults(directory, state, detector, config, processes), deferred_interrupts() as signals, log:
        for groups in _batches(stream, config, state.step, runtime, processes):
            terms, output = training_step(state, groups, config, runtime, processes)
            log.count_step()
            is_over = state.step == config.num_steps
            is_stopping = processes.total(len(signals)) > 0
            if state.step % runtime.log_every == 0 or is_over:
                log.write(terms, output, groups[-1])
            if processes.is_main and state.step in config.snapshot_steps:
                save_model(directory / "snapshots" / f"step-{state.step:06d}.safetensors", state.model, detector)
            if processes.is_main and (is_stopping or is_over or state.step % runtime.checkpoint_every == 0):
                state.save(directory / "state.safetensors", config)
            if is_stopping and not is_over:
                raise Interrupted(
                    f"stopped at step {state.step} of {config.num_steps}; the same command goes on from there"
                )
            log.restart_clock()
    return TrainingResult(
        model=state.model.eval(),
        seconds=state.seconds,
        images_per_second=config.num_samples / state.seconds,
        precision=runtime.dtype_name,
        threads=torch.get_num_threads(),
        processes=processes.count,
    )


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
        pin_memory=torch.device(runtime.device).type == "cuda",  # from there copies do not hold up the step
        persistent_workers=runtime.num_workers > 0,
    )
    try:
        yield from map(tuple, loader)  # pinned groups come as a list
    except DataError as error:  # a loading process's comes wrapped in its traceback, whose last line is the message
        line = str(error).strip().splitlines()[-1]
        raise DataError(line.partition("DataError: ")[2] or line) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            "a process that loads images was killed, maybe for want of memory; with fewer of them, or with none "
            "(--workers 0), the same command goes on from the last checkpoint"
        ) from None


def _collate_groups(size: int, samples: Sequence[Sample]) -> tuple[Batch, ...]:
    """A process's samples of one step as groups of `size`, each padded on its own."""
    return tuple(collate(samples[first : first + size]) for first in range(0, len(samples), size))


@contextmanager
def _explained_faults(
    directory: Path, state: TrainingState, detector: DetectorConfig, config: TrainConfig, processes: Processes
) -> Iterator[None]:
    """Turn what ends a training early into TrainingError, one line."""
    try:
        with lost_processes() if processes.count > 1 else nullcontext():
            yield
    except DivergedError as error:
        raise report_divergence(error, directory, state.model, detector, config.loss, processes) from None
    except LostProcessError as error:
        raise TrainingError(
            f"{error} after step {state.step} of {config.num_steps}; the same command goes on from the last checkpoint"
        ) from None


class _Log:
    """The lines of `metrics.jsonl`, the progress bar and the clock, which stands still while files are written."""

    def __init__(self, path: Path, state: TrainingState, config: TrainConfig, processes: Processes) -> None:
        self.path, self.state, self.config, self.processes = path, state, config, processes
        is_hidden = None if processes.is_main else True  # None: hidden where stderr is no terminal
        name = path.parent.name
        self.progress = tqdm(total=config.num_steps, initial=state.step, desc=name, unit="step", disable=is_hidden)

    def __enter__(self) -> None:
        if self.processes.is_main:
            self._cut()
        self.restart_clock()
        self.first_step, self.seconds = self.state.step, 0.0

    def __exit__(self, *error: object) -> None:
        self.progress.close()

    def _cut(self) -> None:
        """Drop lines of steps after the state's: they were done, but not saved, before an interruption."""
        rows = read_log(self.path) if self.path.exists() else []
        kept = [row for row in rows if row["step"] <= self.state.step]
        write_bytes(self.path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())

    def restart_clock(self) -> None:
        """Seconds count from here on."""
        self.started = time.perf_counter()

    def count_step(self) -> None:
        """Add the seconds since the clock started to the state's, and move the progress bar."""
        seconds = time.perf_counter() - self.started
        self.state.seconds += seconds
        self.seconds += seconds
        self.progress.update()

    def write(self, terms: Terms, output: ModelOutput, batch: Batch) -> None:
        """Append a line about this step; its speed is that of the steps since the last line."""
        # The loss of the whole batch: the mean over groups, or the sum of what each process has of the one group.
        over = self.processes.count if self.config.group_size else 1
        overall = {f"loss_{name}": self.processes.total(term.item()) / over for name, term in terms.items()}
        speed = (self.state.step - self.first_step) * self.config.batch_size / self.seconds
        if self.processes.is_main:
            row: dict[str, Any] = {"step": self.state.step, "lr": self.config.lr_at(self.state.step - 1), **overall}
            row |= {"effective_anchors": bag_concentration(output, batch), "images_per_second": round(speed, 2)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        self.first_step, self.seconds = self.state.step, 0.0


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; lines cut short, or damaged, are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and is_whole(row.get("step")) and all(map(_is_plain, row.values())):
                rows.append(row)
    return rows


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@torch.no_grad()
def bag_concentration(output: ModelOutput, batch: Batch) -> float:
    """Mean effective number of anchors in the bags of a batch, at the paper's bag size; nan without objects.

    Defined for any detector, whichever loss trains it: the bag's size while Mean-max is the mean, 1 when it is the max.
    """
    diagnosis = FreeAnchorLoss()
    numbers = []
    for image, (boxes, labels) in enumerate(zip(batch.gt_boxes, batch.gt_labels, strict=True)):
        if len(boxes):
            logits, deltas = output.logits[image].float(), output.deltas[image].float()
            targets = logits, deltas, output.anchors, boxes.to(logits.device), labels.to(logits.device)
            numbers.append(effective_anchors(diagnosis.confidence(*targets)[1]))
    return torch.cat(numbers).mean().item() if numbers else math.nan
