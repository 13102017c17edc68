"""Our own model files: weights in safetensors, everything else as json in the same file's header.

A model file describes itself: network, input and classes can be rebuilt from it alone. Nothing here runs code from a
file. Files are written under a temporary name and renamed, so a reader never sees half of one.

    save_model(path, model, DetectorConfig(model=..., inputs=..., category_ids=..., category_names=...))
    model, detector = load_model(path)
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.data.coco import InputConfig
from freeanchor.data.images import LARGEST_SIDE
from freeanchor.detector.backbones import SmallResNet, TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.detector.timm import TimmBackbone
from freeanchor.errors import CheckpointError, FreeAnchorError, TimmError, brief, is_line, listed, shown
from freeanchor.files import replacing

FORMAT = "freeanchor-1"
WEIGHT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64)
BACKBONES = {kind.__name__: kind for kind in (SmallResNet, TorchvisionResNet, TimmBackbone)}
MAX_HEADER = 2**24  # bytes of json in front of the weights: a detector's has some 100 kB
MAX_SCALES = 32  # of multi-scale testing: the paper has 9
MAX_DIMS = 8  # of a tensor: a convolution's has 4
LARGEST = 2**31  # of counts and numbers: larger ones are no sizes of anything here
SMALLEST = 1e-12  # of numbers but 0: what is divided by one stays finite in float32
Config = TypeVar("Config")
Shape = tuple[int, ...]


class ConfigError(FreeAnchorError):
    """A field of a configuration that is unknown, missing, of another type, or out of range."""


def nearest(name: object, known: list[str]) -> str:
    """Which of the known names may have been meant, or all of them where none is near."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def from_json(kind: type[Config], values: Any, where: str) -> Config:
    """The configuration of `kind`, a dataclass, with those `values` (lists stand for tuples); `where` is its name.

    Every field must be known, of its type and of sensible size; fields without a value have their defaults. Whether the
    values make sense together is left to the configuration's own `__post_init__`. Raises ConfigError in one line.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {brief(values)} in place of its fields")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for name in values:
        if name not in known:
            raise ConfigError(f"{where} knows no {brief(name)}; {nearest(name, known)}")
    hints = get_type_hints(kind)
    own = {name: _tuples(value) for name, value in values.items()}
    for name, value in own.items():
        if not _fits(value, hints[name]):
            raise ConfigError(f"{where}.{name} is {brief(value)}; it must be {_words(hints[name])}")
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in values]:
        raise ConfigError(f"{where} has no {missing[0]!r}; add it")
    return kind(**own)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    # Numbers must be of sensible size, counts not negative.
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is ... and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_moderate(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST
    return isinstance(value, hint)


def _is_moderate(value: float) -> bool:
    return value == 0 or SMALLEST <= abs(value) < LARGEST


def _words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        return f"a list of {'any length' if inner[-1] is ... else len(inner)}, each {_words(inner[0])}"
    names = {
        float: "a finite number of sensible size",
        int: "a whole number, 0 or more",
        bool: "true or false",
        str: "a text",
    }
    return names.get(hint, "null" if hint is NoneType else str(getattr(hint, "__name__", hint)))


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


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shape of each named tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors with a json header, atomically; equal content gives equal bytes."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(flat, temporary, metadata={FORMAT: json.dumps(header)})  # several entries have no fixed order


def check_shape(name: object, shape: Any) -> None:
    """Raises ValueError for the shape of a foreign tensor that no weight has, before anything is computed with it."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMS:
        what = f"{len(shape):,} dimensions, more than {MAX_DIMS}" if isinstance(shape, list | tuple) else "no shape"
        raise ValueError(f"{shown(name)} has {what}")
    if not all(isinstance(side, int) and 0 <= side < LARGEST for side in shape):
        raise ValueError(f"{shown(name)} has the shape {brief(list(shape))}, whose sides must be 0 to {LARGEST - 1:,}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file, no larger than the file itself.

    Raises FileNotFoundError, and SafetensorError, OSError, RecursionError or ValueError where it cannot be read.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER:
            raise ValueError(f"a header of {size:,} bytes, more than {MAX_HEADER:,}")
        header = json.loads(file.read(size))
    for name, entry in header.items() if isinstance(header, dict) else ():
        if name != "__metadata__" and isinstance(entry, dict):
            check_shape(name, entry.get("shape"))
    with safe_open(path, framework="pt") as weights:  # holds the sizes against the file's
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - it is no dict
        return tensors, weights.metadata() or {}


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file of `save_tensors`; raises CheckpointError where it is none."""
    try:
        tensors, metadata = read_safetensors(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train one, or give its path") from None
    except (SafetensorError, OSError, RecursionError, ValueError) as error:
        reason = shown(error)
        raise CheckpointError(f"{path}: not a readable safetensors file ({reason}); it may be truncated") from None
    content = metadata.get(FORMAT) or (metadata.get("header", "") if metadata.get("format") == FORMAT else None)
    if content is None:
        raise CheckpointError(f"{path}: safetensors, but not one of ours; convert foreign weights first")
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is damaged; copy or train it again")
    return tensors, header


def describe(detector: DetectorConfig) -> dict[str, Any]:
    """The configuration as json values; `restore` is its inverse."""
    content = asdict(detector)
    content["model"]["backbone"]["kind"] = type(detector.model.backbone).__name__
    return content


def restore(content: dict[str, Any]) -> DetectorConfig:
    """The configuration that `describe` wrote down; what older files do not say has its default.

    Raises CheckpointError for a field that is unknown, missing, of another type or out of range.
    """
    try:
        model = _fields(content, "model")
        backbone = _fields(model, "backbone")
        kind = backbone.pop("kind", None)
        if not isinstance(kind, str) or kind not in BACKBONES:
            raise ConfigError(f"backbone.kind is {brief(kind)}; {nearest(kind, list(BACKBONES))}")
        model["backbone"] = from_json(BACKBONES[kind], backbone, "backbone")
        model["anchors"] = from_json(AnchorConfig, model.get("anchors"), "anchors")
        own = {
            **content,
            "model": from_json(ModelConfig, model, "model"),
            "inputs": from_json(InputConfig, content.get("inputs"), "inputs"),
            "inference": from_json(InferenceConfig, content.get("inference", {}), "inference"),
        }
        return from_json(DetectorConfig, own, "detector")
    except RecursionError:
        raise CheckpointError("its values are nested too deeply") from None
    except (ValueError, TypeError, OverflowError) as error:  # the last two: an own check of a value that is far off
        raise CheckpointError(str(error)) from None


def _fields(content: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(content.get(name), dict):
        raise ConfigError(f"has no {name!r}")
    return dict(content[name])


def _check_sense(detector: DetectorConfig) -> None:
    # Each of these numbers may be, but not here or not together.
    model, inference = detector.model, detector.inference
    counts = {
        "model.pyramid_channels": (model.pyramid_channels,),
        "the number of anchors.ratios": (len(model.anchors.ratios),),
        "backbone.widths": getattr(model.backbone, "widths", ()),
        "backbone.depths": getattr(model.backbone, "depths", ()),
        "inference.short_sides": inference.short_sides,
        "inference.max_detections": (inference.max_detections,),
        "inference.max_per_level": (inference.max_per_level,),
    }
    for name, values in counts.items():
        if 0 in values:
            raise ConfigError(f"{name} is 0; it must be at least 1")
    _check_sides(detector.inputs, inference.short_sides)
    ids, names = detector.category_ids, detector.category_names
    if bad := [name for name in names if not is_line(name)]:
        raise ConfigError(f"category_names holds {brief(bad[0])}; a name is text of one line")
    if not len(set(ids)) == len(ids) == len(names) == model.num_classes:
        raise ConfigError(
            f"{len(set(ids))} category ids and {len(names)} names for {model.num_classes} classes; give each its own"
        )


def _check_sides(inputs: InputConfig, scales: tuple[int, ...]) -> None:
    largest = max(scales, default=inputs.short_side)
    sides = {
        "inputs.short_side": inputs.short_side,
        "inputs.max_long_side": inputs.max_long_side,
        "the largest of inference.short_sides": largest,
        "the long side at the largest of inference.short_sides": inputs.max_long_side * largest // inputs.short_side,
    }
    for name, side in sides.items():
        if side > LARGEST_SIDE:
            raise ConfigError(f"{name} is {side:,} px; give at most {LARGEST_SIDE:,}")
    if len(scales) > MAX_SCALES:
        raise ConfigError(f"inference.short_sides are {len(scales):,} scales; give at most {MAX_SCALES}")


def save_model(path: Path, model: RetinaNet, detector: DetectorConfig) -> None:
    """Write a model file that `load_model` can rebuild with nothing else at hand."""
    save_tensors(path, model.state_dict(), describe(detector))


def read_model(path: Path) -> tuple[dict[str, Tensor], DetectorConfig]:
    """Weights and configuration of a model file, no network built; raises CheckpointError where it is none."""
    tensors, header = load_tensors(path)
    try:
        detector = restore(header)
        _check_sense(detector)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: its configuration is not a detector's ({error}); is it a training state?"
        ) from None
    return tensors, detector


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[RetinaNet, DetectorConfig]:
    """The network of a model file in evaluation mode, with its configuration."""
    tensors, detector = read_model(path)
    _check_weights(tensors, detector.model, path)
    model = RetinaNet(detector.model)
    load_weights(model, tensors, path)
    return model.to(device).eval(), detector


def _check_weights(tensors: dict[str, Tensor], config: ModelConfig, path: Path) -> None:
    # Before memory is taken for the network that the file describes: that may be any size.
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_TYPES or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: holds values that are not finite numbers at {shown(name)}; copy or train it again"
            )
    depths = getattr(config.backbone, "depths", ())
    if sum(depths) + config.head_depth > len(tensors):  # each layer has a tensor of its own
        raise CheckpointError(f"{path}: holds {len(tensors)} tensors, too few for the network; it may be another's")
    try:
        with torch.device("meta"):
            shapes = shapes_of(RetinaNet(config).state_dict())
    except TimmError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: describes no network that can be built ({reason}); copy it again") from None
    _compare(shapes, tensors, path)


def load_weights(model: RetinaNet, tensors: dict[str, Tensor], path: Path) -> None:
    """Put `tensors` into `model`; every name and shape must be matched, or a CheckpointError lists what is not."""
    _compare(shapes_of(model.state_dict()), tensors, path)
    model.load_state_dict(tensors)


def _compare(own: dict[str, Shape], tensors: dict[str, Tensor], path: Path) -> None:
    given = shapes_of(tensors)
    if own != given:
        wrong = sorted(name for name in own.keys() | given.keys() if own.get(name) != given.get(name))
        raise CheckpointError(
            f"{path}: does not fit the network at {listed(wrong)} ({len(wrong)} in all); it may be another's"
        )
