"""FreeAnchor in torchvision's RetinaNet: the loss it computes, and everything that must stay torchvision's."""

import copy
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from oracles.boxes import encode
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from freeanchor.integrations.torchvision import BoxOutput, TorchvisionLoss, use_focal_loss, use_free_anchor
from freeanchor.losses.free_anchor import FreeAnchorLoss

LOSS = FreeAnchorLoss(bag_size=8)
NO_OBJECTS = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


class Backbone(nn.Module):
    """Two levels of one convolution each."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, images):
        first = self.first(images).relu()
        return OrderedDict(p3=first, p4=self.second(first))


def _model(seed: int = 0, **changes) -> RetinaNet:
    """torchvision's detector at 64 px, three classes and the background."""
    torch.manual_seed(seed)
    anchors = AnchorGenerator(((16, 20), (32, 40)), ((0.5, 1.0, 2.0),) * 2)
    settings = {"min_size": 64, "max_size": 96, "score_thresh": 0.0, "detections_per_img": 20, **changes}
    return RetinaNet(Backbone(), 4, anchor_generator=anchors, **settings)


def _lively(model: RetinaNet) -> RetinaNet:
    """The model with outputs that differ from cell to cell, as if it were trained."""
    torch.manual_seed(1)
    for conv in (model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg):
        nn.init.normal_(conv.weight, std=20.0)
        nn.init.normal_(conv.bias, std=0.3)
    return model


def _images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, 64, 80, generator=generator), torch.rand(3, 64, 64, generator=generator)]


def _targets() -> list[dict[str, Tensor]]:
    first = torch.tensor([[5.0, 6.0, 30.0, 24.0], [30.0, 20.0, 52.0, 60.0], [2.0, 40.0, 18.0, 55.0]])
    second = torch.tensor([[10.0, 10.0, 50.0, 42.0]])
    return [{"boxes": first, "labels": torch.tensor([1, 3, 1])}, {"boxes": second, "labels": torch.tensor([2])}]


def _gradients(model: RetinaNet) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_terms_are_those_of_the_boxes_that_torchvision_decodes() -> None:
    """The deltas' code is right: boxes decoded by torchvision and coded anew for FreeAnchor give the same terms."""
    model = use_free_anchor(_lively(_model()), LOSS).train()
    seen = {}
    model.head.register_forward_hook(lambda _, __, output: seen.update(output))
    model.anchor_generator.register_forward_hook(lambda _, __, output: seen.update(anchors=output[0]))
    terms = model(_images(), _targets())
    anchors = seen["anchors"].tolist()
    boxes = [model.box_coder.decode_single(deltas, seen["anchors"]).tolist() for deltas in seen["bbox_regression"]]
    deltas = torch.tensor([[encode(box, anchor) for box, anchor in zip(one, anchors)] for one in boxes])
    labels = [target["labels"] for target in _targets()]
    expected = LOSS(seen["cls_logits"], deltas, seen["anchors"], [target["boxes"] for target in _targets()], labels)
    assert terms.keys() == {"positive", "negative"}
    torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)


def test_a_coder_of_other_weights_is_followed() -> None:
    """A model whose box coder already has FreeAnchor's weights gets its deltas as they are."""
    model = _model()
    model.box_coder.weights = (10.0, 10.0, 5.0, 5.0)
    assert use_free_anchor(model).compute_loss.delta_scale == (1.0, 1.0, 1.0, 1.0)


def test_detections_and_state_dict_stay_torchvisions() -> None:
    """With the prior left alone nothing moves: names, order, numbers, and detections to the last bit."""
    plain, switched = _lively(_model()).eval(), use_free_anchor(_lively(_model()), prior_prob=None).eval()
    assert list(plain.state_dict()) == list(switched.state_dict())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, switched.state_dict()[name])
    with torch.no_grad():
        found, again = plain(_images()), switched(_images())
    assert [len(one["boxes"]) for one in found] == [20, 20]
    for one, other in zip(found, again):
        assert all(torch.equal(one[key], other[key]) for key in ("boxes", "scores", "labels"))


def test_weights_go_both_ways() -> None:
    """A state dict of either detector loads into the other."""
    plain, switched = _model(seed=1), use_free_anchor(_model(seed=2))
    switched.load_state_dict(plain.state_dict())
    plain.load_state_dict(switched.state_dict())


def test_the_prior_is_set_on_an_untrained_bias_only() -> None:
    """An untouched classification bias starts at rho; one that has moved at a single place stays."""
    fresh = use_free_anchor(_model(), prior_prob=0.02)
    assert fresh.head.classification_head.cls_logits.bias.sigmoid().tolist() == pytest.approx([0.02] * 24)
    trained = _model()
    bias = trained.head.classification_head.cls_logits.bias
    with torch.no_grad():
        bias[5] += 1e-3
    before = bias.clone()
    use_free_anchor(trained)
    assert torch.equal(bias, before)


def test_the_prior_changes_nothing_else() -> None:
    """Of an untrained detector only the classification bias differs after the switch."""
    plain, switched = _model().state_dict(), use_free_anchor(_model()).state_dict()
    differing = [name for name, tensor in plain.items() if not torch.equal(tensor, switched[name])]
    assert differing == ["head.classification_head.cls_logits.bias"]


@pytest.mark.parametrize("targets", [_targets(), [_targets()[0], NO_OBJECTS], [NO_OBJECTS] * 2], ids=len)
def test_every_parameter_gets_a_finite_gradient(targets: list) -> None:
    """Both heads and the backbone are reached, images without objects included, so that DDP waits for nobody."""
    model = use_free_anchor(_model(), LOSS).train()
    sum(model(_images(), targets).values()).backward()
    gradients = _gradients(model)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["head.classification_head.cls_logits.weight"].abs().max() > 0
    has_objects = any(len(target["boxes"]) for target in targets)
    assert (gradients["head.regression_head.bbox_reg.weight"].abs().max() > 0) == has_objects


def test_a_step_moves_boxes_as_if_the_head_coded_them_for_free_anchor() -> None:
    """One step of SGD changes the scaled outputs as it changes those of a convolution with scaled weights."""
    scale = torch.tensor([10.0, 10.0, 5.0, 5.0])
    ours, twin = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    ours.__class__, ours.delta_scale = BoxOutput, tuple(scale.tolist())
    rows = scale.repeat(2)
    twin.load_state_dict({"weight": ours.weight * rows[:, None, None, None], "bias": ours.bias * rows})
    images = torch.rand(2, 3, 6, 6, requires_grad=True)
    reached = []
    for conv, factor in ((ours, rows[:, None, None]), (twin, 1.0)):
        optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
        (conv(images) * factor).square().mean().backward()
        reached.append(images.grad.clone())
        images.grad = None
        optimizer.step()
    torch.testing.assert_close(*reached)
    torch.testing.assert_close(ours(images) * rows[:, None, None], twin(images))


def test_the_box_output_is_the_plain_convolution() -> None:
    """Its values are those of torch's own to the last bit."""
    conv, images = nn.Conv2d(3, 8, 3, padding=1), torch.rand(2, 3, 6, 6)
    expected = conv(images)
    conv.__class__, conv.delta_scale = BoxOutput, (10.0, 10.0, 5.0, 5.0)
    assert torch.equal(conv(images), expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_the_loss(duplicate) -> None:
    """A deep copy and a pickle compute the same terms and gradients, on tensors of their own."""
    model = use_free_anchor(_lively(_model()), LOSS).train()
    other = duplicate(model)
    for one in (model, other):
        sum(one(_images(), _targets()).values()).backward()
    assert model(_images(), _targets()) == other(_images(), _targets())
    for name, gradient in _gradients(other).items():
        torch.testing.assert_close(gradient, _gradients(model)[name])
    assert not {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in other.parameters()}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("freeanchor.losses", "FreeAnchorLoss"),
        ("freeanchor.losses", "RetinaNetLoss"),
        ("freeanchor.integrations.torchvision", "TorchvisionLoss"),
        ("freeanchor.integrations.torchvision", "BoxOutput"),
        ("freeanchor.integrations.torchvision", "AutocastAnchorGenerator"),
    ],
)
def test_pickles_of_users_find_their_classes(module: str, name: str) -> None:
    """Files that users have pickled name these classes by these modules, wherever they are defined now."""
    assert pickle.loads(f"c{module}\n{name}\n.".encode()).__name__ == name


def test_training_lowers_the_loss() -> None:
    """Forty steps on one batch, with an optimiser built before the switch, take most of the loss away."""
    model = _model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    use_free_anchor(model, LOSS)
    losses = []
    for _ in range(40):
        loss = sum(model(_images(), _targets()).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_under_bfloat16_anchors_and_loss_are_float32() -> None:
    """Autocast narrows the network alone: anchors stay exact, terms are float32 and near those without autocast."""
    model = use_free_anchor(_model(), LOSS).train()
    exact = model(_images(), _targets())
    kept = []
    model.anchor_generator.register_forward_hook(lambda _, __, output: kept.append(output[0]))
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(_images(), _targets())
    assert kept[0].dtype == torch.float32
    assert all(term.dtype == torch.float32 for term in terms.values())
    torch.testing.assert_close(terms, exact, rtol=0.02, atol=1e-3)


def test_the_way_back_gives_torchvisions_model() -> None:
    """After `use_focal_loss` the terms, the classes of the parts and a step's gradients are torchvision's own."""
    plain, returned = _model().train(), use_focal_loss(use_free_anchor(_model(), prior_prob=None)).train()
    expected, terms = plain(_images(), _targets()), returned(_images(), _targets())
    assert terms == expected
    sum(expected.values()).backward()
    sum(terms.values()).backward()
    torch.testing.assert_close(_gradients(returned), _gradients(plain))
    assert [type(module) for module in returned.modules()] == [type(module) for module in plain.modules()]


@pytest.mark.parametrize("build", [retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2])
def test_torchvisions_own_models_train(build) -> None:
    """Both published architectures give finite terms and take a gradient; every one of their detections is valid."""
    torch.manual_seed(0)
    model = use_free_anchor(build(weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=96))
    terms = model.train()(_images(), _targets())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert model.head.regression_head.bbox_reg.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), "got Linear"),
        (nn.Sequential(_model()), "got Sequential"),
        (_model(head=nn.Identity()), "got Identity"),
        (fcos_resnet50_fpn(weights=None, weights_backbone=None), "got FCOS"),
        ("retinanet_resnet50_fpn", "got str"),
    ],
    ids=["module", "wrapped", "head", "other detector", "name"],
)
def test_other_models_are_refused_in_one_line(model: object, words: str) -> None:
    """What is not torchvision's RetinaNet is named, with the remedy."""
    for switch in (use_free_anchor.__wrapped__, use_focal_loss.__wrapped__):
        with pytest.raises(TypeError, match=words) as caught:
            switch(model)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prior_prob", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_prior_that_is_no_probability_is_refused(prior_prob: float) -> None:
    """Before anything is changed."""
    model = _model()
    with pytest.raises(ValueError, match="prior_prob must lie"):
        use_free_anchor(model, prior_prob=prior_prob)
    assert "compute_loss" not in vars(model)


def test_labels_outside_the_head_are_refused() -> None:
    """A label beyond the head's slots, the commonest mistake with num_classes, is named."""
    model, targets = use_free_anchor(_model(), LOSS).train(), _targets()
    targets[1]["labels"] = torch.tensor([4])
    with pytest.raises(ValueError, match="image 1 has label 4"):
        model(_images(), targets)


def test_degenerate_boxes_are_refused_by_torchvision() -> None:
    """torchvision's own check of targets still stands before the loss."""
    model, targets = use_free_anchor(_model(), LOSS).train(), _targets()
    targets[0]["boxes"] = targets[0]["boxes"][:, [0, 1, 0, 3]]
    with pytest.raises(AssertionError, match="positive height and width"):
        model(_images(), targets)


def test_images_with_anchors_of_their_own_are_refused() -> None:
    """A generator that gives each image other anchors cannot be trained by a loss over one set."""
    anchors = [torch.rand(6, 4), torch.rand(6, 4)]
    outputs = {"cls_logits": torch.zeros(2, 6, 3), "bbox_regression": torch.zeros(2, 6, 4)}
    with pytest.raises(ValueError, match="image 1 has other anchors"):
        TorchvisionLoss(loss=LOSS)([NO_OBJECTS] * 2, outputs, anchors)


def test_a_head_that_is_replaced_later_has_its_gradient_scaled() -> None:
    """Its box output learns at the rate of the first one's; its class output keeps the bias that it came with."""
    gradients = []
    for replaces in (False, True):
        model = use_free_anchor(_lively(_model()), LOSS).train()
        if replaces:
            head = RetinaNetHead(8, 6, 4)
            head.load_state_dict(model.head.state_dict())
            model.head = head
        sum(model(_images(), _targets()).values()).backward()
        gradients.append(model.head.regression_head.bbox_reg.weight.grad)
        assert type(model.head.regression_head.bbox_reg) is BoxOutput
    torch.testing.assert_close(*gradients)


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """The line names `use_focal_loss`; after it the model scripts as torchvision's own does, and has no hook left."""
    model = use_free_anchor(use_free_anchor(_model()))
    assert len(model._forward_pre_hooks) == 1
    with pytest.raises(RuntimeError, match=r"use_focal_loss\(model\) first"):
        torch.jit.script(model)
    use_focal_loss(model)
    assert not model._forward_pre_hooks and "__prepare_scriptable__" not in vars(model)


def test_an_image_without_boxes_may_come_with_a_label() -> None:
    """As torchvision trains on it: zeros(0, 4) beside zeros(1), which some data sets give, is an image of background."""
    model = use_free_anchor(_lively(_model()), LOSS).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    terms = [
        model(_images(), [_targets()[0], {**empty, "labels": labels}])
        for labels in (torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    ]
    assert {name: term.item() for name, term in terms[0].items()} == {name: it.item() for name, it in terms[1].items()}
