"""The training losses behind one signature: RetinaNet's (Eq. 1) and FreeAnchor's (Eq. 7)."""

from freeanchor.losses.assignment import IoUThresholds
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

__all__ = ["FreeAnchorLoss", "IoUThresholds", "RetinaNetLoss"]
