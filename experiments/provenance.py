"""Where a number comes from: commit, versions, hardware, precision, time.

provenance()     # a dict, ready for json
"""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from freeanchor.runtime import processor_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "pandas", "matplotlib")


def _git(*arguments: str) -> str:
    """What git answers in the project's folder; empty where there is no git or no repository."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def commit() -> str:
    """The commit checked out, marked where source files differ from it; "unknown" outside a repository."""
    head = _git("rev-parse", "--short=10", "HEAD")
    changed = _git("status", "--porcelain", "--", "freeanchor", "analysis", "experiments")
    return (f"{head}, changed" if changed else head) or "unknown"


def hardware(device: str) -> str:
    """The processor, or the GPU, that computes on `device`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} thread(s)"


def provenance(device: str = "cpu") -> dict[str, str]:
    """Commit, date, versions, system and hardware of this moment."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "hardware": hardware(device),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        **{package: version(package) for package in PACKAGES},
    }
