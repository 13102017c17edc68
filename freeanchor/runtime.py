"""Where and how fast a run goes: device, threads, precision, and signals that wait for the end of a step.

runtime = Runtime(threads=1)
with runtime.autocast():
    output = model(images)
"""

import ctypes
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Literal, TypeVar

import torch
from torch import nn

CPU_DESCRIPTION = Path("/proc/cpuinfo")  # on Linux
Model = TypeVar("Model", bound=nn.Module)
Precision = Literal["auto", "float32", "bfloat16", "float16"]
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
REPEAT_SECONDS = 2.0  # the terminal, make and torchrun may each deliver the same Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Device, threads, precision and the rhythm of logs and checkpoints; no part of a run's fingerprint.

    `threads=0` leaves torch its own choice. Precision "auto" is bfloat16 autocast where the processor multiplies
    bfloat16 in hardware, float32 elsewhere; float16 trains with gradient scaling. Losses are float32 always.
    `compiled` trains through `torch.compile`, whose sums have another order.
    """

    device: str = "cpu"
    threads: int = 0
    precision: Precision = "auto"
    num_workers: int = 0
    checkpoint_every: int = 100
    log_every: int = 10
    compiled: bool = False

    def prepare(self) -> None:
        """Set torch's thread count, and keep freed memory; called once by the front door."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)

    def place(self, model: Model) -> Model:
        """The model itself, on the device and laid out for the fastest convolutions there.

        On CPUs 1x1 convolutions are declared dilated, which changes nothing about a kernel of one pixel: torch keeps
        those of float32 from oneDNN when it has one thread and fewer than 16 images, unless they are strided or
        dilated, and takes twice as long. (It keeps a single image of at most 20,480 values from it in any case.)
        """
        model = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if torch.device(self.device).type == "cpu" and torch.backends.mkldnn.is_available():
            for module in model.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                    module.dilation = (2, 2)
        return model

    @property
    def dtype(self) -> torch.dtype:
        """The network's arithmetic under this runtime."""
        if self.precision == "auto":
            return torch.bfloat16 if has_fast_bfloat16(torch.device(self.device)) else torch.float32
        chosen: torch.dtype = getattr(torch, self.precision)
        return chosen

    @property
    def dtype_name(self) -> str:
        """Its name in records and tables: `bfloat16`."""
        return str(self.dtype).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager[None]:
        """The context to run the network in."""
        is_wide = self.dtype == torch.float32
        return torch.autocast(torch.device(self.device).type, None if is_wide else self.dtype, enabled=not is_wide)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """What keeps small gradients above float16's smallest number; does nothing at other precisions."""
        return torch.amp.GradScaler(torch.device(self.device).type, enabled=self.dtype == torch.float16)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_says("flags").split())  # float32 where it is not Linux


@lru_cache  # asked at every step, and slow to read where there are many cores
def _cpu_says(key: str) -> str:
    """What Linux says of the first processor; empty where it cannot be told."""
    try:
        with CPU_DESCRIPTION.open(encoding="utf-8") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith(key)), "")
    except OSError:  # not Linux
        return ""


def processor_name() -> str:
    """The processor's model name, as far as the system tells it."""
    return _cpu_says("model name") or platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed for the next step; elsewhere nothing is done.

    It gives large blocks back to the kernel, which clears every page of them again when they are next asked for: a
    sixth of a training step on photographs.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


class Interrupted(KeyboardInterrupt):
    """A run stopped on request between two steps, everything saved."""


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of acting on them, so that a step is never cut in half.

    A second one acts at once, unless it follows so soon that it is the same one delivered twice.
    """
    received: list[int] = []
    previous = {}
    first = 0.0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if received and time.monotonic() - first > REPEAT_SECONDS:
            raise KeyboardInterrupt
        if not received:
            first = time.monotonic()
            received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def wait_for(device: str) -> None:
    """Let a GPU finish what it was asked."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
