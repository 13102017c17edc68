"""The background pass on a GPU: Triton's kernels equal the eager pass, and neither waits for the device.

Without a GPU Triton's interpreter runs the kernels, and CPU tensors take the way of asynchronous devices.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from freeanchor.losses import focal
from freeanchor.losses.focal import background_focal_loss, places_where, rising

fused = pytest.importorskip("freeanchor.losses.fused", reason="Triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Rounding of the logits' precision: once in the kernels, twice for bfloat16 in the eager pass.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-10}
GAMMAS = [0.0, 1.0, 1.5, 2.0, 2.5, 11.0]
Results = tuple[Tensor, Tensor, Tensor]


def _case(seed: int, dtype: torch.dtype = torch.float32, most: int = 5000) -> tuple[Tensor, Tensor]:
    """Logits from -14 to 14 of some length, and exceptions: scattered, a whole run of them, at the ends, or none."""
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(1, most, (), generator=generator))
    logits = (4 * torch.randn(size, generator=generator) - 3).clamp(-14, 14).to(dtype)
    scattered = torch.randint(size, (seed % 3 * 20,), generator=generator)
    run = torch.arange(size // 3, min(size, size // 3 + seed % 5 * 100))
    ends = torch.tensor([0, size - 1])[: seed % 4]
    return logits.to(DEVICE), torch.cat([scattered, run, ends]).unique().to(DEVICE)


def _results(logits: Tensor, exceptions: Tensor, gamma: float, scale: float = 1.0) -> Results:
    """The sum, the exceptions' logits, and the gradient of a function of both."""
    leaf = logits.clone().requires_grad_()
    background, few = background_focal_loss(leaf, exceptions, gamma)
    (gradient,) = torch.autograd.grad(scale * 3 * background + few[exceptions < leaf.numel()].square().sum(), leaf)
    return background.detach(), few.detach(), gradient


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch):
    """Results of the kernels and of the eager pass on the same input."""

    def results(*arguments: object) -> tuple[Results, Results]:
        found = []
        for kernels in (fused, None):
            monkeypatch.setattr(focal, "kernels_for", lambda device, kernels=kernels: kernels)
            found.append(_results(*arguments))
        return found[0], found[1]

    return results


def _assert_equal(fused_results: Results, eager_results: Results, rtol: float) -> None:
    for ours, expected in zip(fused_results, eager_results, strict=True):
        assert ours.dtype == expected.dtype
        # Below float16's and bfloat16's normal numbers, rounding is no longer relative.
        least = 4 * torch.finfo(ours.dtype).tiny
        torch.testing.assert_close(ours, expected, rtol=rtol, atol=least)


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 1000), marks=pytest.mark.slow)], ids=len)
def test_kernels_equal_the_eager_pass_on_random_cases(compare, seeds: range) -> None:
    """In float32 the sum and the gradient (over its largest) agree within 1e-6.

    Score by score the gradient is within 1.5e-6 of the float64 one, nearer than the eager pass's own.
    """
    for seed in seeds:
        (logits, exceptions), gamma = _case(seed), GAMMAS[seed % 5]
        ours, expected = compare(logits, exceptions, gamma)
        torch.testing.assert_close(ours[:2], expected[:2], rtol=1e-6, atol=1e-37)
        assert (ours[2] - expected[2]).abs().max() <= 1e-6 * expected[2].abs().max()
        exact = compare(logits.double(), exceptions, gamma)[1][2]
        torch.testing.assert_close(ours[2].double(), exact, rtol=1.5e-6, atol=1e-37)


@pytest.mark.parametrize(("dtype", "rtol"), TOLERANCES.items(), ids=str)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_kernels_equal_the_eager_pass_in_every_precision(compare, gamma: float, dtype, rtol: float) -> None:
    """Results have the eager pass's types, and its values up to rounding, of which high powers have more."""
    _assert_equal(*compare(*_case(14, dtype), gamma), rtol=rtol * max(1, gamma / 2.5))


@pytest.mark.parametrize("gamma", GAMMAS[:5])
def test_kernels_are_exact_far_from_zero(monkeypatch: pytest.MonkeyPatch, gamma: float) -> None:
    """From -25 to 60 float32 keeps 1.5e-6 of the float64 gradient, infinities and NaN are what they are eagerly."""
    monkeypatch.setattr(focal, "kernels_for", lambda device: fused)
    logits = torch.linspace(-25, 60, 1001, device=DEVICE)
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE)
    gradient = _results(logits, nothing, gamma)[2]
    monkeypatch.setattr(focal, "kernels_for", lambda device: None)
    torch.testing.assert_close(gradient.double(), _results(logits.double(), nothing, gamma)[2], rtol=1.5e-6, atol=1e-37)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, in the interpreter
@pytest.mark.parametrize("value", [float("-inf"), float("inf"), float("nan"), -1e30, -200.0, -100.0, 1e30])
def test_kernels_keep_what_is_not_finite(compare, value: float) -> None:
    """A loss that diverges must show: infinities and NaN come out as they do of the eager pass."""
    logits = torch.tensor([-1.0, value, 0.5], device=DEVICE)
    for ours, expected in zip(*compare(logits, torch.tensor([2], device=DEVICE), 2.0), strict=True):
        torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-6, atol=1e-37)


def test_float16_gradients_are_scaled_before_they_are_rounded(compare) -> None:
    """Gradients that only a loss scale lifts above float16's smallest number survive."""
    logits = torch.full((8,), -8.0, dtype=torch.float16, device=DEVICE)
    ours, expected = compare(logits, torch.empty(0, dtype=torch.int64, device=DEVICE), 2.0, 2.0**13)
    assert (ours[2] > 0).all()
    torch.testing.assert_close(ours[2], expected[2], rtol=1e-3, atol=0)


def test_kernels_read_a_slice_that_is_not_contiguous(compare) -> None:
    """Transposed logits give the transposed gradient; a second call gives the same bits."""
    logits = _case(14)[0][:120].view(3, 40).T
    ours, expected = compare(logits, torch.tensor([3, 77], device=DEVICE), 2.0)
    _assert_equal(ours, expected, rtol=1e-6)
    again = compare(logits, torch.tensor([3, 77], device=DEVICE), 2.0)[0]
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


def test_an_empty_batch_has_no_loss(compare) -> None:
    """No scores, no kernel."""
    empty = torch.empty(0, device=DEVICE)
    assert compare(empty, torch.empty(0, dtype=torch.int64, device=DEVICE), 2.0)[0][0].item() == 0


@pytest.mark.parametrize("piece", [1, 64, 10_000])
@pytest.mark.parametrize("kernels", [None, fused], ids=["eager", "fused"])
def test_exceptions_beyond_the_end_change_nothing(monkeypatch: pytest.MonkeyPatch, kernels, piece: int) -> None:
    """On an asynchronous device the vector of exceptions is filled up with places that are no scores."""
    logits, exceptions = _case(14, torch.float64, most=400)
    expected = _results(logits, exceptions, 2.0)
    monkeypatch.setattr(focal, "is_asynchronous", lambda device: True)
    monkeypatch.setattr(focal, "kernels_for", lambda device: kernels)
    monkeypatch.setattr(focal, "PIECE_ON_ACCELERATOR", piece)
    filled = torch.cat([exceptions, exceptions.new_full((7,), len(logits))])
    background, few, gradient = _results(logits, filled, 2.0)
    for ours, other in zip((background, few[: len(exceptions)], gradient), expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=0)


def test_rising_fills_up_where_shapes_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places in order, each once; on an asynchronous device the vector keeps its length. None stay none."""
    places = torch.tensor([5, 3, 5, 9, 3, 0])
    assert rising(places, 20).tolist() == [0, 3, 5, 9]
    monkeypatch.setattr(focal, "is_asynchronous", lambda device: True)
    assert rising(places, 20).tolist() == [0, 3, 5, 9, 20, 20]
    assert rising(places[:0], 20).tolist() == []


def test_places_are_the_same_with_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways list where masks of any shape hold, in order."""
    masks = torch.rand(4, 30, generator=torch.Generator().manual_seed(0)) > 0.7, torch.tensor([False, True])
    expected = [places.tolist() for places in places_where(*masks)]
    assert expected[1] == [1] and len(expected[0]) == int(masks[0].sum())
    monkeypatch.setattr(focal, "is_asynchronous", lambda device: True)
    assert [places.tolist() for places in places_where(*masks)] == expected


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from freeanchor.losses import fused

numbers = sys.argv[1]
wide = fused.tl.float64 if numbers == "fp64" else fused.tl.float32
constants = {"GAMMA": float(sys.argv[2]), "WHOLE": int(float(sys.argv[2])), "BLOCK": fused.BLOCK, "WIDE": wide}
types = {"logits": numbers, "gradient": numbers, "of_sum": wide.name, "of_few": wide.name, "partials": "fp64"}
for kernel in (fused._sum_kernel, fused._gradient_kernel):
    signature = {name: "constexpr" if name in constants else f"*{types.get(name, 'i64')}" for name in kernel.arg_names}
    signature["size"] = "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("numbers", "gamma"), [("fp32", "2"), ("bf16", "2"), ("fp16", "1.5"), ("fp64", "0")])
def test_kernels_compile_for_a_gpu(numbers: str, gamma: str) -> None:
    """Triton makes machine code of both for an H100, which needs none at hand."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "compile.py"
        script.write_text(COMPILE, encoding="utf-8")
        command = [sys.executable, str(script), numbers, gamma]
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": folder}
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
