"""Where and how fast: precision, threads, signals."""

import os
import platform
import signal
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from freeanchor import runtime as module
from freeanchor.runtime import Interrupted, Runtime, deferred_interrupts, has_fast_bfloat16, processor_name


@pytest.mark.parametrize(
    ("flags", "fast"), [("avx2 avx512f", False), ("avx512_bf16", True), ("amx_bf16 avx2", True), ("", False)]
)
def test_auto_precision_asks_the_processor(monkeypatch: pytest.MonkeyPatch, flags: str, fast: bool) -> None:
    """bfloat16 where it is multiplied in hardware, float32 elsewhere and where the system does not tell."""
    monkeypatch.setattr(module, "_cpu_says", lambda key: flags)
    assert has_fast_bfloat16(torch.device("cpu")) is fast
    assert Runtime().dtype == (torch.bfloat16 if fast else torch.float32)
    assert Runtime(precision="float32").dtype == torch.float32
    assert Runtime(precision="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_network_computes_in_the_precision_asked_for(precision: str) -> None:
    """Inside the context a matrix product has that type; outside it is float32 again."""
    matrix = torch.ones(4, 4)
    with Runtime(precision=precision).autocast():
        assert (matrix @ matrix).dtype == getattr(torch, precision)
    assert (matrix @ matrix).dtype == torch.float32


def test_memory_is_kept_and_threads_are_set_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 leaves torch its own choice of threads."""
    kept = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: kept.append(True))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Runtime(threads=0).prepare()
        assert torch.get_num_threads() == 2
        Runtime(threads=1).prepare()
        assert torch.get_num_threads() == 1
        assert len(kept) == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    """Nothing is raised, and the signal can be read off the list."""
    with deferred_interrupts() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]


def test_the_second_signal_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever presses Ctrl-C again after a while means it."""
    monkeypatch.setattr(module, "REPEAT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt), deferred_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


def test_one_signal_may_arrive_twice() -> None:
    """A terminal and make deliver the same Ctrl-C to a process: that is one wish to stop, not two."""
    with deferred_interrupts() as received:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGINT]


def test_signals_are_as_before_afterwards() -> None:
    """The former handlers come back, also after an error inside."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), deferred_interrupts():
        _ = 1 / 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interruption_passes_for_ctrl_c() -> None:
    """Code that catches errors does not swallow it."""
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)


def test_the_processor_has_a_name() -> None:
    """For provenance: never empty."""
    assert processor_name().strip()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="the fast way is oneDNN's")
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_one_pixel_go_the_fast_way(stride: int) -> None:
    """With one thread and eight images, too; values and gradients are those of the convolution as it was."""
    images = torch.randn(8, 16, 12, 20)
    plain = nn.Sequential(nn.Conv2d(16, 32, 1, stride), nn.Conv2d(32, 8, 3, padding=1))
    placed = Runtime().place(deepcopy(plain))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            out = placed(images.to(memory_format=torch.channels_last))
            out.square().mean().backward()
        expected = plain(images)
        expected.square().mean().backward()
    finally:
        torch.set_num_threads(threads)
    names = [event.key for event in profiled.key_averages()]
    assert any("mkldnn" in name for name in names) and not any("slow_conv" in name for name in names)
    torch.testing.assert_close(out, expected)
    for own, usual in zip(placed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, usual.grad)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that gives memory back")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Tensors of 64 MiB, one after the other, take their pages once; before it each takes its own."""
    code = """
import resource, torch
from freeanchor.runtime import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = page_faults()
keep_freed_memory()
page_faults()
print(given_back, page_faults())
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, answer.stdout.split())
    assert 4 * kept < given_back
