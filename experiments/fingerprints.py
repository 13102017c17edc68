"""Short names for configurations: the same for equal values, whatever the machine, and as the project grows.

fingerprint(TrainConfig(loss=FreeAnchorLoss()), InputConfig())      # "7b17435253"
"""

import hashlib
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

STAGE_VERSION = 1  # raise it when training computes something else from the same configuration: all is trained anew
TEST_VERSION = 2  # raise it when testing or measuring does: runs are tested and measured anew, and not trained
CONVERSION_VERSION = 1  # raise it when converting does: published checkpoints are converted and tested anew
NUM_DIGITS = 10  # of a fingerprint: a billion configurations before two are likely to collide

# Fields that came after runs had been stored. At their default they say what was silently so before: they are left out
# then, and the stored runs keep their names.
ADDED_LATER = {
    "TrainConfig": {"bias_decays", "group_size", "aspect_groups"},
    "InputConfig": {"resize", "box_convention"},
    "TorchvisionResNet": {"norm_eps", "trained_affine"},
    "InferenceConfig": {"limit_shrinkage", "clip", "drop_empty"},
    "RetinaNetLoss": {"convention"},
    "FreeAnchorLoss": {"likelihood", "excuse"},
    "ModelConfig": {"plain_deltas"},
}


def fingerprint(*values: object) -> str:
    """A short name for configuration values: ten hexadecimal digits."""
    text = _text((STAGE_VERSION, values))
    return hashlib.sha256(text.encode()).hexdigest()[:NUM_DIGITS]


def _text(value: Any) -> str:
    """A value's repr, that of a configuration without later fields at their default."""
    if isinstance(value, tuple):
        inner = ", ".join(_text(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    name = type(value).__qualname__
    later = ADDED_LATER.get(name, set())
    shown = [
        field.name
        for field in fields(value)
        if not (field.name in later and field.default is not MISSING and getattr(value, field.name) == field.default)
    ]
    return f"{name}({', '.join(f'{key}={_text(getattr(value, key))}' for key in shown)})"
