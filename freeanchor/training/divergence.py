"""A step that diverged: what is needed to see why, kept in one file, and looked at again.

save_divergence(path, model, detector, batch, loss, Divergence(...))
for line in replay(path):
    print(line)
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from freeanchor.checkpoints.native import DetectorConfig, describe, load_tensors, load_weights, restore, save_tensors
from freeanchor.data.coco import Batch
from freeanchor.detector.retinanet import ModelOutput, RetinaNet
from freeanchor.errors import CheckpointError
from freeanchor.losses import ATSS, TAL, IoUThresholds, SimOTA
from freeanchor.losses.focal import Terms
from freeanchor.runtime import Runtime
from freeanchor.training.processes import Processes
from freeanchor.training.recipe import Loss, TrainingError, loss_terms

KINDS = {kind.__name__: kind for kind in (*get_args(Loss), IoUThresholds, ATSS, SimOTA, TAL)}


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Where a training diverged: the step, what is not finite, the terms, the images, the precision."""

    step: int
    what: str
    terms: dict[str, float]
    images: tuple[str, ...]
    precision: str
    lr: float

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:g}" for name, value in self.terms.items())
        return (
            f"{self.what} is not finite at step {self.step} in {self.precision} ({values}; images "
            f"{' '.join(self.images)}); lower lr (now {self.lr:g}) in proportion to the batch"
        )


class DivergedError(TrainingError):
    """A step of which something is not finite, on this process (then `divergence` says what) or on another."""

    def __init__(self, divergence: Divergence | None, batch: Batch) -> None:
        super().__init__(str(divergence))
        self.divergence, self.batch = divergence, batch


def report_divergence(
    error: DivergedError, directory: Path, model: RetinaNet, detector: DetectorConfig, loss: Loss, processes: Processes
) -> TrainingError:
    """Keep what is needed to replay the step, and say so in one line, the same on every process."""
    words = ""
    if error.divergence is not None:
        path = directory / f"divergence-step-{error.divergence.step:06d}-process-{processes.rank}.safetensors"
        save_divergence(path, model, detector, error.batch, loss, error.divergence)
        words = f"{error.divergence}; to look at it: freeanchor replay {path}"
    first, *others = [line for line in processes.gather(words) if line]
    also = f" ({len(others)} more process(es) kept theirs beside it)" if others else ""
    return TrainingError(first + also)


def save_divergence(
    path: Path, model: RetinaNet, detector: DetectorConfig, batch: Batch, loss: Loss, divergence: Divergence
) -> None:
    """Write the weights before the step with the images as the network saw them and their objects."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["images"] = batch.images
    for image, (boxes, labels) in enumerate(zip(batch.gt_boxes, batch.gt_labels, strict=True)):
        tensors |= {f"gt_boxes.{image}": boxes, f"gt_labels.{image}": labels}
    header = {"divergence": asdict(divergence), "detector": describe(detector), "loss": _described(loss)}
    save_tensors(path, tensors, header)


def _described(value: Any) -> Any:
    """A loss, or its assigner, as json: its kind and its fields."""
    if not is_dataclass(value):
        return value
    inner = {field.name: _described(getattr(value, field.name)) for field in fields(value)}
    return {"kind": type(value).__name__, **inner}


def _restored(content: Any, path: Path) -> Any:
    if not isinstance(content, dict):
        return content
    if content["kind"] not in KINDS:
        raise CheckpointError(f"{path}: its assigner {content['kind']} is none of ours; replay cannot build it again")
    return KINDS[content["kind"]](**{name: _restored(v, path) for name, v in content.items() if name != "kind"})


def replay(path: Path, precision: str = "") -> Iterator[str]:
    """Do a saved step again on the CPU, line by line: what was seen, the first layer that is not finite, each image.

    Where the gradient was not finite, each image's own gradient is looked at too. `precision` instead of the one it
    was trained in shows whether a wider one cures it. Raises CheckpointError where the file is of another kind.
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
    loss = _restored(header["loss"], path)
    strides = model.config.anchors.strides
    for image, name in enumerate(seen.images):
        yield f"{name}: {_words(_terms_of(image, output, tensors, loss, strides), len(tensors[f'gt_boxes.{image}']))}"
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


def _terms_of(image: int, output: ModelOutput, tensors: dict[str, Tensor], loss: Loss, strides: Sequence[int]) -> Terms:
    boxes, labels = tensors[f"gt_boxes.{image}"], tensors[f"gt_labels.{image}"]
    own = replace(output, logits=output.logits[image][None], deltas=output.deltas[image][None])
    return loss_terms(loss, own, strides, [boxes], [labels])


def _words(terms: Terms, num_objects: int) -> str:
    return f"{num_objects} objects, {', '.join(f'{name} {term.item():g}' for name, term in terms.items())}"


def _gradient_of(image: int, model: RetinaNet, tensors: dict[str, Tensor], loss: Loss, runtime: Runtime) -> str:
    model.zero_grad(set_to_none=True)
    with runtime.autocast():
        output = model(tensors["images"][image][None])
    alone = {f"gt_{what}.0": tensors[f"gt_{what}.{image}"] for what in ("boxes", "labels")}
    torch.stack(list(_terms_of(0, output, alone, loss, model.config.anchors.strides).values())).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    broken = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    return f"gradient is not finite at {broken[0]} ({len(broken)} in all)" if broken else "gradient is finite"
