"""Analyses of any detector's output: arrays and frames in, frames and figures out; knows no model, imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.api import (
        GaussianSoftNms,
        HardNms,
        LinearSoftNms,
        Protocol,
        Result,
        compare,
        evaluate,
        nms_recall,
    )

__all__ = [
    "GaussianSoftNms",
    "HardNms",
    "LinearSoftNms",
    "Protocol",
    "Result",
    "compare",
    "evaluate",
    "nms_recall",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("analysis.api"), name)
