"""The training loop: synchronous SGD with the paper's schedule, resumable at any step.

Which loss trains the network is one field of `TrainConfig`; nothing else here differs between the two detectors. Data
order and augmentation depend on (seed, step) alone, so k steps, an interruption and k more give the same weights as
2k at once. Reports are made elsewhere, from what is stored.

    result = train(Path("runs/demo"), split, detector, TrainConfig(loss=FreeAnchorLoss()), Runtime())
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from freeanchor.augmentation import AugmentConfig, TrainingStream
from freeanchor.checkpoints import DetectorConfig, load_tensors, load_weights, replacing, save_model, save_tensors
from freeanchor.data import Batch, DataError, Split, collate
from freeanchor.losses import FreeAnchorLoss, RetinaNetLoss
from freeanchor.matching import effective_anchors
from freeanchor.model import ModelOutput, RetinaNet
from freeanchor.runtime import Interrupted, Runtime, deferred_interrupts


class TrainingError(ValueError):
    """A run that cannot go on, with the step, the terms and the remedy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training recipe; the defaults are the paper's (Sec. 4.1) and its authors' (FACTS A4).

    `drops` are the fractions of `num_steps` at which the learning rate is divided by ten: 60k and 80k of 90k. Biases
    learn at `bias_lr_factor` times the rate, without weight decay. `snapshots` are fractions after which the weights
    are kept, to look at matching over training.
    """

    loss: RetinaNetLoss | FreeAnchorLoss
    num_steps: int = 90_000
    batch_size: int = 16
    lr: float = 0.01
    warmup_steps: int = 500
    warmup_factor: float = 1 / 3
    drops: tuple[float, ...] = (2 / 3, 8 / 9)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr_factor: float = 2.0
    max_grad_norm: float | None = None  # the authors clip nothing
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    snapshots: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a recipe that trains nothing."""
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError(f"num_steps and batch_size must be at least 1, got {self.num_steps} and {self.batch_size}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up from `warmup_factor`, then a tenth after each drop."""
        drops = sum(step >= round(fraction * self.num_steps) for fraction in self.drops)
        warmth = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * 0.1**drops * (self.warmup_factor + (1 - self.warmup_factor) * warmth)


@dataclass
class TrainingState:
    """What training changes: weights, momentum, the number of steps done and the seconds they took."""

    model: RetinaNet
    optimizer: torch.optim.SGD
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path, config: TrainConfig) -> None:
        """Write everything needed to go on from here."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer") if parameter.requires_grad else None
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        save_tensors(path, tensors, {"step": self.step, "seconds": self.seconds, "config": repr(config)})

    def resume(self, path: Path, config: TrainConfig) -> None:
        """Go back to what `save` wrote; raises TrainingError where it was written by another recipe."""
        tensors, header = load_tensors(path)
        if header["config"] != repr(config):
            raise TrainingError(f"{path}: was written by another recipe; delete it to train anew")
        weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        load_weights(self.model, weights, path)
        for name, parameter in self.model.named_parameters():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.step, self.seconds = header["step"], header["seconds"]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The trained network with the time it took, interruptions left out, and how it was computed."""

    model: RetinaNet
    seconds: float
    images_per_second: float
    precision: str
    threads: int


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with momentum; biases in a group of their own, faster and without decay (FACTS A4)."""
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "bias": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["bias" if name.endswith("bias") else "weight"].append(parameter)
    return torch.optim.SGD(
        [
            {"params": groups["weight"], "lr_factor": 1.0, "weight_decay": config.weight_decay},
            {"params": groups["bias"], "lr_factor": config.bias_lr_factor, "weight_decay": 0.0},
        ],
        lr=config.lr,
        momentum=config.momentum,
    )


def _start(detector: DetectorConfig, config: TrainConfig, runtime: Runtime) -> TrainingState:
    """A state before the first step, its weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = RetinaNet(detector.model)
    model = model.to(runtime.device).to(memory_format=torch.channels_last).train()
    return TrainingState(model, build_optimizer(model, config))


def _batches(stream: TrainingStream, config: TrainConfig, first_step: int, runtime: Runtime) -> Iterator[Batch]:
    """The batches of the steps from `first_step` on."""
    positions = (
        range(step * config.batch_size, (step + 1) * config.batch_size) for step in range(first_step, config.num_steps)
    )
    loader = DataLoader(
        stream,
        batch_sampler=list(positions),  # type: ignore[arg-type]  # any iterable of positions will do
        collate_fn=collate,
        num_workers=runtime.num_workers,
        persistent_workers=runtime.num_workers > 0,
    )
    try:
        yield from loader
    except DataError as error:  # a loading process's comes wrapped in its traceback, whose last line is the message
        line = str(error).strip().splitlines()[-1]
        raise DataError(line.partition("DataError: ")[2] or line) from None


def training_step(
    state: TrainingState, batch: Batch, config: TrainConfig, runtime: Runtime
) -> tuple[dict[str, Tensor], ModelOutput]:
    """One step of SGD; the loss terms and the predictions they were taken from."""
    lr = config.lr_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    images = batch.images.to(runtime.device, memory_format=torch.channels_last)
    with runtime.autocast():
        output = state.model(images)
    gt_boxes = [boxes.to(images.device) for boxes in batch.gt_boxes]
    gt_labels = [labels.to(images.device) for labels in batch.gt_labels]
    terms = config.loss(output.logits, output.deltas, output.anchors, gt_boxes, gt_labels)
    loss = torch.stack(list(terms.values())).sum()
    if not math.isfinite(loss.item()):
        raise TrainingError(_divergence(state.step, terms, batch, config))
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), config.max_grad_norm)
    state.optimizer.step()
    state.step += 1
    return terms, output


def _divergence(step: int, terms: dict[str, Tensor], batch: Batch, config: TrainConfig) -> str:
    """One line on a loss that is not finite: where, what, and the commonest cure."""
    values = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
    names = " ".join(sample.picture.path.name for sample in batch.samples)
    return f"loss is not finite at step {step} ({values}; pictures {names}); lower lr (now {config.lr:g}) or batch up"


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
            picture = logits, deltas, output.anchors, boxes.to(logits.device), labels.to(logits.device)
            numbers.append(effective_anchors(diagnosis.confidence(*picture)[1]))
    return torch.cat(numbers).mean().item() if numbers else math.nan


def _cut_log(path: Path, step: int) -> None:
    """Drop log lines of steps after `step`: they were done, but not saved, before an interruption."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _log(
    path: Path, state: TrainingState, terms: dict[str, Tensor], speed: float, config: TrainConfig, bags: float
) -> None:
    """Append one line of metrics."""
    row: dict[str, Any] = {"step": state.step, "lr": config.lr_at(state.step - 1)}
    row |= {f"loss_{name}": term.item() for name, term in terms.items()}
    row |= {"effective_anchors": bags, "images_per_second": round(speed, 2)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def train(
    directory: Path, split: Split, detector: DetectorConfig, config: TrainConfig, runtime: Runtime
) -> TrainingResult:
    """Train a detector in `directory`, going on from the state that lies there, if any.

    Leaves `metrics.jsonl`, `snapshots/` and `state.safetensors` (at the last step) behind. Raises TrainingError when
    the loss is not finite, `Interrupted` after saving when asked to stop.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state_path, log_path = directory / "state.safetensors", directory / "metrics.jsonl"
    state = _start(detector, config, runtime)
    if state_path.exists():
        state.resume(state_path, config)
    _cut_log(log_path, state.step)
    stream = TrainingStream(split, detector.inputs, config.augment, config.seed)
    snapshot_steps = {round(fraction * config.num_steps) for fraction in config.snapshots}
    batches = _batches(stream, config, state.step, runtime)
    progress = tqdm(total=config.num_steps, initial=state.step, desc=directory.name, unit="step", disable=None)
    with deferred_interrupts() as signals, progress:
        while state.step < config.num_steps:
            started, before = time.perf_counter(), state.step
            for batch in islice(batches, runtime.log_every - state.step % runtime.log_every):
                terms, output = training_step(state, batch, config, runtime)
                progress.update()
                if state.step in snapshot_steps:
                    save_model(directory / "snapshots" / f"step-{state.step:06d}.safetensors", state.model, detector)
                if signals:
                    break
            seconds = time.perf_counter() - started
            state.seconds += seconds
            if state.step % runtime.log_every == 0 or state.step == config.num_steps:
                speed = (state.step - before) * config.batch_size / seconds
                _log(log_path, state, terms, speed, config, bag_concentration(output, batch))
            is_due = state.step // runtime.checkpoint_every > before // runtime.checkpoint_every
            if signals or is_due or state.step == config.num_steps:
                state.save(state_path, config)
            if signals and state.step < config.num_steps:
                raise Interrupted(
                    f"stopped at step {state.step} of {config.num_steps}; the same command goes on from there"
                )
    return TrainingResult(
        model=state.model.eval(),
        seconds=state.seconds,
        images_per_second=config.num_steps * config.batch_size / state.seconds,
        precision=str(runtime.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
