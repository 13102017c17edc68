"""The detector of *FreeAnchor* (NeurIPS 2019) beside its baseline: images in, candidates and detections out.

Axis letters in shape annotations, everywhere in this package:

    B images in a batch     A anchors over all levels     G objects (ground truth)     K classes
    L pyramid levels        n anchors in a bag            D candidates or detections   H, W pixels or cells

The paper's symbols and the words the code uses for them:

    n bag_size · t match_iou · tau tau · beta box_weight · alpha alpha · gamma gamma · rho prior_prob
    P^cls cls_prob · P^loc loc_prob · P{a->b} match_prob · P{a in A-} background_prob · C_ij assignment
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freeanchor.losses.free_anchor import FreeAnchorLoss
    from freeanchor.losses.retinanet import RetinaNetLoss

__all__ = ["FreeAnchorLoss", "RetinaNetLoss"]


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for: parts that do without torch need not wait for its import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("freeanchor.losses"), name)
