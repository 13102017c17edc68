"""The losses on a device that works on its own: the same results, and at most two waits for it.

No GPU is needed: CPU tensors take the way of asynchronous devices, and each operation that would wait is counted.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from oracles.inputs import LossInputs, random_inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from freeanchor.anchors import AnchorConfig, grid_anchors, grid_sizes
from freeanchor.boxes import pairwise_iou
from freeanchor.losses import FreeAnchorLoss, RetinaNetLoss, focal, overlaps
from freeanchor.losses.free_anchor import anchor_bags

LOSSES = {
    "FreeAnchor": FreeAnchorLoss(bag_size=5, match_iou=0.3),
    "FreeAnchor, excused per anchor": FreeAnchorLoss(bag_size=5, match_iou=0.3, excuse="per-anchor"),
    "FreeAnchor, none excused": FreeAnchorLoss(bag_size=5, excuse="none"),
    "RetinaNet": RetinaNetLoss(),
    "mmdetection's": RetinaNetLoss(convention="mmdetection", smooth_l1_beta=0),
}
by_name = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
WAITING = {"_local_scalar_dense", "item", "nonzero", "unique", "_unique2", "unique_dim", "masked_select", "bincount",
           "is_nonzero", "equal", "lift_fresh"}  # fmt: skip


class _Waits(TorchDispatchMode):
    """Counts what reads a value back, makes a shape of values, or brings a list to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list) else []
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        repeats_by_tensor = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        self.found[name] += name in WAITING or by_mask or repeats_by_tensor
        return func(*args, **(kwargs or {}))


def _waits(call: Any) -> Counter[str]:
    lists = []

    def tolist(tensor: Tensor) -> Any:
        lists.append(tensor)
        with _Waits():  # of a tensor on a GPU it is one copy
            return tensor.numpy().tolist()

    with pytest.MonkeyPatch.context() as patch, _Waits() as waits:
        patch.setattr(Tensor, "tolist", tolist)
        call()
    return +(waits.found + Counter(tolist=len(lists)))


@pytest.fixture
def asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors are taken for those of an asynchronous device."""
    monkeypatch.setattr(focal, "is_asynchronous", lambda device: True)


def _padded(inputs: LossInputs) -> Tensor:
    rows = torch.full((len(inputs.gt_boxes), 8, 5), -1.0, dtype=torch.float64)
    for row, boxes, labels in zip(rows, inputs.gt_boxes, inputs.gt_labels, strict=True):
        row[: len(boxes)] = torch.cat([boxes, labels[:, None].double()], dim=1)
    return rows


@by_name
@pytest.mark.parametrize("num_objects", [(3, 2), (4, 0, 1, 8), (0, 0)], ids=str)
def test_both_ways_give_one_result(monkeypatch: pytest.MonkeyPatch, loss: Any, num_objects: tuple) -> None:
    """Values and gradients, of lists and of padded ground truth, equal the CPU's to rounding."""
    inputs = random_inputs(5, num_objects=num_objects, num_anchors=150).leaves()
    results = []
    for is_asynchronous in (False, True):
        monkeypatch.setattr(focal, "is_asynchronous", lambda device, answer=is_asynchronous: answer)
        for targets in (inputs.arguments()[3:], (_padded(inputs),)):
            terms = loss(*inputs.arguments()[:3], *targets)
            gradients = torch.autograd.grad(sum(terms.values()), (inputs.logits, inputs.deltas))
            results.append((*terms.values(), *gradients))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-10, atol=1e-14)


@by_name
@pytest.mark.parametrize("is_padded", [False, True], ids=["lists", "padded"])
def test_a_loss_waits_at_most_twice(asynchronous: None, loss: Any, is_padded: bool) -> None:
    """One look at the ground truth, one count of what was found: however many images and objects."""
    inputs = random_inputs(6, num_objects=(3, 0, 5, 2, 1), num_anchors=150).leaves()
    targets = (_padded(inputs),) if is_padded else inputs.arguments()[3:]

    def step() -> None:
        sum(loss(*inputs.arguments()[:3], *targets).values()).backward()

    waits = _waits(step)
    assert waits.keys() <= {"_local_scalar_dense", "tolist"}, waits
    assert 1 <= waits.total() <= 2


def test_the_count_sees_what_waits() -> None:
    """Items, shapes made of values, masks as indices and lists brought over are all found."""
    x = torch.arange(3)
    calls = {
        "_local_scalar_dense": lambda: int(x[0]),
        "nonzero": lambda: x.nonzero(),
        "_unique2": lambda: x.unique(),
        "index": lambda: x[x > 1],
        "index_put_": lambda: x.clone().__setitem__(x > 1, x[:1]),
        "lift_fresh": lambda: torch.tensor([1]),
        "tolist": lambda: x.tolist(),
    }
    for name, call in calls.items():
        assert name in _waits(call), name
    assert not _waits(lambda: x[torch.where(x > 1, x, 0)] + x.sum())


@pytest.mark.parametrize("size", [1, 5, 50])
@pytest.mark.parametrize("more_chunks", [0, overlaps.MORE_CHUNKS])
def test_bags_of_an_asynchronous_device_have_the_same_ious(
    monkeypatch: pytest.MonkeyPatch, asynchronous: None, size: int, more_chunks: int
) -> None:
    """Few chunks are looked at, and an object for which they are not enough is looked at again."""
    monkeypatch.setattr(overlaps, "MORE_CHUNKS", more_chunks)
    config = AnchorConfig()
    anchors = grid_anchors(config, grid_sizes(config, 256, 320))
    generator = torch.Generator().manual_seed(0)
    sides = 8 * 40 ** torch.rand(25, 2, generator=generator)
    corners = torch.rand(25, 2, generator=generator) * 200
    objects = torch.cat([corners, corners + sides], dim=1)
    objects[0] = torch.tensor([5000.0, 5000.0, 5010.0, 5010.0])  # meets no anchor
    bags, is_unsure = overlaps.likely_nearest(overlaps.chunked(anchors[None]), objects, size)
    assert is_unsure.any() if more_chunks == 0 else is_unsure.sum() <= 1
    bags = anchor_bags(anchors, objects, size)
    iou = pairwise_iou(objects, anchors)
    torch.testing.assert_close(iou.gather(1, bags), iou.topk(size, dim=1).values, rtol=0, atol=0)
    assert all(len(set(bag.tolist())) == size for bag in bags)
