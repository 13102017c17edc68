"""Batch norm's options in torchvision's backbones: its eps, and weights that train while the statistics stay."""

import pytest
import torch
from torch import Tensor, nn

from freeanchor.detector.backbones import RESNETS, Backbone, TorchvisionResNet, build_backbone

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _filled(**config: object) -> Backbone:
    """A ResNet-18 with statistics that matter, small variances among them."""
    torch.manual_seed(0)
    backbone = build_backbone(TorchvisionResNet(name="resnet18", **config))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in backbone.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(10 ** (-5 * torch.rand(tensor.shape, generator=generator)))
        elif name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return backbone


def _trained(backbone: Backbone) -> Backbone:
    """The backbone after one step of plain SGD in training mode."""
    backbone.train()
    sum(feature.mean() for feature in backbone(IMAGES)).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    return backbone


def _norm_tensors(backbone: Backbone, *kinds: str) -> dict[str, Tensor]:
    """Copies of the norms' tensors of the given kinds."""
    state = backbone.state_dict()
    norms = {name.removesuffix("running_var") for name in state if name.endswith("running_var")}
    return {f"{norm}{kind}": state[f"{norm}{kind}"].clone() for norm in norms for kind in kinds}


@pytest.mark.parametrize("trained_affine", [False, True])
@pytest.mark.parametrize("norm_eps", [0.0, 1e-5, 0.1])
def test_the_eps_is_added_to_the_variance(norm_eps: float, trained_affine: bool) -> None:
    """The stem's norm divides by the root of the variance and the eps, whichever norm it is."""
    backbone = _filled(norm_eps=norm_eps, trained_affine=trained_affine).eval()
    conv, norm = backbone.stem[0], backbone.stem[1]
    x = conv(IMAGES)
    centred = x - norm.running_mean[:, None, None]
    expected = centred / (norm.running_var + norm_eps).sqrt()[:, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-4)


def test_trained_weights_move_and_statistics_do_not() -> None:
    """In training mode the statistics are neither used nor moved; outside the frozen stages weight and bias train."""
    backbone = _filled(trained_affine=True)
    expected = [feature.detach() for feature in backbone.eval()(IMAGES)]
    for found, feature in zip(backbone.train()(IMAGES), expected, strict=True):
        torch.testing.assert_close(found, feature)
    statistics = _norm_tensors(backbone, "running_mean", "running_var", "num_batches_tracked")
    affine = _norm_tensors(backbone, "weight", "bias")
    _trained(backbone)
    state = backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in statistics.items())
    moved = {name for name, tensor in affine.items() if not torch.equal(state[name], tensor)}
    assert moved == {name for name in affine if not name.startswith(("stem", "stages.0"))}


def test_frozen_norm_has_nothing_to_train() -> None:
    """Without `trained_affine` the norms' weights are no parameters at all."""
    names = [name for name, _ in _filled().named_parameters()]
    assert names
    assert not any("bn" in name or "downsample.1" in name or name.startswith("stem.1") for name in names)


def test_norm_that_is_not_frozen_learns_its_statistics() -> None:
    """With `frozen_norm=False` batch norm is batch norm, outside the frozen stages."""
    backbone = _filled(frozen_norm=False)
    before = _norm_tensors(backbone, "running_mean")
    _trained(backbone)
    state = backbone.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(state[name], tensor)}
    assert moved == {name for name in before if not name.startswith(("stem", "stages.0"))}


def test_contradictions_are_refused() -> None:
    """A negative eps, and weights at stored statistics where the statistics are not kept."""
    with pytest.raises(ValueError, match="norm_eps must not be negative"):
        TorchvisionResNet(norm_eps=-1e-5)
    with pytest.raises(ValueError, match="set frozen_norm=True"):
        TorchvisionResNet(frozen_norm=False, trained_affine=True)


def test_the_narrower_resnext_is_built() -> None:
    """mmdetection's 32x4d, which torchvision does not name, has 32 groups of 4 and the published 42.1 M parameters."""
    assert "resnext101_32x4d" in RESNETS
    with torch.device("meta"):
        backbone = build_backbone(TorchvisionResNet(name="resnext101_32x4d", frozen_norm=False))
    conv = backbone.get_submodule("stages.0.0.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.groups, conv.in_channels) == (32, 128)
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(42.13e6, rel=0.001)
    assert TorchvisionResNet(name="resnext101_32x4d").label == "ResNeXt-101-32x4d"
