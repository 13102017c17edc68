"""One step of synchronous SGD: groups of images in, weights changed, on one process or many.

The loop around it is in `train.py`. Nothing is changed where a loss or a gradient is not finite.

    terms, output = training_step(state, groups, config, runtime)

When a loss or a gradient is no number: what is needed to see why, kept in one file, and looked at again.

save_divergence(path, model, detector, batch, Divergence(...))
for line in replay(path): print(line)
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from freeanchor.checkpoints.native import DetectorConfig, describe, load_tensors, load_weights, restore, save_tensors
from freeanchor.data.coco import Batch, collate
from freeanchor.detector.retinanet import ModelOutput, RetinaNet
from freeanchor.errors import CheckpointError
from freeanchor.losses.focal import Terms
from freeanchor.losses.free_anchor import FreeAnchorLoss, effective_anchors
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss
from freeanchor.runtime import Runtime
from freeanchor.training.processes import ALONE, Processes
from freeanchor.training.recipe import Loss, TrainConfig, TrainingError
from freeanchor.training.state import TrainingState

LOSSES = {kind.__name__: kind for kind in (RetinaNetLoss, FreeAnchorLoss, TorchvisionRetinaNetLoss)}


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where a training stopped making sense: the step, what is not finite, the terms, the images, the precision."""

    step: int
    what: str
    terms: dict[str, float]
    images: tuple[str, ...]
    precision: str
    lr: float

    def __str__(self) -> str:
        """One line with the commonest cure."""
        values = ", ".join(f"{name} {value:g}" for name, value in self.terms.items())
        return (
            f"{self.what} is not finite at step {self.step} in {self.precision} ({values}; images "
            f"{' '.join(self.images)}); lower lr (now {self.lr:g}) in proportion to the batch"
        )


def save_divergence(
    path: Path,
    model: RetinaNet,
    detector: DetectorConfig,
    batch: Batch,
    loss: Loss,
    divergence: Divergence,
) -> None:
    """Write the weights before the step with the images as the network saw them and their objects."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["images"] = batch.images
    for image, (boxes, labels) in enumerate(zip(batch.gt_boxes, batch.gt_labels, strict=True)):
        tensors |= {f"gt_boxes.{image}": boxes, f"gt_labels.{image}": labels}
    header = {
        "divergence": asdict(divergence),
        "detector": describe(detector),
        "loss": {"kind": type(loss).__name__, **asdict(loss)},
    }
    save_tensors(path, tensors, header)


def replay(path: Path, precision: str = "") -> Iterator[str]:
    """Lines on a saved step done again, on the CPU: what was seen, the first layer that gives no number, each image.

    Where the gradient was not finite, each image's own gradient is looked at too.
    `precision` instead of the one it was trained in shows whether a wider one cures it. Raises CheckpointError where
    the file is of another kind.
    """
    tensors, header = load_tensors(path)
    if "divergence" not in header:
        raise CheckpointError(f"{path}: holds no step to replay; give a divergence-*.safetensors of a stopped training")
    seen = Divergence(**{**header["divergence"], "images": tuple(header["divergence"]["images"])})
    yield f"seen: {seen}"
    model = RetinaNet(restore(header["detector"]).model)
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    load_weights(model, weights, path)
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    yield f"weights: {len(broken)} of {len(weights)} hold values that are not finite {' '.join(broken[:3])}".rstrip()
    runtime = Runtime(precision=precision or seen.precision)  # type: ignore[arg-type]  # Runtime refuses others
    output, first = _watched(model.train(), tensors["images"], runtime)
    yield f"network in {str(runtime.dtype).removeprefix('torch.')}: {first or 'every layer gives finite values'}"
    kind = dict(header["loss"])
    loss = LOSSES[kind.pop("kind")](**kind)
    for image, name in enumerate(seen.images):
        yield f"{name}: {_words(_terms_of(image, output, tensors, loss), len(tensors[f'gt_boxes.{image}']))}"
        if seen.what == "gradient":
            yield f"{name}: {_gradient_of(image, model, tensors, loss, runtime)}"


@torch.no_grad()
def _watched(model: RetinaNet, images: Tensor, runtime: Runtime) -> tuple[ModelOutput, str]:
    """The output, and the first layer that gave something not finite; an empty string where none did."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name)

        return look

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(watch(name))
    with runtime.autocast():
        output = model(images)
    return output, f"{found[0]} is the first layer with values that are not finite" if found else ""


def _terms_of(image: int, output: ModelOutput, tensors: dict[str, Tensor], loss: Loss) -> Terms:
    """The loss terms of one image alone."""
    boxes, labels = tensors[f"gt_boxes.{image}"], tensors[f"gt_labels.{image}"]
    return loss(output.logits[image][None], output.deltas[image][None], output.anchors, [boxes], [labels])


def _words(terms: Terms, num_objects: int) -> str:
    """The terms of an image with its number of objects."""
    return f"{num_objects} objects, {', '.join(f'{name} {term.item():g}' for name, term in terms.items())}"


def _gradient_of(image: int, model: RetinaNet, tensors: dict[str, Tensor], loss: Loss, runtime: Runtime) -> str:
    """Whether the gradient of one image's loss is finite, and the first weights of which it is not."""
    model.zero_grad(set_to_none=True)
    with runtime.autocast():
        output = model(tensors["images"][image][None])
    alone = {f"gt_{what}.0": tensors[f"gt_{what}.{image}"] for what in ("boxes", "labels")}
    torch.stack(list(_terms_of(0, output, alone, loss).values())).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    broken = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    return f"gradient is not finite at {broken[0]} ({len(broken)} in all)" if broken else "gradient is finite"


SMALLEST_SCALE = 1.0  # float16's gradients overflow even unscaled: no scale will cure that


class DivergedError(TrainingError):
    """A step of which something is not finite, on this process (then `divergence` says what) or on another."""

    def __init__(self, divergence: Divergence | None, batch: Batch) -> None:
        """What happened here, if it did, with the group of images it happened on."""
        super().__init__(str(divergence))
        self.divergence, self.batch = divergence, batch


def _shares_batch(config: TrainConfig, processes: Processes) -> bool:
    """Whether the parts of one group lie on several processes."""
    return processes.count > 1 and config.group_size is None


def _forward(
    state: TrainingState, batch: Batch, config: TrainConfig, runtime: Runtime, processes: Processes
) -> tuple[Terms, ModelOutput]:
    """Loss terms and predictions of one group."""
    images = batch.images
    if _shares_batch(config, processes):  # padding is part of the image: it has anchors
        height, width = processes.largest(images.shape[2:])
        images = functional.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
    images = images.to(runtime.device, memory_format=torch.channels_last)
    with runtime.autocast():
        output = (state.network or state.model)(images)
    gt_boxes = [boxes.to(images.device) for boxes in batch.gt_boxes]
    gt_labels = [labels.to(images.device) for labels in batch.gt_labels]
    total_count = processes.total_count if _shares_batch(config, processes) else int
    return config.loss(output.logits, output.deltas, output.anchors, gt_boxes, gt_labels, total_count), output


def _divergence(
    what: str, state: TrainingState, terms: Terms, batch: Batch, config: TrainConfig, runtime: Runtime
) -> Divergence:
    """What is not finite, in which step."""
    return Divergence(
        step=state.step,
        what=what,
        terms={name: term.item() for name, term in terms.items()},
        images=tuple(sample.record.path.name for sample in batch.samples),
        precision=str(runtime.dtype).removeprefix("torch."),
        lr=config.lr,
    )


def _without_sync(state: TrainingState, is_last: bool) -> AbstractContextManager[None]:
    """Gradients are averaged over the processes once a step, with the last group's."""
    if isinstance(state.network, DistributedDataParallel) and not is_last:
        return state.network.no_sync()
    return nullcontext()


def training_step(
    state: TrainingState, groups: Sequence[Batch], config: TrainConfig, runtime: Runtime, processes: Processes = ALONE
) -> tuple[Terms, ModelOutput]:
    """One step of SGD on this process's groups; their mean loss terms, and the last group's predictions.

    Raises DivergedError, on every process alike, where a loss or a gradient is not finite, before any weight changes.
    """
    lr = config.lr_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    state.optimizer.zero_grad(set_to_none=True)
    # DDP takes the mean over processes; parts of one group are summed.
    share = processes.count if _shares_batch(config, processes) else 1 / len(groups)
    found: list[Terms] = []
    for number, batch in enumerate(groups, start=1):
        with _without_sync(state, is_last=number == len(groups)):
            terms, output = _forward(state, batch, config, runtime, processes)
            found.append(terms)
            loss = torch.stack(list(terms.values())).sum()
            fault = None
            if not math.isfinite(loss.item()):
                fault = _divergence("loss", state, terms, batch, config, runtime)
            if processes.total(int(fault is not None)):
                raise DivergedError(fault, batch)
            state.scaler.scale(loss if share == 1 else loss * share).backward()
    mean = {name: torch.stack([terms[name].detach() for terms in found]).mean() for name in terms}
    if not _update(state, config):
        whole = collate([sample for batch in groups for sample in batch.samples])  # it is the sum of all groups'
        raise DivergedError(_divergence("gradient", state, mean, whole, config, runtime), whole)
    state.step += 1
    return mean, output


def _update(state: TrainingState, config: TrainConfig) -> bool:
    """Clip and apply the gradients, which are the same on all processes; False, and nothing done, if not finite.

    DEVIATION(D24): under float16, a step whose gradients overflow is left out and the scale halved, while there is one.
    """
    state.scaler.unscale_(state.optimizer)
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not math.isfinite(norm.item()) and not state.scaler.get_scale() > SMALLEST_SCALE:
        return False
    if config.max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(state.model.parameters(), config.max_grad_norm, norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return True


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
