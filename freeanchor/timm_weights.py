"""ImageNet weights for a backbone of timm, by timm's own names: every one must be there but the classifier's.

load_timm(model.backbone, read_backbone(path), path)
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from freeanchor.conversion_layout import COUNTER, Shape, mismatches
from freeanchor.detector.timm import TimmFeatures, create
from freeanchor.errors import CheckpointError

EXAMPLES = 3  # names of each kind that a refusal gives: a wrong network's are hundreds


def check_fit(expected: Mapping[str, Shape], given: Mapping[str, Shape], path: Path, name: str) -> None:
    """Raise CheckpointError where the names and shapes of the file `path` are not those of the backbone `name`.

    One line counts the missing, unknown and misshapen tensors, and names a few of each.
    """
    wrong = [
        f"{len(names)} {kind}: {', '.join(names[:EXAMPLES])}{', …' if len(names) > EXAMPLES else ''}"
        for kind, names in mismatches(expected, given).items()
    ]
    if wrong:
        raise CheckpointError(f"{path}: does not fit {name}; {'; '.join(wrong)}; is it the file of {name}?")


def load_timm(backbone: TimmFeatures, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put `tensors` into `backbone`, in place; timm itself knows how its names become those of feature maps.

    Raises CheckpointError where names of the file `path` are missing, unknown or misshapen (`check_fit`).
    """
    name = backbone.config.name
    with torch.device("meta"):
        whole = create(name)
    classifiers = whole.default_cfg.get("classifier", ())
    no_matter = tuple(f"{it}." for it in ([classifiers] if isinstance(classifiers, str) else classifiers))

    def shapes(named: Mapping[str, Tensor]) -> dict[str, Shape]:
        return {
            key: tuple(tensor.shape)
            for key, tensor in named.items()
            if not key.startswith(no_matter) and not key.endswith(COUNTER)
        }

    expected = whole.state_dict()
    wanted = shapes(expected)
    check_fit(wanted, shapes(tensors), path, f"timm's {name}")
    filled = {
        key: tensors[key] if key in wanted else torch.zeros_like(tensor, device="cpu")
        for key, tensor in expected.items()
    }
    source = {"state_dict": filled}  # in place of a download
    logging.getLogger("timm").setLevel(logging.ERROR)  # its remarks on the classifier, which is left out on purpose
    loaded = create(name, pretrained=True, pretrained_cfg_overlay=source, **backbone.options)
    backbone.body.load_state_dict(loaded.state_dict())
