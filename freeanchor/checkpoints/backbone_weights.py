"""ImageNet weights that a backbone starts training from: torchvision's and timm's, and Caffe2's pickled blobs.

Every name must be matched, but the classifier's. Caffe2's ResNets (MSRA) want their strides in the 1x1 and BGR input,
which no file says. Whole detectors are `convert.py`'s.

    load_backbone(model.backbone, read_backbone(Path("R-50.pkl")), Path("R-50.pkl"))
"""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from freeanchor.checkpoints.convert import COUNTER, mismatches
from freeanchor.checkpoints.foreign_files import read_weights
from freeanchor.checkpoints.native import Shape, shapes_of
from freeanchor.detector.backbones import Backbone
from freeanchor.detector.timm import TimmFeatures, create
from freeanchor.errors import CheckpointError, listed

NO_WEIGHTS = re.compile(r"fc\.(weight|bias)|(fc1000|pred|last_out_L1000)_[wb]|.*_momentum")  # classifiers, optimiser
LARGEST_STEM_BIAS = 1e-6  # Caffe's ResNet-50 has a bias before its first norm, which training left at nothing
BLOB_SUFFIXES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def read_backbone(path: Path) -> dict[str, Tensor]:
    """The weights of a torch file or a .pkl of Caffe2, by the names of the file, classifier and optimiser left out.

    Raises CheckpointError where the file cannot be read, or wants more than weights.
    """
    tensors = read_weights(path)
    stem_bias = tensors.get("conv1_b")
    if stem_bias is not None and bool(stem_bias.abs().max() < LARGEST_STEM_BIAS):
        tensors = {name: tensor for name, tensor in tensors.items() if name != "conv1_b"}
    return {name: t for name, t in tensors.items() if not NO_WEIGHTS.fullmatch(name) and not name.endswith(COUNTER)}


def load_backbone(backbone: Backbone | TimmFeatures, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the weights of `read_backbone` into `backbone`, in place.

    Caffe2's files have the statistics folded into scale and bias: theirs become neutral. Raises CheckpointError where
    names, given as the file has them, are missing, unknown or misshapen, and for a narrow ResNet, which nobody
    publishes.
    """
    if isinstance(backbone, TimmFeatures):
        _load_timm(backbone, tensors, path)
        return
    stem = backbone.get_submodule("stem.0")
    if not isinstance(stem, nn.Conv2d) or stem.kernel_size != (7, 7):
        raise CheckpointError(
            f"{path}: a narrow ResNet has no published weights; train it from scratch, or choose another"
        )
    own = {name: tensor for name, tensor in backbone.state_dict().items() if not name.endswith(COUNTER)}
    naming = _naming(own, tensors)
    filled = {}
    if naming is _caffe2_name and not any(name.endswith(("_rm", "_riv")) for name in tensors):
        filled = _neutral_statistics(backbone)
    names = {name: naming(name) for name in own if name not in filled}
    _check_fit(
        {foreign: tuple(own[name].shape) for name, foreign in names.items()},
        shapes_of(tensors),
        path,
        _network_name(backbone),
    )
    values = {name: tensors[foreign] for name, foreign in names.items()} | filled
    backbone.load_state_dict(backbone.state_dict() | values)


def _torchvision_name(name: str) -> str:
    name = name.replace("stem.0.", "conv1.").replace("stem.1.", "bn1.")
    return re.sub(r"^stages\.(\d)\.", lambda match: f"layer{int(match[1]) + 1}.", name)


def _caffe2_name(name: str) -> str:
    # Such as res2_0_branch2a_w for the first block's first convolution.
    module, _, tensor = name.rpartition(".")
    is_norm = re.search(r"(^stem\.1|bn\d|downsample\.1)$", module) is not None
    suffix = f"bn_{BLOB_SUFFIXES[tensor]}" if is_norm else "w"
    if module.startswith("stem."):
        return f"res_conv1_{suffix}" if is_norm else f"conv1_{suffix}"
    _, stage, block, part, *_ = module.split(".")
    branch = "branch1" if part == "downsample" else f"branch2{'abc'[int(part[-1]) - 1]}"
    return f"res{int(stage) + 2}_{block}_{branch}_{suffix}"


def _naming(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Callable[[str], str]:
    # Whichever finds more of the backbone's tensors in the file.
    return max((_torchvision_name, _caffe2_name), key=lambda naming: sum(naming(name) in tensors for name in own))


def _neutral_statistics(backbone: Backbone) -> dict[str, Tensor]:
    """Means and variances under which a norm multiplies and shifts by its weights alone: 0, and 1 minus its eps."""
    from torchvision.ops import FrozenBatchNorm2d

    statistics = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            variance: Tensor = module.get_buffer("running_var")
            statistics[f"{name}.running_mean"] = torch.zeros_like(variance)
            statistics[f"{name}.running_var"] = torch.full_like(variance, 1 - module.eps)
    return statistics


def _network_name(backbone: Backbone) -> str:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    # torchvision's name counts the convolutions of the blocks, two or three each, the stem and the classifier.
    blocks = [one for one in backbone.stages.modules() if isinstance(one, BasicBlock | Bottleneck)]
    layers = 2 + sum(3 if isinstance(block, Bottleneck) else 2 for block in blocks)
    groups, channels = blocks[0].conv2.groups, blocks[0].conv2.out_channels
    return f"resnext{layers}_{groups}x{channels // groups}d" if groups > 1 else f"resnet{layers}"


def _load_timm(backbone: TimmFeatures, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put `tensors` into `backbone`, in place; timm itself knows how its names become those of feature maps."""
    name = backbone.config.name
    with torch.device("meta"):
        whole = create(name)
    classifiers = whole.default_cfg.get("classifier", ())
    no_matter = tuple(f"{it}." for it in ([classifiers] if isinstance(classifiers, str) else classifiers))

    def weights(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: t for key, t in named.items() if not key.startswith(no_matter) and not key.endswith(COUNTER)}

    expected = whole.state_dict()
    wanted = weights(expected)
    _check_fit(shapes_of(wanted), shapes_of(weights(tensors)), path, f"timm's {name}")
    filled = {key: tensors[key] if key in wanted else torch.zeros_like(t, device="cpu") for key, t in expected.items()}
    source = {"state_dict": filled}  # in place of a download
    logging.getLogger("timm").setLevel(logging.ERROR)  # its remarks on the classifier, which is left out on purpose
    loaded = create(name, pretrained=True, pretrained_cfg_overlay=source, **backbone.options)
    backbone.body.load_state_dict(loaded.state_dict())


def _check_fit(expected: Mapping[str, Shape], given: Mapping[str, Shape], path: Path, name: str) -> None:
    # One line counts the missing, unknown and misshapen tensors, and names a few of each.
    wrong = [f"{len(names)} {kind}: {listed(names)}" for kind, names in mismatches(expected, given).items()]
    if wrong:
        raise CheckpointError(f"{path}: does not fit {name}; {'; '.join(wrong)}; is it the file of {name}?")
