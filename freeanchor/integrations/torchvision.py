"""FreeAnchor, or any assigner, in torchvision's RetinaNet: the loss changes, the detector around it stays.

    model = use_assigner(model, ATSS())       # torchvision's own losses on anchors that ATSS gives their objects
    model = use_free_anchor(torchvision.models.detection.retinanet_resnet50_fpn(num_classes=3))
    terms = model(images, targets)            # training: {"positive": …, "negative": …}; minimise their sum
    detections = model.eval()(images)         # boxes, scores and labels, as torchvision gives them

Images, targets, detections, parameters and the names in the state dict are torchvision's, so that weights go from
either detector to the other and code around the model need not change. A label is a slot of the head, as torchvision
has it: 1 to num_classes - 1, slot 0 being left to the background. Call `use_free_anchor` before wrapping the model in
DistributedDataParallel or torch.compile; copies and pickles of the model keep the loss. For TorchScript, which is not
supported, call `use_focal_loss` first: the model is then torchvision's own again, with the weights it has. The same
holds of `use_assigner`.

torchvision codes deltas with weights 1, FreeAnchor with 10 and 5. The loss scales the head's deltas, and `BoxOutput`
the gradients of the convolution that makes them, so that learning rates mean what they mean in the paper.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.losses.assignment import Assigner, Predictions
from freeanchor.losses.focal import Terms, widen
from freeanchor.losses.free_anchor import FreeAnchorLoss

TORCHVISION_PRIOR = 0.01  # of its RetinaNetClassificationHead


@dataclass(frozen=True, kw_only=True)
class TorchvisionLoss:
    """Stands in for `RetinaNet.compute_loss`: torchvision's arguments in, `FreeAnchorLoss`'s terms out.

    `delta_scale` takes the model's deltas to FreeAnchor's. An object, not a closure: it is copied and pickled with the
    model.
    """

    loss: FreeAnchorLoss
    delta_scale: tuple[float, ...] = DELTA_WEIGHTS

    def __call__(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> Terms:
        """Terms `positive` and `negative` of a batch, float32; targets hold `boxes` [G, 4] and `labels` [G].

        An image without boxes has no objects, whatever labels it comes with, as in torchvision. Raises ValueError where
        a label is no slot of the head, or where the images differ in their anchors.
        """
        boxes = [target["boxes"] for target in targets]
        labels = [target["labels"][: None if len(own) else 0] for target, own in zip(targets, boxes, strict=True)]
        deltas = widen(head_outputs["bbox_regression"])
        return self.loss(
            head_outputs["cls_logits"],
            deltas * deltas.new_tensor(self.delta_scale),
            _shared_anchors(anchors),
            boxes,
            labels,
        )


@dataclass(eq=False, repr=False)
class TorchvisionAssigned:
    """Stands in for `RetinaNet.compute_loss`: an assigner in the place of torchvision's matcher, its losses kept.

    `grid` knows the anchors that the generator laid last.
    """

    model: RetinaNet
    assigner: Assigner
    grid: "_LastGrid"

    def __call__(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> Terms:
        """torchvision's terms `classification` and `bbox_regression` of a batch.

        Raises ValueError where the assigner asks for what a RetinaNet does not say.
        """
        level_sizes, strides = self.grid.levels(anchors[0])
        scores, codes = (head_outputs[name].detach().float() for name in ("cls_logits", "bbox_regression"))
        matched = []
        for target, own, logits, deltas in zip(targets, anchors, scores, codes, strict=True):
            boxes = self.model.box_coder.decode_single(deltas, own.float()).nan_to_num(0)
            said = Predictions(boxes=boxes, scores=logits.sigmoid().nan_to_num(0))
            labels = target["labels"][: len(target["boxes"])]
            given: dict[str, Any] = {"level_sizes": level_sizes, "strides": strides, "predictions": said}
            matched.append(self.assigner.assign(own.float(), target["boxes"].float(), labels, **given))
        terms: Terms = self.model.head.compute_loss(targets, head_outputs, anchors, matched)  # its -1 and -2 are ours
        return terms


@dataclass(eq=False)
class _LastGrid:
    """A forward hook of an anchor generator: the levels of the anchors that it last laid."""

    sizes: tuple[tuple[int, int], ...] = ()
    image_size: tuple[int, int] = (0, 0)
    num_per_cell: tuple[int, ...] = ()

    def __call__(self, generator: nn.Module, inputs: tuple[Any, ...], _: object) -> None:
        """Note the grid."""
        images, maps = inputs
        height, width = images.tensors.shape[-2:]
        self.sizes, self.image_size = tuple((each.shape[-2], each.shape[-1]) for each in maps), (height, width)
        self.num_per_cell = tuple(generator.num_anchors_per_location())  # type: ignore[operator]  # a generator's

    def levels(self, anchors: Tensor) -> tuple[tuple[int, ...], Tensor]:
        """Anchors of each level, and each anchor's stride: the mean of both directions, as torchvision lays them."""
        sizes = tuple(rows * columns * own for (rows, columns), own in zip(self.sizes, self.num_per_cell, strict=True))
        if sum(sizes) != len(anchors):
            raise ValueError(
                f"the anchor generator laid {sum(sizes)} anchors, the loss sees {len(anchors)}; call the model"
            )
        height, width = self.image_size
        strides = [(height // rows + width // columns) / 2 for rows, columns in self.sizes]
        counts = torch.tensor(sizes, device=anchors.device)
        return sizes, anchors.new_tensor(strides).float().repeat_interleave(counts)


class _DividedGradient(torch.autograd.Function):
    """The tensor itself on the way forward; its gradient over `divisor` on the way back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, divisor: Tensor) -> Tensor:
        """Keep the divisor, pass the tensor on."""
        ctx.save_for_backward(divisor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient of the tensor; none of the divisor."""
        return gradients[0] / ctx.saved_tensors[0], None


class BoxOutput(nn.Conv2d):
    """torchvision's `bbox_reg`, with gradients that let it learn at the rate of one whose outputs are FreeAnchor's.

    An output that the loss sees k times as large learns k^2 times as fast under SGD: its gradient grows with k, and so
    does what a step changes. With k of 10 and 5, a learning rate that is right for our detector throws this
    convolution about. Gradients of its parameters are divided by k^2, those of its input are untouched; the outputs
    are those of the plain convolution to the last bit.
    """

    delta_scale: tuple[float, ...]

    def forward(self, features: Tensor) -> Tensor:  # torch's own argument is `input`
        """The plain convolution."""
        scale = self.weight.new_tensor(self.delta_scale).square().repeat(self.out_channels // 4)
        weight = _DividedGradient.apply(self.weight, scale[:, None, None, None])
        bias = None if self.bias is None else _DividedGradient.apply(self.bias, scale)
        return self._conv_forward(features, weight, bias)


class AutocastAnchorGenerator(AnchorGenerator):
    """torchvision's anchors, in float32 where autocast makes the features narrower.

    torchvision's own take the features' precision, and keep it: bfloat16 rounds coordinates above 256 px to even
    pixels, above 512 to multiples of 4, and the loss would see other anchors than a test in float32. What stays:
    torchvision decodes detections in the precision of the head, so test outside bfloat16 autocast.
    """

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Move the anchors of one cell to `device`, in `dtype` where autocast is off."""
        super().set_cell_anchors(torch.float32 if torch.is_autocast_enabled(device.type) else dtype, device)


def _shared_anchors(anchors: list[Tensor]) -> Tensor:
    """The anchors [A, 4] that all images of a batch have; torchvision lists them for each image."""
    for image, others in enumerate(anchors[1:], start=1):
        if not torch.equal(others, anchors[0]):
            raise ValueError(
                f"image {image} has other anchors than image 0; FreeAnchorLoss needs the same for a whole batch, "
                "as torchvision's AnchorGenerator gives"
            )
    return anchors[0]


def _check_model(model: object) -> None:
    """Refuse what is not torchvision's RetinaNet with torchvision's head, a wrapper around one included."""
    if not isinstance(model, RetinaNet):
        raise TypeError(
            f"expected a torchvision RetinaNet, got {type(model).__name__}; build it with retinanet_resnet50_fpn() "
            "and wrap it (DDP, compile) only afterwards"
        )
    if not isinstance(model.head, RetinaNetHead):
        raise TypeError(
            f"expected torchvision's RetinaNetHead, got {type(model.head).__name__}; call the loss yourself"
        )


def _scale_gradients(model: RetinaNet, _: object = None) -> None:
    """Make the box output a `BoxOutput`; before every forward, since a head may be replaced after `use_free_anchor`."""
    loss, output = vars(model).get("compute_loss"), model.head.regression_head.bbox_reg
    if isinstance(loss, TorchvisionLoss) and type(output) is nn.Conv2d:
        output.__class__ = BoxOutput  # the same parameters, hooks and names; a new module would need them all moved
        output.delta_scale = loss.delta_scale  # type: ignore[assignment]  # it is a BoxOutput now


def _refuse_script() -> None:
    raise RuntimeError(
        "TorchScript cannot hold FreeAnchor's loss or an assigner; call use_focal_loss(model) first: the weights stay, "
        "and the script is torchvision's own"
    )


def _start_at_prior(bias: Tensor, prior_prob: float) -> None:
    """Set a classification bias to a prior probability, if it is still where torchvision starts it."""
    untrained = torch.full_like(bias, -math.log((1 - TORCHVISION_PRIOR) / TORCHVISION_PRIOR))
    if torch.allclose(bias, untrained, rtol=1e-6, atol=0):
        with torch.no_grad():
            bias.fill_(-math.log((1 - prior_prob) / prior_prob))


def use_free_anchor(
    model: RetinaNet, loss: FreeAnchorLoss | None = None, *, prior_prob: float | None = 0.02
) -> RetinaNet:
    """Train `model` by FreeAnchor's loss from now on; the same model, changed in place, is returned.

    Any `torchvision.models.detection.RetinaNet` with a `RetinaNetHead` will do, `retinanet_resnet50_fpn` and its `_v2`
    among them; `loss` defaults to the paper's hyper-parameters. `prior_prob` (rho, Sec. 4.1) becomes the prior of a
    classification bias that is exactly where torchvision starts it (0.01); a bias that was trained, or set by hand, is
    left alone, and None leaves every bias alone. No other number in the state dict is touched, and the tensors stay
    the same objects, so an optimiser may have been built before. Under autocast, anchors stay in float32
    (`AutocastAnchorGenerator`); a generator, or a box output, of another class than torchvision's own is kept as it is.
    A head that is replaced later is taken in at the next forward.

    Raises TypeError for any other model, ValueError for a prior that is no probability.
    """
    _check_model(model)
    if prior_prob is not None and not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob must lie in (0, 1), got {prior_prob}; pass None to leave the bias alone")
    if prior_prob is not None:
        _start_at_prior(model.head.classification_head.cls_logits.bias, prior_prob)
    use_focal_loss(model)  # an earlier loss leaves nothing behind
    generator = model.anchor_generator
    if type(generator) is AnchorGenerator:
        generator.__class__ = AutocastAnchorGenerator  # keeps cells that were set by hand
    delta_scale = tuple(ours / theirs for ours, theirs in zip(DELTA_WEIGHTS, model.box_coder.weights, strict=True))
    model.compute_loss = TorchvisionLoss(loss=loss or FreeAnchorLoss(), delta_scale=delta_scale)
    model.__prepare_scriptable__ = _refuse_script  # asked by torch.jit.script
    _scale_gradients(model)
    model.register_forward_pre_hook(_scale_gradients)
    return model


def use_assigner(model: RetinaNet, assigner: Assigner) -> RetinaNet:
    """Train `model` on anchors that `assigner` gives their objects, in place; the same model is returned.

    Only torchvision's matcher is replaced: its focal loss and L1, priors, detections and names stay. Any assigner will
    do, `IoUThresholds`, `ATSS`, `SimOTA`, `TAL` or one of your own; labels are slots of the head, as torchvision has
    them. Raises TypeError for any other model, or where `assigner` has no method `assign`.
    """
    _check_model(model)
    if not callable(getattr(assigner, "assign", None)) or isinstance(assigner, type):
        raise TypeError(f"expected an assigner such as ATSS(), got {assigner!r}; it needs a method assign")
    use_focal_loss(model)  # an earlier loss leaves nothing behind
    grid = _LastGrid()
    model.anchor_generator.register_forward_hook(grid)
    model.compute_loss = TorchvisionAssigned(model=model, assigner=assigner, grid=grid)
    model.__prepare_scriptable__ = _refuse_script
    return model


def use_focal_loss(model: RetinaNet) -> RetinaNet:
    """Make `model` torchvision's own again, losses included, in place; the same model is returned, its weights kept."""
    _check_model(model)
    hooks = model.anchor_generator._forward_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, _LastGrid)]:
        del hooks[key]
    vars(model).pop("compute_loss", None)
    vars(model).pop("__prepare_scriptable__", None)
    for key in [key for key, hook in model._forward_pre_hooks.items() if hook is _scale_gradients]:
        del model._forward_pre_hooks[key]
    generator, output = model.anchor_generator, model.head.regression_head.bbox_reg
    if type(generator) is AutocastAnchorGenerator:
        generator.__class__ = AnchorGenerator
    if type(output) is BoxOutput:
        output.__class__ = nn.Conv2d  # type: ignore[assignment]  # back to what it was
        del output.delta_scale
    return model
