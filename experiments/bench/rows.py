"""What a benchmark says: one row per question, ours against a peer of the same run.

seconds = medians({"ours": run_ours, "torchvision": run_theirs}, repetitions=5)
row = BenchRow(subject="loss", what="forward and backward", unit="s", ours=seconds["ours"],
               peer="torchvision", theirs=seconds["torchvision"], aim=1.0, repetitions=5)
row.ratio, row.met
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from freeanchor.runtime import wait_for


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """A measured figure, its peer's, and the aim: an upper bound of their ratio, or of ours where there is no peer."""

    subject: str
    what: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float = math.nan
    aim: float = math.nan
    repetitions: int = 1
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours over theirs, lower is better; nan without a peer."""
        return self.ours / self.theirs if self.peer else math.nan

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None where none was set."""
        if math.isnan(self.aim):
            return None
        return (self.ratio if self.peer else self.ours) <= self.aim


def interleaved(
    calls: Mapping[str, Callable[[], object]], repetitions: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds by the clock of each call, in turn, after one of each to warm up.

    In turn, so that whatever disturbs one disturbs all; a ratio of medians then holds on a busy machine too.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repetitions + 1):
        for name, call in calls.items():
            wait_for(device)
            begun = time.perf_counter()
            call()
            wait_for(device)
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def medians(calls: Mapping[str, Callable[[], object]], repetitions: int, device: str = "cpu") -> dict[str, float]:
    """The median of each call's seconds, measured in turn."""
    return {name: median(own) for name, own in interleaved(calls, repetitions, device).items()}


def peak_tensor_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors that a call held over what was held before it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(max(0, held.max(initial=0)))


def growth_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost against log size by least squares: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
