"""`make bench`: its pieces at a size of seconds, and its page; no time is judged here."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from oracles.inputs import random_inputs
from torchvision.ops import batched_nms

from experiments.bench import inference
from experiments.bench import loss as loss_bench
from experiments.bench import main as bench
from experiments.bench.inference import bench_inference, bench_nms
from experiments.bench.loss import bench_loss
from experiments.bench.rows import BenchRow, growth_exponent, interleaved, peak_tensor_bytes
from experiments.bench.step import bench_shapes_step, write_step_costs
from freeanchor.detector.postprocess import nms_by_class
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.reference import dense_loss
from freeanchor.runtime import Runtime


def _row(ours: float, theirs: float = math.nan, aim: float = math.nan) -> BenchRow:
    return BenchRow(
        subject="loss", what="a step", unit="s", ours=ours, peer="" if math.isnan(theirs) else "them", theirs=theirs,
        aim=aim,
    )  # fmt: skip


def test_the_dense_layout_has_our_losses_values_and_gradients() -> None:
    """The peer that ours is timed against computes the same thing: 1e-9 in float64, gradients too."""
    loss = FreeAnchorLoss(bag_size=5)
    results = []
    for function in (lambda *it: tuple(loss(*it).values()), lambda *it: dense_loss(loss, *it)):
        inputs = random_inputs(3).leaves()
        terms = function(*inputs.arguments())
        results.append((*terms, *torch.autograd.grad(sum(terms), (inputs.logits, inputs.deltas))))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_the_peak_counts_what_is_held_at_once() -> None:
    """Two temporaries one after the other peak at one, held together at two; what is freed again does not add up."""
    million = 4 * 10**6  # bytes of a million float32

    def one_by_one() -> None:
        for _ in range(3):
            torch.empty(10**6)

    held = peak_tensor_bytes(lambda: [torch.empty(10**6), torch.empty(10**6)])
    assert million <= peak_tensor_bytes(one_by_one) < 1.1 * million
    assert 2 * million <= held < 2.1 * million


def test_the_losses_memory_is_at_most_twice_the_logits(monkeypatch) -> None:
    """Forward and backward of FreeAnchorLoss hold at most 2.0 times the logits' bytes beyond the inputs."""
    monkeypatch.setattr(loss_bench, "CROWDS", (4, 8))  # the thousand objects of a crowd take seconds
    rows = [row for row in bench_loss(repetitions=1, scale=0.25) if row.unit == "MB" and row.peer]
    assert len(rows) == 2
    assert all(row.met and row.ratio <= 2.0 for row in rows)


def test_an_exponent_is_the_slope_in_logarithms() -> None:
    """Quadratic cost has exponent 2, constant cost 0."""
    assert growth_exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert growth_exponent([1, 2, 4, 8], [5, 5, 5, 5]) == pytest.approx(0)


def test_calls_are_timed_in_turn_after_a_warm_up() -> None:
    """Each call runs once untimed, then `repetitions` times, alternating with the others."""
    order: list[str] = []
    seconds = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(own) for name, own in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("row", "met"),
    [(_row(1, 2, 0.5), True), (_row(1.1, 2, 0.5), False), (_row(3, aim=3), True), (_row(4, aim=3), False), (_row(1, 2), None)],
)  # fmt: skip
def test_an_aim_bounds_the_ratio_or_our_own_figure(row: BenchRow, met: bool | None) -> None:
    """With a peer the aim is of the ratio, without one of ours; without an aim nothing is met or missed."""
    assert row.met is met


def test_the_page_has_a_line_a_row_and_says_what_was_missed(monkeypatch, tmp_path) -> None:
    """`main` writes the csv, the page with hardware and commit, and the figure; an unmet aim is said to be."""
    monkeypatch.setitem(bench.SUBJECTS, "loss", lambda *_: [_row(1, 2, 0.4), _row(7)])
    bench.main(["--out", str(tmp_path), "--only", "loss", "--threads", "1"])
    frame = pd.read_csv(tmp_path / "benchmarks.csv")
    assert frame.ratio.tolist()[0] == 0.5
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert "| loss: a step | 1 s | them: 2 s | 0.50 | ≤ 0.4 | **no** |" in page
    assert "| loss: a step | 7 s | – | – | – | – |" in page
    assert page.strip().splitlines()[-1].startswith("- loss: ")
    assert (tmp_path / "benchmarks.png").stat().st_size > 10_000


def test_other_subjects_already_in_the_table_stay(monkeypatch, tmp_path) -> None:
    """One subject measured again replaces its own rows only, in the table's order, and reads back what it wrote."""
    for name, ours in (("step", 5.0), ("loss", 1.0), ("loss", 3.0)):
        monkeypatch.setitem(bench.SUBJECTS, name, lambda *_, ours=ours: [_row(ours, 2, 1)])
        bench.main(["--out", str(tmp_path), "--only", name, "--threads", "1"])
    frame = pd.read_csv(tmp_path / "benchmarks.csv")
    assert list(zip(frame.group, frame.ours, frame.met, strict=True)) == [("loss", 3.0, False), ("step", 5.0, False)]
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert page.count("| loss: a step | 3 s | them: 2 s | 1.50 | ≤ 1 | **no** |") == 1


def test_step_costs_are_written_as_they_were_measured(tmp_path) -> None:
    """From the committed figures: the same csv, with the ratios found again, and the same page."""
    kept = Path(__file__).parents[3] / "reports" / "coco"
    frame = pd.read_csv(kept / "step_cost.csv", keep_default_na=False)
    write_step_costs(frame.drop(columns="ratio"), tmp_path)
    for name in ("step_cost.csv", "step_cost.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (kept / name).read_text(encoding="utf-8")


def test_an_unknown_subject_is_refused(capsys) -> None:
    """A name that is none ends with status 2 and lists those that are."""
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--only", "speed"])
    assert "inference" in capsys.readouterr().err


def test_a_steps_parts_add_up_to_its_rate() -> None:
    """On `shapes` the images a second are the batch over the sum of the parts."""
    rate, *parts = bench_shapes_step(Runtime(threads=1, precision="float32"), 1)
    assert rate.ours == pytest.approx(8 / sum(row.ours for row in parts))
    assert all(row.ours > 0 for row in parts)


def test_inference_is_timed_on_equal_detectors() -> None:
    """Both rows are about the same call of ours, in seconds per image."""
    rows = bench_inference(Runtime(threads=1, precision="float32"), 1, scale=0.1)
    assert {row.peer for row in rows} == {"torchvision's retinanet_resnet50_fpn", "ours without NMS recall"}
    assert len({row.ours for row in rows}) == 1


def test_nms_is_timed_on_equal_results() -> None:
    """What is timed keeps the same boxes as torchvision's, which its shift of coordinates does not reach here."""
    boxes, scores, labels = inference._candidates(400)
    kept = nms_by_class(boxes, scores, labels, 0.5)
    assert 30 < len(kept) < 300
    assert torch.equal(kept, batched_nms(boxes, scores, labels, 0.5))
    (row,) = bench_nms(Runtime(threads=1, precision="float32"), 1, counts=(400,))
    assert row.ours > 0 and row.theirs > 0 and row.aim == 1.05
