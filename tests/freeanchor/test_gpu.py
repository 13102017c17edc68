"""What a GPU must do as a CPU does: losses in every precision, a step and its resumption, NMS, processes over NCCL.

Each test runs on the CPU too, so that it is known to be right before a GPU is at hand.
"""

import json
from pathlib import Path

import pytest
import torch
from oracles.inputs import random_boxes
from tiny import tiny_detector, tiny_recipe, tiny_split
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import nms

from freeanchor.anchors import AnchorConfig, grid_anchors, grid_sizes
from freeanchor.boxes import encode_boxes
from freeanchor.data.coco import collate, load_sample
from freeanchor.losses import FreeAnchorLoss, RetinaNetLoss, focal
from freeanchor.losses.free_anchor import anchor_bags
from freeanchor.runtime import Runtime
from freeanchor.training.loop import train
from freeanchor.training.processes import Processes
from freeanchor.training.recipe import TrainConfig
from freeanchor.training.state import TrainingState, share_network, start
from freeanchor.training.step import training_step

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LOSSES = [FreeAnchorLoss(), RetinaNetLoss()]
on_each_device = pytest.mark.parametrize("device", DEVICES)
TOLERANCES = {
    "float64": 1e-9,
    "float32": 1e-4 if torch.cuda.is_available() else 1e-5,
    "bfloat16": 2e-2,
    "float16": 2e-3,
}


def _scene() -> tuple[Tensor, ...]:
    """Two images of 256 x 320 px in float64, with predictions drawn to the objects."""
    config, generator = AnchorConfig(), torch.Generator().manual_seed(0)
    anchors = grid_anchors(config, grid_sizes(config, 256, 320)).double()
    logits = torch.randn(2, len(anchors), 7, generator=generator, dtype=torch.float64) - 3
    deltas = 0.5 * torch.randn(2, len(anchors), 4, generator=generator, dtype=torch.float64)
    objects = torch.stack([random_boxes(5, generator).double() + 20 * image for image in (1, 2)])
    for own, boxes in zip(deltas, objects, strict=True):
        bags = anchor_bags(anchors, boxes, 30)
        own[bags] = encode_boxes(boxes[:, None], anchors[bags]) + 0.3 * own[bags]
    return logits, deltas, anchors, objects, torch.randint(7, (2, 5), generator=generator)


@on_each_device
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses_equal_those_in_float64_on_a_cpu(loss, dtype: str, device: str) -> None:
    """Terms and gradients of logits in each precision are those of the same logits in float64.

    Boxes are in one precision in both: at a threshold their overlaps decide.
    """
    logits, deltas, anchors, objects, labels = _scene()
    rounded, results = logits.to(getattr(torch, dtype)), []
    for place, own in (("cpu", rounded.double()), (device, rounded)):
        wide = torch.float64 if dtype == "float64" else torch.float32
        leaves = [tensor.to(place).requires_grad_() for tensor in (own, deltas.to(wide))]
        terms = loss(*leaves, *(tensor.to(place) for tensor in (anchors.to(wide), objects.to(wide), labels)))
        gradients = torch.autograd.grad(1024 * sum(terms.values()), leaves)  # float16 has no smaller ones
        results.append([*(term.detach().cpu() for term in terms.values()), *(own.cpu() for own in gradients)])
    for term, expected in zip(results[1], results[0], strict=True):
        error = (term.double() - expected.double()).abs().max() / expected.abs().max()
        assert error <= (TOLERANCES[dtype] if term.dtype == getattr(torch, dtype) else TOLERANCES["float32"])


@pytest.mark.gpu
def test_a_gpu_has_the_fused_pass() -> None:
    """Triton compiles on this machine: the slower pass is not taken without a word."""
    assert focal.kernels_for(torch.device("cuda")) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_loss_waits_for_a_gpu_twice_at_most(loss, recwarn: pytest.WarningsRecorder) -> None:
    """torch's own watch says so."""
    logits, *rest = (tensor.cuda() for tensor in _scene())
    logits.requires_grad_()
    sum(loss(logits, *rest).values()).backward()  # compiles
    torch.cuda.set_sync_debug_mode("warn")
    try:
        recwarn.clear()
        sum(loss(logits, *rest).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(warning.message) for warning in recwarn) <= 2


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "float32"),
        *(pytest.param("cuda", precision, marks=pytest.mark.gpu) for precision in ("float32", "bfloat16", "float16")),
    ],
)
def test_a_training_resumes(tmp_path: Path, device: str, precision: str) -> None:
    """Four steps, an end, and four more are eight at once, to the rounding of sums on a GPU."""
    split, recipe = tiny_split(tmp_path / "data"), tiny_recipe(FreeAnchorLoss())
    runtime = Runtime(device=device, precision=precision, checkpoint_every=4, log_every=2)  # type: ignore[arg-type]
    whole = train(tmp_path / "whole", split, tiny_detector(), recipe, runtime).model.cpu().state_dict()
    save, copied = TrainingState.save, tmp_path / "resumed" / "state.safetensors"
    copied.parent.mkdir()

    def save_and_copy(state: TrainingState, path: Path, config: TrainConfig) -> None:
        save(state, path, config)
        if state.step == 4:
            copied.write_bytes(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", save_and_copy)
        train(tmp_path / "interrupted", split, tiny_detector(), recipe, runtime)
    resumed = train(copied.parent, split, tiny_detector(), recipe, runtime).model.cpu().state_dict()
    assert json.loads((copied.parent / "metrics.jsonl").read_text().splitlines()[0])["step"] > 4
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-2, atol=1e-3)


@on_each_device
def test_nms_is_the_same(device: str) -> None:
    """A GPU keeps the boxes that a CPU keeps, in its order."""
    generator = torch.Generator().manual_seed(3)
    boxes, scores = random_boxes(400, generator).float(), torch.rand(400, generator=generator)
    kept = nms(boxes.to(device), scores.to(device), 0.5).cpu()
    assert torch.equal(kept, nms(boxes, scores, 0.5))


@on_each_device
def test_a_step_of_ddp_is_a_step(tmp_path: Path, device: str) -> None:
    """One process in a group (NCCL on a GPU) takes the same step under DDP as without."""
    split, recipe = tiny_split(tmp_path / "data"), tiny_recipe(FreeAnchorLoss())
    batch = collate([load_sample(image, tiny_detector().inputs) for image in split.images[:3]])
    runtime = Runtime(device=device, precision="float32")
    alone = start(tiny_detector().model, recipe, runtime)
    shared = start(tiny_detector().model, recipe, runtime)
    share_network(alone, Processes(device=device))
    terms, _ = training_step(alone, [batch], recipe, runtime)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1)
    try:
        shared.network = DistributedDataParallel(shared.model, device_ids=[0] if device == "cuda" else None)
        shared_terms, _ = training_step(shared, [batch], recipe, runtime)
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(shared_terms, terms, rtol=1e-5, atol=1e-6)
    for own, other in zip(shared.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
