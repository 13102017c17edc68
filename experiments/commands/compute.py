"""Where and how fast a command computes: device, threads and precision of its command line, checked and put into force.

runtime = runtime_of(arguments)
"""

import argparse
import os
from typing import TYPE_CHECKING

from freeanchor.errors import UsageError

if TYPE_CHECKING:  # torch takes longer to import than some commands take to run
    from freeanchor.runtime import Runtime
    from freeanchor.training.processes import Processes


def check_device(device: str) -> None:
    """Raise UsageError where it is neither the CPU nor a GPU of CUDA, or torchrun's processes here outnumber those."""
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device {device}: torch knows no such device; give cpu, cuda or cuda:1") from None
    if parsed.type not in ("cpu", "cuda"):  # mps, xpu, meta: names of torch's that nothing here was written for
        raise UsageError(f"--device {device}: only CPUs and CUDA's GPUs are supported; give cpu, cuda or cuda:1")
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    if parsed.type == "cuda":
        _check_gpus(device, parsed.index, torch.cuda.device_count())


def _check_gpus(device: str, index: int | None, num_gpus: int) -> None:
    """Raise UsageError where a GPU of that number, or one for each process on this host, is not there."""
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_processes > 1 and index is not None:
        raise UsageError(f"--device {device}: {num_processes} processes cannot share one GPU; give --device cuda")
    if max(num_processes, (index or 0) + 1) > num_gpus:
        raise UsageError(
            f"--device {device}: {num_processes} process(es) on a host with {num_gpus} GPU(s); start as many as there "
            "are, and count them from cuda:0"
        )


def check_counts(arguments: argparse.Namespace) -> None:
    """Raise UsageError where threads or workers are fewer than none."""
    for option in ("threads", "workers"):
        if getattr(arguments, option, 0) < 0:
            raise UsageError(f"--{option} must not be negative, got {getattr(arguments, option)}")


def runtime_of(arguments: argparse.Namespace, processes: "Processes | None" = None) -> "Runtime":
    """Device, threads and precision of the command line, put into force; each process has a GPU of its own."""
    from freeanchor.runtime import Runtime

    check_device(arguments.device)
    check_counts(arguments)
    device = processes.device if processes is not None and processes.count > 1 else arguments.device
    runtime = Runtime(
        device=device,
        threads=arguments.threads,
        precision=arguments.precision,
        num_workers=arguments.workers,
        compiled=getattr(arguments, "compile", False),
    )
    runtime.prepare()
    return runtime
