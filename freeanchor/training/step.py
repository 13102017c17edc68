"""One step of synchronous SGD: groups of images in, weights changed, on one process or many.

terms, output = training_step(state, groups, config, runtime)
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from freeanchor.anchors import AnchorConfig, grid_sizes, padded_size, valid_anchors
from freeanchor.data.coco import Batch, collate
from freeanchor.detector.retinanet import ModelOutput
from freeanchor.losses.focal import Terms, is_asynchronous
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Runtime
from freeanchor.training.divergence import DivergedError, Divergence
from freeanchor.training.processes import ALONE, Processes
from freeanchor.training.recipe import TrainConfig, loss_terms
from freeanchor.training.state import TrainingState

SMALLEST_SCALE = 1.0  # float16's gradients overflow even unscaled: no scale will cure that


def training_step(
    state: TrainingState, groups: Sequence[Batch], config: TrainConfig, runtime: Runtime, processes: Processes = ALONE
) -> tuple[Terms, ModelOutput]:
    """One step of SGD on this process's groups; their mean loss terms, and the last group's predictions.

    Raises DivergedError, on every process alike, where a loss or a gradient is not finite, before any weight changes.
    """
    lr = config.lr_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    state.optimizer.zero_grad(set_to_none=True)
    # DDP takes the mean over processes; parts of one group are summed.
    share = processes.count if _shares_batch(config, processes) else 1 / len(groups)
    found: list[Terms] = []
    losses: list[Tensor] = []
    # One look at all losses and the gradient, before any weight changes: a GPU is waited for once. Many processes
    # look at each loss together, lest one of them wait for gradients that the others will not send.
    is_patient = is_asynchronous(torch.device(runtime.device)) and processes.count == 1
    for number, batch in enumerate(groups, start=1):
        # Gradients are averaged over the processes once a step, with the last group's.
        network, is_last = state.network, number == len(groups)
        with nullcontext() if is_last or not isinstance(network, DistributedDataParallel) else network.no_sync():
            terms, output = _forward(state, batch, config, runtime, processes)
            found.append(terms)
            loss = torch.stack(list(terms.values())).sum()
            losses.append(loss.detach())
            if not is_patient:
                is_sound = math.isfinite(loss.item())
                fault = None if is_sound else _divergence("loss", state, terms, batch, config, runtime)
                if processes.total(int(not is_sound)):
                    raise DivergedError(fault, batch)
            state.scaler.scale(loss if share == 1 else loss * share).backward()
    mean = {name: torch.stack([terms[name].detach() for terms in found]).mean() for name in terms}
    norm, is_finite, values = _norm_and_losses(state, losses if is_patient else [])
    if bad := [place for place, value in enumerate(values) if not math.isfinite(value)]:
        batch = groups[bad[0]]
        raise DivergedError(_divergence("loss", state, found[bad[0]], batch, config, runtime), batch)
    if not _update(state, config, norm, is_finite):
        whole = collate([sample for batch in groups for sample in batch.samples])  # it is the sum of all groups'
        raise DivergedError(_divergence("gradient", state, mean, whole, config, runtime), whole)
    state.step += 1
    return mean, output


def _shares_batch(config: TrainConfig, processes: Processes) -> bool:
    """Whether the parts of one group lie on several processes."""
    return processes.count > 1 and config.group_size is None


def _forward(
    state: TrainingState, batch: Batch, config: TrainConfig, runtime: Runtime, processes: Processes
) -> tuple[Terms, ModelOutput]:
    images = batch.images
    if _shares_batch(config, processes):  # padding is part of the image: it has anchors
        height, width = processes.largest(images.shape[2:])
        images = functional.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
    images = images.to(runtime.device, non_blocking=True, memory_format=torch.channels_last)
    with runtime.autocast():
        output = (state.network or state.model)(images)
    gt_boxes = [boxes.to(images.device, non_blocking=True) for boxes in batch.gt_boxes]
    gt_labels = [labels.to(images.device, non_blocking=True) for labels in batch.gt_labels]
    total_count = processes.total_count if _shares_batch(config, processes) else int
    anchors, valid = state.model.config.anchors, None
    if isinstance(config.loss, RetinaNetLoss) and config.loss.convention == "mmdetection":
        valid = _valid_anchors(anchors, batch, images)
    return loss_terms(config.loss, output, anchors.strides, gt_boxes, gt_labels, total_count, valid), output


def _valid_anchors(anchors: AnchorConfig, batch: Batch, images: Tensor) -> Tensor | None:
    """Of a batch whose images are padded to different sizes, the anchors in each image's own; else None."""
    own = [padded_size(*sample.image.shape[1:]) for sample in batch.samples]
    height, width = images.shape[2:]
    if set(own) == {(height, width)}:
        return None
    return valid_anchors(anchors, grid_sizes(anchors, height, width), own).to(images.device)


def _norm_and_losses(state: TrainingState, losses: Sequence[Tensor]) -> tuple[Tensor, bool, list[float]]:
    """The norm of the unscaled gradients, whether it is finite, and the losses, by one transfer."""
    state.scaler.unscale_(state.optimizer)
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    norm: Tensor = nn.utils.get_total_norm(gradients)
    size, *values = torch.stack([norm, *(loss.to(norm) for loss in losses)]).tolist()
    return norm, math.isfinite(size), values


def _update(state: TrainingState, config: TrainConfig, norm: Tensor, is_finite: bool) -> bool:
    """Clip and apply the gradients, which are the same on all processes; False, and nothing done, if not finite.

    DEVIATION(D24): under float16, a step whose gradients overflow is left out and the scale halved, while there is one.
    """
    if not is_finite and not state.scaler.get_scale() > SMALLEST_SCALE:
        return False
    if config.max_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(state.model.parameters(), config.max_grad_norm, norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return True


def _divergence(
    what: str, state: TrainingState, terms: Terms, batch: Batch, config: TrainConfig, runtime: Runtime
) -> Divergence:
    return Divergence(
        step=state.step,
        what=what,
        terms={name: term.item() for name, term in terms.items()},
        images=tuple(sample.record.path.name for sample in batch.samples),
        precision=runtime.dtype_name,
        lr=config.lr,
    )
