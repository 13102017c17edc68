"""Checkpoints: weights in safetensors, everything else as json in the same file's header.

A model file describes itself: network, input and classes can be rebuilt from it alone. Nothing here runs code from a
file. Files are written under a temporary name and renamed, so a reader never sees half of one.

    save_model(path, model, DetectorConfig(model=..., inputs=..., category_ids=..., category_names=...))
    model, detector = load_model(path)
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.backbones import SmallResNet, TorchvisionResNet
from freeanchor.data import InputConfig
from freeanchor.model import ModelConfig, RetinaNet
from freeanchor.postprocess import InferenceConfig

FORMAT = "freeanchor-1"
BACKBONES = {kind.__name__: kind for kind in (SmallResNet, TorchvisionResNet)}


class CheckpointError(ValueError):
    """A checkpoint that is missing, broken or of another kind; one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What inference needs beside the weights: the network, its input, and the classes behind labels 0..K-1.

    `inference` is how the detector is meant to be used. `detector` says which of the two was trained, where that is
    known; only mmdetection's format, whose coding of boxes differs between them, asks for it.
    """

    model: ModelConfig
    inputs: InputConfig
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    detector: Literal["RetinaNet", "FreeAnchor"] | None = None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors with a json header, atomically."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary, metadata={"format": FORMAT, "header": json.dumps(header)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `save_tensors`; raises CheckpointError where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train one, or give its path") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}); it may be truncated") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: safetensors, but not one of ours; convert foreign weights first")
    return tensors, json.loads(metadata["header"])


def describe(detector: DetectorConfig) -> dict[str, Any]:
    """The configuration as json values; `restore` is its inverse."""
    content = asdict(detector)
    content["model"]["backbone"]["kind"] = type(detector.model.backbone).__name__
    return content


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Json's lists as the tuples that frozen configurations hold."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def restore(content: dict[str, Any]) -> DetectorConfig:
    """The configuration that `describe` wrote down; what older files do not say has its default."""
    model = dict(content["model"])
    backbone = _tuples(model.pop("backbone"))
    kind = BACKBONES[backbone.pop("kind")]
    anchors = AnchorConfig(**_tuples(model.pop("anchors")))
    return DetectorConfig(
        model=ModelConfig(backbone=kind(**backbone), anchors=anchors, **model),
        inputs=InputConfig(**_tuples(content["inputs"])),
        category_ids=tuple(content["category_ids"]),
        category_names=tuple(content["category_names"]),
        inference=InferenceConfig(**_tuples(content.get("inference", {}))),
        detector=content.get("detector"),
    )


def save_model(path: Path, model: RetinaNet, detector: DetectorConfig) -> None:
    """Write a model file that `load_model` can rebuild with nothing else at hand."""
    save_tensors(path, model.state_dict(), describe(detector))


def read_model(path: Path) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Weights and configuration of a model file, no network built; raises CheckpointError where it is none."""
    tensors, header = load_tensors(path)
    try:
        return tensors, restore(header)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its configuration is not a detector's ({error}); is it a training state?"
        ) from None


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[RetinaNet, DetectorConfig]:
    """The network of a model file in evaluation mode, with its configuration."""
    tensors, detector = read_model(path)
    model = RetinaNet(detector.model)
    load_weights(model, tensors, path)
    return model.to(device).eval(), detector


def load_weights(model: RetinaNet, tensors: dict[str, Tensor], path: Path) -> None:
    """Put `tensors` into `model`; every name and shape must be matched, or a CheckpointError lists what is not."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    if own != given:
        wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        raise CheckpointError(f"{path}: does not fit the network at {', '.join(wrong[:5])} ({len(wrong)} in all)")
    model.load_state_dict(tensors)
