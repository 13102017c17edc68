"""The network: shapes, the order of channels and cells, first weights, and where P6 and P7 come from."""

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

from freeanchor.anchors import AnchorConfig, grid_anchors
from freeanchor.detector.backbones import SmallResNet, TorchvisionResNet
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.losses.free_anchor import FreeAnchorLoss

NUM_CLASSES = 5
CHANNELS = 16
SMALL = SmallResNet(widths=(8, 8, 16, 24))
GRIDS = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]  # of a 64 x 96 px image at strides 8 to 128


def _config(**changes: object) -> ModelConfig:
    settings = {"num_classes": NUM_CLASSES, "backbone": SMALL, "pyramid_channels": CHANNELS, "head_depth": 2}
    return ModelConfig(**{**settings, **changes})


def _model(**changes: object) -> RetinaNet:
    torch.manual_seed(0)
    return RetinaNet(_config(**changes)).eval()


def _images() -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def _convolutions(model: nn.Module, out_channels: int) -> list[nn.Conv2d]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == out_channels]


def _named(model: nn.Module, ending: str) -> nn.Module:
    (module,) = [module for name, module in model.named_modules() if name.split(".")[-1] == ending]
    return module


def _record(model: nn.Module, module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(input, output) of every call of `module` in one forward pass."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0].clone(), output.clone())))
    with torch.no_grad():
        model(_images())
    handle.remove()
    return calls


def test_predictions_cover_every_anchor() -> None:
    """Logits, deltas and anchors have one row for each of nine anchors per cell, level after level."""
    output = _model()(_images())
    level_sizes = tuple(9 * rows * columns for rows, columns in GRIDS)
    assert output.level_sizes == level_sizes
    assert output.logits.shape == (2, sum(level_sizes), NUM_CLASSES)
    assert output.deltas.shape == (2, sum(level_sizes), 4)
    torch.testing.assert_close(output.anchors, grid_anchors(AnchorConfig(), GRIDS))


def test_anchors_follow_the_images_size() -> None:
    """A second batch of another size gets the anchors of its own grid."""
    model = _model()
    model(_images())
    output = model(torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(output.anchors, grid_anchors(AnchorConfig(), [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]))


@pytest.mark.parametrize(("width", "field"), [(NUM_CLASSES, "logits"), (4, "deltas")])
def test_channels_are_anchor_major_and_cells_row_major(width: int, field: str) -> None:
    """Row (cell * 9 + anchor), column k is channel (anchor * width + k) of that cell, as converted weights need it."""
    model = _model()
    (convolution,) = _convolutions(model, 9 * width)
    maps = [output for _, output in _record(model, convolution)]
    with torch.no_grad():
        predictions = getattr(model(_images()), field)
    first = 0
    for (rows, columns), feature_map in zip(GRIDS, maps, strict=True):
        for row in range(rows):
            for column in range(columns):
                for anchor in range(9):
                    place = first + (row * columns + column) * 9 + anchor
                    channels = feature_map[:, anchor * width : (anchor + 1) * width, row, column]
                    torch.testing.assert_close(predictions[:, place], channels, rtol=1e-5, atol=1e-6)
        first += rows * columns * 9


@pytest.mark.parametrize("prior_prob", [0.01, 0.02])
def test_first_scores_are_the_prior_probability(prior_prob: float) -> None:
    """At initialisation the classification bias is -log((1 - rho) / rho), so scores start at rho (Sec. 4.1)."""
    model = _model(prior_prob=prior_prob)
    (output,) = _convolutions(model, 9 * NUM_CLASSES)
    expected = torch.full((9 * NUM_CLASSES,), -math.log((1 - prior_prob) / prior_prob))
    torch.testing.assert_close(output.bias.detach(), expected)
    with torch.no_grad():
        scores = model(_images()).logits.sigmoid()
    assert scores.mean().item() == pytest.approx(prior_prob, rel=0.2)


def test_first_weights_of_the_heads_are_small() -> None:
    """Head convolutions start from N(0, 0.01) with biases 0, but for the classification output's bias."""
    model = _model(pyramid_channels=32)
    outputs = _convolutions(model, 9 * NUM_CLASSES) + _convolutions(model, 36)
    assert len(outputs) == 2
    for output in outputs:
        assert output.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert abs(output.weight.mean().item()) < 0.001
    assert (outputs[1].bias == 0).all()


def test_hidden_head_convolutions_can_start_with_hes_variance() -> None:
    """`tower_init` decides the hidden convolutions alone: 0.01, or sqrt(2 / fan-in); the outputs stay at 0.01."""
    for tower_init, expected in (("normal", 0.01), ("he", math.sqrt(2 / (9 * 32)))):
        model = _model(pyramid_channels=32, tower_init=tower_init)
        hidden = [m for m in model.modules() if isinstance(m, nn.Conv2d) and _sees_five_levels(model, m)]
        outputs = _convolutions(model, 9 * NUM_CLASSES) + _convolutions(model, 36)
        assert len(hidden) == 6  # two heads of two hidden convolutions and an output
        for convolution in hidden:
            std = 0.01 if any(convolution is output for output in outputs) else expected
            assert convolution.weight.std().item() == pytest.approx(std, rel=0.1)


def test_only_the_prior_tells_the_two_detectors_apart() -> None:
    """From one seed, networks of prior 0.01 and 0.02 share every weight but the classification bias."""
    retinanet, free_anchor = _model(prior_prob=0.01), _model(prior_prob=0.02)
    pairs = zip(retinanet.named_parameters(), free_anchor.parameters(), strict=True)
    different = [name for (name, one), other in pairs if not torch.equal(one, other)]
    assert len(different) == 1
    assert retinanet.get_parameter(different[0]).shape == (9 * NUM_CLASSES,)


@pytest.mark.parametrize(("source", "channels"), [("P5", CHANNELS), ("C5", 24)])
def test_p6_comes_from_the_named_map(source: str, channels: int) -> None:
    """P6 is a strided 3x3 convolution of P5, or of the backbone's C5."""
    model = _model(p6_source=source)
    p6 = _named(model, "p6")
    assert (p6.in_channels, p6.out_channels, p6.kernel_size, p6.stride) == (channels, CHANNELS, (3, 3), (2, 2))
    ((given, output),) = _record(model, p6)
    assert given.shape == (2, channels, 2, 3)
    assert output.shape == (2, CHANNELS, 1, 2)


@pytest.mark.parametrize("relu_before_p7", [True, False])
def test_p7_sees_p6_through_a_relu_or_not(relu_before_p7: bool) -> None:
    """The authors put a ReLU between P6 and P7, mmdetection none; P6 itself reaches the heads without it."""
    model = _model(relu_before_p7=relu_before_p7)
    ((_, p6),) = _record(model, _named(model, "p6"))
    ((seen, _),) = _record(model, _named(model, "p7"))
    assert (p6 < 0).any()
    torch.testing.assert_close(seen, p6.relu() if relu_before_p7 else p6)
    first_of_head = next(m for m in model.modules() if isinstance(m, nn.Conv2d) and _sees_five_levels(model, m))
    torch.testing.assert_close(_record(model, first_of_head)[3][0], p6)


def _sees_five_levels(model: nn.Module, module: nn.Module) -> bool:
    return len(_record(model, module)) == len(GRIDS)


def test_heads_share_their_weights_over_levels() -> None:
    """One output convolution a head serves all five levels."""
    model = _model()
    for out_channels in (9 * NUM_CLASSES, 36):
        (convolution,) = _convolutions(model, out_channels)
        assert len(_record(model, convolution)) == 5


def test_every_trainable_weight_learns() -> None:
    """A loss over the output reaches every parameter that asks for a gradient."""
    model = _model().train()
    output = model(_images())
    boxes = [torch.tensor([[10.0, 10, 50, 40]]), torch.tensor([[0.0, 0, 90, 60]])]
    labels = [torch.tensor([0]), torch.tensor([4])]
    sum(FreeAnchorLoss()(output.logits, output.deltas, output.anchors, boxes, labels).values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []


def test_the_papers_network_is_as_large_as_torchvisions() -> None:
    """With ResNet-50 and 91 classes the convolutions hold as many numbers as torchvision's RetinaNet."""
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    ours = RetinaNet(ModelConfig(num_classes=91, backbone=TorchvisionResNet(name="resnet50")))

    def size(model: nn.Module) -> int:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        return sum(parameter.numel() for m in convolutions for parameter in m.parameters())

    assert size(ours) == size(theirs)
