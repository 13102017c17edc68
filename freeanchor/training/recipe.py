"""A training recipe: loss, schedule, optimiser, batches.

recipe = TrainConfig(loss=FreeAnchorLoss())     # the paper's 90,000 steps of 16 images
recipe.at_batch_size(4)                         # 360,000 steps at a quarter of the rate
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn, optim

from freeanchor.data.augmentation import AugmentConfig
from freeanchor.detector.retinanet import ModelOutput
from freeanchor.errors import FreeAnchorError
from freeanchor.losses.assigned import AssignedLoss, TaskAlignedLoss
from freeanchor.losses.focal import Terms, TotalCount
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss

Loss = RetinaNetLoss | FreeAnchorLoss | AssignedLoss | TaskAlignedLoss | TorchvisionRetinaNetLoss


class TrainingError(FreeAnchorError):
    """A run that cannot go on, with the step, the terms and the remedy."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training recipe; the defaults are the paper's (Sec. 4.1) and, where it is silent, its authors'.

    `drops` are the fractions of `num_steps` at which the learning rate is divided by ten: 60k and 80k of 90k. Biases
    learn at `bias_lr_factor` times the rate, without weight decay unless `bias_decays`. `snapshots` are fractions after
    which the weights are kept, to look at matching over training.

    `group_size` images are padded, run and normalised together, whatever the number of processes: 2 as on each of
    the authors' eight GPUs, or None for the whole batch. One GPU that takes the groups in turn, and eight that take one
    each, compute the same where batch norm is frozen: the stored statistics of one that trains are the first process's
    own. With `aspect_groups`, the images of a group are all portrait or all landscape (authors' code).
    """

    loss: Loss
    num_steps: int = 90_000
    batch_size: int = 16
    lr: float = 0.01
    warmup_steps: int = 500
    warmup_factor: float = 1 / 3
    drops: tuple[float, ...] = (2 / 3, 8 / 9)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    bias_lr_factor: float = 2.0
    max_grad_norm: float | None = None  # the authors clip nothing
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    snapshots: tuple[float, ...] = ()
    seed: int = 0
    bias_decays: bool = False
    group_size: int | None = None
    aspect_groups: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError(f"num_steps and batch_size must be at least 1, got {self.num_steps} and {self.batch_size}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.batch_size % (self.group_size or 1):
            raise ValueError(f"groups of {self.group_size} images do not fill a batch of {self.batch_size}")

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: linear warm-up from `warmup_factor`, then a tenth after each drop."""
        drops = sum(step >= drop for drop in self.drop_steps)
        warmth = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * 0.1**drops * (self.warmup_factor + (1 - self.warmup_factor) * warmth)

    @property
    def drop_steps(self) -> tuple[int, ...]:
        """The steps from which the learning rate is a tenth of what it was before."""
        return tuple(round(fraction * self.num_steps) for fraction in self.drops)

    @property
    def snapshot_steps(self) -> frozenset[int]:
        """The steps after which the weights are kept."""
        return frozenset(round(fraction * self.num_steps) for fraction in self.snapshots)

    @property
    def num_shares(self) -> int:
        """Parts that a batch can be shared out in: its groups, or its images where it is one group."""
        return self.batch_size // self.group_size if self.group_size else self.batch_size

    @property
    def aspect_group(self) -> int:
        """How many images in succession share their aspect: those of a group, or 1 where any may meet."""
        return (self.group_size or self.batch_size) if self.aspect_groups else 1

    def fitting_processes(self) -> list[int]:
        """The numbers of processes that can share a batch evenly."""
        return [number for number in range(1, self.num_shares + 1) if self.num_shares % number == 0]

    @property
    def num_samples(self) -> int:
        """Images seen in the whole training."""
        return self.num_steps * self.batch_size

    def at_batch_size(self, batch_size: int) -> "TrainConfig":
        """The same number of images in batches of another size: rate in proportion, steps and warm-up inversely.

        The linear rule of Goyal et al. (2017). Leaving the rate as it is at a smaller batch is what makes losses NaN.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        factor = batch_size / self.batch_size
        return replace(
            self,
            batch_size=batch_size,
            lr=self.lr * factor,
            num_steps=max(1, round(self.num_steps / factor)),
            warmup_steps=round(self.warmup_steps / factor),
        )

    def share(self, num_processes: int) -> tuple[int, int]:
        """(groups, images per group) of one of `num_processes` in every step; TrainingError where it does not divide.

        Without a `group_size` the batch is one group whose parts lie on all processes.
        """
        if num_processes not in self.fitting_processes():
            what = f"groups of {self.group_size} images" if self.group_size else "images"
            fitting = ", ".join(map(str, self.fitting_processes()))
            raise TrainingError(
                f"{self.num_shares} {what} do not divide among {num_processes} processes; start {fitting}"
            )
        own = self.num_shares // num_processes
        return (own, self.group_size) if self.group_size else (1, own)

    def summary(self, num_processes: int = 1) -> str:
        """What will happen, in one line: batch, rate, warm-up, drops, images, normalisation."""
        groups, size = self.share(num_processes)
        drops = " and ".join(f"{step:,}" for step in self.drop_steps)
        over = f"each group of {self.group_size}" if self.group_size else "the whole batch"
        return (
            f"batch of {self.batch_size} images = {num_processes} process(es) x {groups} group(s) of {size}; "
            f"learning rate {self.lr:g} after {self.warmup_steps:,} steps of warm-up from {self.lr_at(0):.3g}, "
            f"a tenth from step {drops or 'never'}; {self.num_steps:,} steps = {self.num_samples:,} images; "
            f"loss normalised over {over}"
        )


def loss_terms(
    loss: Loss,
    output: ModelOutput,
    strides: Sequence[int],
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    total_count: TotalCount = int,
    valid_anchors: Tensor | None = None,
) -> Terms:
    """A loss on what the network says of a batch; `strides` are those of the pyramid's levels.

    `valid_anchors` are for `RetinaNetLoss` alone.
    """
    arguments = output.logits, output.deltas, output.anchors, gt_boxes, gt_labels, total_count
    if isinstance(loss, AssignedLoss | TaskAlignedLoss):
        sizes = torch.tensor(output.level_sizes, device=output.anchors.device)
        each = output.anchors.new_tensor(strides).repeat_interleave(sizes, output_size=len(output.anchors))
        return loss(*arguments, level_sizes=output.level_sizes, strides=each)
    if isinstance(loss, RetinaNetLoss):
        return loss(*arguments, valid_anchors=valid_anchors)
    return loss(*arguments)


def build_optimizer(model: nn.Module, config: TrainConfig) -> optim.SGD:
    """SGD with momentum; biases in a group of their own, faster and without decay (authors' code)."""
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "bias": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["bias" if name.endswith("bias") else "weight"].append(parameter)
    bias_decay = config.weight_decay if config.bias_decays else 0.0
    return optim.SGD(
        [
            {"params": groups["weight"], "lr_factor": 1.0, "weight_decay": config.weight_decay},
            {"params": groups["bias"], "lr_factor": config.bias_lr_factor, "weight_decay": bias_decay},
        ],
        lr=config.lr,
        momentum=config.momentum,
    )
