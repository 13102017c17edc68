"""ImageNet weights for a backbone of timm, by timm's own names: every one must be there but the classifier's.

load_timm(model.backbone, read_backbone(path), path)
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from freeanchor.checkpoints import CheckpointError
from freeanchor.conversion_layout import COUNTER, mismatches
from freeanchor.timm_backbones import TimmFeatures, create


def load_timm(backbone: TimmFeatures, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put `tensors` into `backbone`, in place; timm itself knows how its names become those of feature maps.

    Raises CheckpointError that lists every missing, unknown or misshapen name of the file `path`.
    """
    name = backbone.config.name
    with torch.device("meta"):
        whole = create(name)
    classifiers = whole.default_cfg.get("classifier", ())
    no_matter = tuple(f"{it}." for it in ([classifiers] if isinstance(classifiers, str) else classifiers))

    def shapes(named: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {
            key: tuple(tensor.shape)
            for key, tensor in named.items()
            if not key.startswith(no_matter) and not key.endswith(COUNTER)
        }

    expected = whole.state_dict()
    if wrong := mismatches(shapes(expected), shapes(tensors)):
        raise CheckpointError(f"{path}: does not fit timm's {name}; {'; '.join(wrong)}")
    wanted = shapes(expected)
    filled = {
        key: tensors[key] if key in wanted else torch.zeros_like(tensor, device="cpu")
        for key, tensor in expected.items()
    }
    source = {"state_dict": filled}  # in place of a download
    logging.getLogger("timm").setLevel(logging.ERROR)  # its remarks on the classifier, which is left out on purpose
    loaded = create(name, pretrained=True, pretrained_cfg_overlay=source, **backbone.options)
    backbone.body.load_state_dict(loaded.state_dict())
