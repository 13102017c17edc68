"""`FreeAnchorLoss` against the authors' implementation: values and gradients in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from oracles.losses import detection_customized_loss

from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.reference import dense_loss

COMMITTED = Path(__file__).resolve().parents[2] / "golden" / "free_anchor_loss.npz"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "free_anchor_loss.npz"
NUM_COMMITTED, NUM_SHARED = 2, 6
CASES = [pytest.param(COMMITTED, case, id=f"committed-{case}") for case in range(NUM_COMMITTED)]
CASES += [pytest.param(SHARED, case, id=f"reference-{case}") for case in range(NUM_SHARED)]


def _load(path: Path, case: int) -> dict[str, np.ndarray]:
    """The arrays of one case, or a skip where the reference file does not lie beside the checkout."""
    if path == SHARED and not path.exists():
        pytest.skip(f"the full reference file is not at {path}")
    with np.load(path) as arrays:
        prefix = f"{case}/"
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def _loss(case: dict[str, np.ndarray]) -> FreeAnchorLoss:
    names = ("match_iou", "box_weight", "alpha", "gamma", "smooth_l1_beta")
    return FreeAnchorLoss(bag_size=int(case["bag_size"]), **{name: float(case[name]) for name in names})


def _ragged(case: dict[str, np.ndarray], name: str) -> list[torch.Tensor]:
    return [torch.from_numpy(case[f"{name}/{image}"]) for image in range(int(case[f"{name}/count"]))]


@pytest.mark.parametrize("is_dense", [False, True], ids=["ours", "reference"])
@pytest.mark.parametrize(("path", "index"), CASES)
def test_agrees_with_the_authors_implementation(path: Path, index: int, is_dense: bool) -> None:
    """Both terms and both gradients, of our loss and of its plain reference, equal the authors' within 1e-9."""
    case = _load(path, index)
    logits, deltas = (torch.from_numpy(case[name]).requires_grad_() for name in ("logits", "deltas"))
    anchors = torch.from_numpy(case["anchors"])
    arguments = logits, deltas, anchors, _ragged(case, "gt_boxes"), _ragged(case, "gt_labels")
    loss = _loss(case)
    positive, negative = dense_loss(loss, *arguments) if is_dense else loss(*arguments).values()
    (positive + negative).backward()

    assert positive.item() == pytest.approx(float(case["positive"]), rel=1e-9)
    assert negative.item() == pytest.approx(float(case["negative"]), rel=1e-9)
    for name, gradient in (("grad_logits", logits.grad), ("grad_deltas", deltas.grad)):
        largest = np.abs(case[name]).max()
        assert largest > 0
        np.testing.assert_allclose(gradient.numpy(), case[name], rtol=1e-9, atol=1e-9 * largest)


def test_the_committed_file_holds_the_cases_it_claims() -> None:
    """The number of committed cases is the one parametrised above."""
    with np.load(COMMITTED) as arrays:
        assert int(arrays["cases"]) == NUM_COMMITTED


def _bag_with_ties_as_topk(anchors: list[tuple], gt_box: tuple, bag_size: int) -> list[int]:
    """Grids hold anchors of equal IoU (a small object inside several); topk says which get the last places."""
    one, every = (torch.tensor(boxes, dtype=torch.float64) for boxes in ([gt_box], anchors))
    return torchvision.ops.box_iou(one, every)[0].topk(bag_size).indices.tolist()


def test_the_oracle_agrees_with_the_authors_implementation() -> None:
    """Eq. 7 written in loops gives the authors' numbers too, so that it may judge other inputs."""
    case = _load(COMMITTED, 1)
    logits, deltas = (torch.from_numpy(case[name]).requires_grad_() for name in ("logits", "deltas"))
    positive, negative = detection_customized_loss(
        logits,
        deltas,
        torch.from_numpy(case["anchors"]),
        _ragged(case, "gt_boxes"),
        _ragged(case, "gt_labels"),
        n=int(case["bag_size"]),
        t=float(case["match_iou"]),
        beta=float(case["box_weight"]),
        alpha=float(case["alpha"]),
        gamma=float(case["gamma"]),
        transition=float(case["smooth_l1_beta"]),
        bag_of=_bag_with_ties_as_topk,
    )
    (positive + negative).backward()
    assert positive.item() == pytest.approx(float(case["positive"]), rel=1e-9)
    assert negative.item() == pytest.approx(float(case["negative"]), rel=1e-9)
    np.testing.assert_allclose(logits.grad.numpy(), case["grad_logits"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(deltas.grad.numpy(), case["grad_deltas"], rtol=1e-8, atol=1e-12)
