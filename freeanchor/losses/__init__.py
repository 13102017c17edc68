"""The training losses behind one signature, and the rules that give anchors their objects before a loss is computed."""

from freeanchor.losses.assigned import AssignedLoss, TaskAlignedLoss
from freeanchor.losses.atss import ATSS
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.iou_thresholds import IoUThresholds
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.losses.simota import SimOTA
from freeanchor.losses.tal import TAL

__all__ = [
    "ATSS",
    "TAL",
    "AssignedLoss",
    "FreeAnchorLoss",
    "IoUThresholds",
    "RetinaNetLoss",
    "SimOTA",
    "TaskAlignedLoss",
]
