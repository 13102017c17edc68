"""One process or many: the same training and testing, started by `torchrun` or not.

Under `torchrun` every process runs the same script on its share of the images; without it there is one process, and
nothing here does anything. Collectives are torch's own (NCCL between GPUs, gloo between CPUs).

    with process_group("cuda") as processes:
        mine = processes.share(images)
        number = processes.total(len(mine))
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx

from freeanchor.errors import FreeAnchorError

TIMEOUT = timedelta(minutes=30)  # longer than any one process works alone: reading COCO's json, writing a checkpoint
T = TypeVar("T")


class LostProcessError(FreeAnchorError):
    """Another process of the group is gone: nothing more can be computed together."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all: its number `rank` of `count`; the first writes files and talks."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's items: every `count`-th, so that all shares together are the whole, once."""
        return items[self.rank :: self.count]

    def total(self, number: float) -> float:
        """The sum of a number over all processes."""
        return self._reduce([number], distributed.ReduceOp.SUM)[0] if self.count > 1 else number

    def total_count(self, number: int) -> int:
        """The sum of a whole number over all processes."""
        return round(self.total(number))

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """The largest of each number over all processes."""
        if self.count == 1:
            return list(numbers)
        return [round(number) for number in self._reduce(numbers, distributed.ReduceOp.MAX)]

    def _reduce(self, numbers: Sequence[float], operation: Any) -> list[float]:
        """Numbers reduced over all processes, in float64: counts of objects are exact."""
        values = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        with lost_processes():
            distributed.all_reduce(values, op=operation)
        return values.tolist()

    def gather(self, content: T) -> list[T]:
        """Everybody's content, in the order of ranks, known to everybody."""
        if self.count == 1:
            return [content]
        found: list[Any] = [None] * self.count
        with lost_processes():
            distributed.all_gather_object(found, content)
        return found

    def from_main(self, content: T | None) -> T:
        """The first process's content, known to everybody."""
        found: list[Any] = [content]
        if self.count > 1:
            with lost_processes():
                distributed.broadcast_object_list(found, src=0)
        return found[0]

    def wait(self) -> None:
        """Go on when all have come here."""
        self.total(0)


ALONE = Processes()


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn a collective's failure into LostProcessError, one line, since nobody here is to blame for it."""
    try:
        yield
    except RuntimeError as error:
        if not _is_about_contact(error):
            raise
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0])[:120]  # gloo begins with a place in its source
        raise LostProcessError(f"lost contact with another process ({reason})") from None


def _is_about_contact(error: RuntimeError) -> bool:
    """Whether an error is the network's, not the computation's: gloo raises a plain RuntimeError for both."""
    signs = ("gloo", "nccl", "peer", "connection", "timed out", "socket")
    return isinstance(error, distributed.DistError) or any(sign in str(error).lower() for sign in signs)


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """This process's place among those that `torchrun` started; alone without it.

    "cuda" becomes this process's own GPU on its host.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    with lost_processes():
        distributed.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield Processes(rank=distributed.get_rank(), count=count, device=device)
    finally:
        distributed.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: FunctionCtx, tensor: Tensor) -> Tensor:
        """The sum, in a new tensor."""
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: FunctionCtx, *gradients: Tensor) -> Tensor:
        """Every process's result depends on this one's input."""
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes.

    As torch's SyncBatchNorm, which refuses tensors on the CPU: the mean first, then the squares about it, in float32.
    """

    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        """Normalise with the whole batch's statistics while training, with the stored ones otherwise."""
        if not self.training:
            return super().forward(input)
        features = input.float()
        count = _SumOverProcesses.apply(features.new_tensor(features.numel() / features.shape[1]))
        mean = _SumOverProcesses.apply(features.sum(dim=(0, 2, 3))) / count
        centred = features - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().sum(dim=(0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * (self.weight / (variance + self.eps).sqrt())[:, None, None] + self.bias[:, None, None]
        return scaled.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)


def sync_batch_norm(model: nn.Module) -> None:
    """Put `SyncedBatchNorm` in the place of every batch norm that trains; weights and statistics stay the same."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.BatchNorm2d and module.training:
                synced = SyncedBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
                synced.weight, synced.bias = module.weight, module.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(synced, buffer, getattr(module, buffer))
                setattr(parent, name, synced)
