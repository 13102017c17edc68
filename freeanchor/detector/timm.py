"""Any convolutional backbone of timm as images in, C2 to C5 out; needs the optional extra `timm`.

timm's `features_only` gives the maps. What the paper freezes is frozen by what it is, whatever timm calls it: every
batch norm, and all layers that the map at stride 4 comes from (authors' code).

    c2, c3, c4, c5 = TimmFeatures(TimmBackbone(name="tf_efficientnet_lite0"))(images)
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from freeanchor.errors import TimmError

STRIDES = (8, 16, 32)  # of C3, C4 and C5
FROZEN_STRIDE = 4  # the layers behind a map of this stride train, those in front of it do not
PROBE_SIDE = 64  # pixels of the image that shows which layers are in front
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)  # timm's


@dataclass(frozen=True, kw_only=True)
class TimmBackbone:
    """A backbone by timm's name for it, its batch norms and the layers up to stride 4 frozen.

    With `strided_c5` the layers behind C4, most of the weights, are left out: C5 is a strided 3x3 convolution of C4,
    from random weights, and the whole small enough to be mailed about.
    """

    name: str
    strided_c5: bool = False

    @property
    def label(self) -> str:
        """Name in tables: timm's own."""
        return f"{self.name} (to stride 16)" if self.strided_c5 else self.name


def import_timm() -> ModuleType:
    """The package; raises TimmError where it is not installed."""
    try:
        import timm
    except ImportError:
        raise TimmError("backbones of timm need the package timm; pip install timm") from None
    return timm


def create(name: str, **options: Any) -> Any:
    """timm's network, with random weights unless the options say otherwise; raises TimmError where it has none."""
    timm = import_timm()
    if not timm.is_model(name):
        raise TimmError(f"timm knows no backbone {name!r}; {_did_you_mean(name)}")
    try:
        return timm.create_model(name, **options)
    except _REFUSALS as error:
        raise TimmError(f"timm's {name} gives no feature maps ({_reason(error)}); choose a convolutional one") from None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _map_numbers(name: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    info = create(name, features_only=True).feature_info
    found = list(info.reduction())
    if missing := [stride for stride in strides if stride not in found]:
        raise TimmError(f"timm's {name} has maps at strides {found}, none at {missing[0]}; choose another")
    return tuple(info.out_indices[len(found) - 1 - found[::-1].index(stride)] for stride in strides)


class TimmFeatures(nn.Module):
    """Feature maps C2 to C5 of timm's network; `out_channels` are theirs.

    On CPUs it computes in float32 whatever the rest does: bfloat16's backward of depthwise convolutions is slow there.
    """

    def __init__(self, config: TimmBackbone) -> None:
        super().__init__()
        own = STRIDES[:2] if config.strided_c5 else STRIDES
        self.config = config
        self.options = {
            "features_only": True,
            "out_indices": _map_numbers(config.name, (FROZEN_STRIDE, *own)),
            "feature_cls": "getter" if config.strided_c5 else None,  # the one that leaves out what is behind C4
        }
        self.body = create(config.name, **self.options)
        channels = list(self.body.feature_info.channels())
        self.top: nn.Module | None = None
        if config.strided_c5:
            self.top = nn.Sequential(nn.Conv2d(channels[-1], channels[-1], 3, stride=2, padding=1), nn.ReLU())
            channels.append(channels[-1])
        self.out_channels = tuple(channels)
        self._freeze((FROZEN_STRIDE, *own))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Feature maps C2 to C5."""
        kind = images.device.type
        with torch.autocast(kind, enabled=kind != "cpu" and torch.is_autocast_enabled(kind)):
            maps: list[Tensor] = list(self.body(images))
            return maps if self.top is None else [*maps, self.top(maps[-1])]

    def train(self, mode: bool = True) -> "TimmFeatures":  # torch's own signature
        """Only the top trains; what timm drops at random, and the statistics of its norms, stay at rest."""
        super().train(mode)
        self.body.eval()
        return self

    def _freeze(self, strides: tuple[int, ...]) -> None:
        """Stop training every batch norm, and whatever the first map depends on, which an image shows."""
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(requires_grad=False)
        trained = [parameter for parameter in self.body.parameters() if parameter.requires_grad]
        self.body.eval()
        try:
            with torch.enable_grad():
                maps = self.body(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=trained[0].device))
                gradients = torch.autograd.grad(maps[0].sum(), trained, allow_unused=True)
        except _REFUSALS as error:
            raise self._refusal(f"takes no image of any size ({_reason(error)})") from None
        expected = zip(self.body.feature_info.channels(), (PROBE_SIDE // stride for stride in strides), strict=True)
        if [(one.shape[1], one.shape[2]) for one in maps] != list(expected):
            raise self._refusal("gives maps of another layout than it says")
        in_front = [one is not None for one in gradients]
        num_frozen = sum(it.numel() for it, is_in_front in zip(trained, in_front, strict=True) if is_in_front)
        if 2 * num_frozen > sum(parameter.numel() for parameter in trained):
            raise self._refusal("makes its map of stride 4 of most of its layers, which the paper freezes")
        for parameter, is_in_front in zip(trained, in_front, strict=True):
            parameter.requires_grad_(not is_in_front)

    def _refusal(self, why: str) -> TimmError:
        return TimmError(f"timm's {self.config.name} {why}; choose another")


@lru_cache(maxsize=8)
def check_backbone(name: str) -> None:
    """Raise TimmError where `TimmFeatures` cannot be made of the network of that name; no memory is taken for it.

    A fifth of a second for EfficientNet-Lite0, so that nobody need fetch weights to hear of it.
    """
    try:
        with torch.device("meta"):
            TimmFeatures(TimmBackbone(name=name))
    except TimmError:  # a few networks compute with their values while they are built, which meta's do not have
        TimmFeatures(TimmBackbone(name=name))


def input_statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation, of values 0 to 255, that timm's weights of that name were trained with."""
    mean, std = (tuple(255 * value for value in _cfg(name)[key]) for key in ("mean", "std"))
    return mean, std  # type: ignore[return-value]


def published_file(name: str) -> str:
    """The address of the ImageNet weights; raises TimmError where timm does not say.

    A release of timm's own, whose file is named by its checksum, or its hub: other addresses are those of the network's
    authors, with names that are not timm's.
    """
    cfg = _cfg(name)
    if re.search(r"-[0-9a-f]{8}\.pth$", str(cfg.get("url") or "")):
        return str(cfg["url"])
    if not cfg.get("hf_hub_id"):
        raise TimmError(f"timm does not say where the weights of {name} are; give a file with --backbone-weights FILE")
    return f"https://huggingface.co/{cfg['hf_hub_id']}/resolve/main/model.safetensors"


def tagged(name: str) -> str:
    """timm's whole name for the weights behind a name, which may move from version to version: `resnet18.a1_in1k`."""
    cfg = _cfg(name)
    return f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else str(cfg["architecture"])


def _cfg(name: str) -> Mapping[str, Any]:
    """What timm says about the pretrained weights of that name; raises TimmError where it has none."""
    import_timm()
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        found = None
    if found is None:
        raise TimmError(f"timm has no pretrained {name!r}; {_did_you_mean(name)}")
    cfg: Mapping[str, Any] = found.to_dict()
    return cfg


def _did_you_mean(name: str) -> str:
    near = difflib.get_close_matches(name, import_timm().list_models(), n=3)
    return f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has the names"
