"""`RetinaNetLoss(convention="mmdetection")` against mmdetection 3.3.0's own RetinaHead: values and gradients, float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from freeanchor.anchors import AnchorConfig, valid_anchors
from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.losses.retinanet import RetinaNetLoss

COMMITTED = Path(__file__).resolve().parents[2] / "golden" / "mmdetection_retinanet_loss.npz"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "golden" / "mmdetection_retinanet_loss.npz"
CASES = [pytest.param(COMMITTED, case, id=f"committed-{case}") for case in range(4)]
CASES += [pytest.param(SHARED, case, id=f"reference-{case}") for case in range(12)]
GRIDS = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]  # of 96x128 px


@pytest.mark.parametrize(("path", "index"), CASES)
def test_agrees_with_mmdetections_implementation(path: Path, index: int) -> None:
    """Crowds, images without objects, and images of other padded shapes: both terms and both gradients within 1e-8."""
    if path == SHARED and not path.exists():
        pytest.skip(f"the full reference file is not at {path}")
    with np.load(path) as arrays:
        case = {key.removeprefix(f"{index}/"): arrays[key] for key in arrays.files if key.startswith(f"{index}/")}
    logits, plain = (torch.from_numpy(case[name]).requires_grad_() for name in ("logits", "deltas"))
    boxes, labels = (
        [torch.from_numpy(case[f"{name}/{image}"]) for image in range(len(logits))]
        for name in ("gt_boxes", "gt_labels")
    )
    config = AnchorConfig(centre_offset=0.0)
    valid = valid_anchors(config, GRIDS, [(int(h), int(w)) for h, w in case["pad_shapes"]])
    loss = RetinaNetLoss(convention="mmdetection", smooth_l1_beta=0.0)
    deltas = plain * plain.new_tensor(DELTA_WEIGHTS)
    terms = loss(logits, deltas, torch.from_numpy(case["anchors"]), boxes, labels, valid_anchors=valid)
    sum(terms.values()).backward()
    for name in ("classification", "box"):
        assert terms[name].item() == pytest.approx(float(case[name]), rel=1e-8, abs=1e-8)
    for name, gradient in (("grad_logits", logits.grad), ("grad_deltas", plain.grad)):
        np.testing.assert_allclose(
            gradient.numpy(), case[name], rtol=1e-8, atol=1e-8 * max(1e-3, np.abs(case[name]).max())
        )
