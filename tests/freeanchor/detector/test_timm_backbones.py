"""Backbones of timm: maps at the strides of a pyramid, what the paper freezes frozen, ImageNet weights put in whole."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from freeanchor.checkpoints.backbone_weights import load_backbone, read_backbone
from freeanchor.checkpoints.native import DetectorConfig, load_model, save_model
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import build_backbone
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.detector.timm import TimmBackbone, TimmFeatures, check_backbone, input_statistics, published_file
from freeanchor.errors import CheckpointError, TimmError

LITE = "tf_efficientnet_lite0"
SHARED = Path(__file__).parents[4] / "shared" / "weights" / f"{LITE}.safetensors"


def weights_file(path: Path, name: str) -> Path:
    """A file with the weights of timm's whole network, drawn at random."""
    torch.manual_seed(1)
    save_file({key: value.contiguous() for key, value in timm.create_model(name).state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", [LITE, "resnet18", "regnetx_002", "convnext_atto"])
def test_maps_are_those_of_strides_4_to_32(name: str) -> None:
    """Whatever timm calls its stages, C2 to C5 have the strides and channels that the pyramid counts on."""
    backbone = build_backbone(TimmBackbone(name=name)).eval()
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(backbone.out_channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", [LITE, "resnet18", "regnetx_002"])
@pytest.mark.parametrize("strided_c5", [False, True])
def test_what_the_paper_freezes_is_frozen_and_the_rest_trains(name: str, strided_c5: bool) -> None:
    """A step changes no batch norm, nothing in front of stride 4, and every other weight."""
    backbone = TimmFeatures(TimmBackbone(name=name, strided_c5=strided_c5)).train()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # the last of a branch starts at 0, and nothing behind it would learn
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=1.0)
    sum(one.square().mean() for one in backbone(torch.rand(2, 3, 64, 64))[1:]).backward()
    optimizer.step()
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    norms = {f"{key}." for key, module in backbone.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert not any(key.startswith(tuple(norms)) for key in changed)
    frozen = {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert changed.isdisjoint(frozen)
    convolutions = {key for key, value in before.items() if value.ndim == 4}
    in_front = convolutions & frozen
    assert convolutions - changed == in_front
    assert 0 < len(in_front) < len(convolutions) / 2
    stems = {LITE: "conv_stem", "resnet18": "conv1", "regnetx_002": "stem"}
    assert any(stems[name] in key for key in in_front)


def test_in_front_of_stride_4_is_the_stem_and_the_first_two_stages() -> None:
    """Of EfficientNet-Lite0: layers up to the map of 24 channels, as the paper freezes the stem and layer1."""
    backbone = TimmFeatures(TimmBackbone(name=LITE))
    frozen = {key for key, p in backbone.named_parameters() if not p.requires_grad and p.ndim == 4}
    assert {".".join(key.split(".")[1:3]) for key in frozen} == {"conv_stem.weight", "blocks.0", "blocks.1"}


def test_strided_c5_leaves_out_most_weights_and_keeps_c2_to_c4() -> None:
    """The small variant has the same first three maps, and less than a third of the weights."""
    torch.manual_seed(0)
    whole, small = TimmFeatures(TimmBackbone(name=LITE)), TimmFeatures(TimmBackbone(name=LITE, strided_c5=True))
    names = {key.removeprefix("body."): value for key, value in whole.state_dict().items()}
    own = {key: names[key.removeprefix("body.model.")] for key in small.state_dict() if key.startswith("body.")}
    small.load_state_dict(small.state_dict() | own)
    images = torch.rand(1, 3, 64, 96)
    maps, theirs = small.eval()(images), whole.eval()(images)
    assert all(torch.equal(*pair) for pair in zip(maps[:3], theirs[:3], strict=True))
    assert maps[3].shape[2:] == theirs[3].shape[2:]
    count = [sum(p.numel() for p in one.parameters()) for one in (small, whole)]
    assert count[0] < count[1] / 3


def test_float32_on_cpus_under_autocast() -> None:
    """The body computes in float32 though the rest of the network is in bfloat16."""
    backbone = TimmFeatures(TimmBackbone(name=LITE)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert {one.dtype for one in backbone(torch.rand(1, 3, 64, 64))} == {torch.float32}


@pytest.mark.parametrize("strided_c5", [False, True])
def test_weights_are_timms_own(tmp_path: Path, strided_c5: bool) -> None:
    """A backbone with a file's weights computes what timm's features do with them."""
    path = weights_file(tmp_path / "w.safetensors", LITE)
    backbone = TimmFeatures(TimmBackbone(name=LITE, strided_c5=strided_c5)).eval()
    load_backbone(backbone, read_backbone(path), path)
    torch.manual_seed(1)
    theirs = timm.create_model(LITE)
    peer = timm.create_model(LITE, features_only=True).eval()
    peer.load_state_dict({key: value for key, value in theirs.state_dict().items() if key in peer.state_dict()})
    images = torch.rand(1, 3, 64, 96)
    assert all(
        torch.allclose(ours, other, atol=1e-5)
        for ours, other in zip(backbone(images)[:3], peer(images)[1:4], strict=True)
    )


def test_a_file_of_another_network_is_refused_by_names(tmp_path: Path) -> None:
    """How many names are missing and unknown, with a few of each, is said in one short line with the remedy."""
    path = weights_file(tmp_path / "w.safetensors", "mobilenetv3_small_050")
    with pytest.raises(CheckpointError, match=r"w.safetensors: does not fit timm's tf_efficientnet_lite0; ") as caught:
        load_backbone(TimmFeatures(TimmBackbone(name=LITE)), read_backbone(path), path)
    line = str(caught.value).removeprefix(str(path))
    assert re.search(
        r"; \d+ missing: (\S+, ){2}\S+ and \d+ more; \d+ unknown: (\S+, ){2}\S+ and \d+ more; \d+ misshapen: ", line
    )
    assert line.endswith("; is it the file of timm's tf_efficientnet_lite0?")
    assert len(line) < 600


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """One missing tensor is not passed over, though timm itself would."""
    path = weights_file(tmp_path / "w.safetensors", LITE)
    tensors = read_backbone(path)
    del tensors["blocks.3.1.conv_dw.weight"]
    with pytest.raises(CheckpointError, match=r"; 1 missing: blocks\.3\.1\.conv_dw\.weight; is it"):
        load_backbone(TimmFeatures(TimmBackbone(name=LITE)), tensors, path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_efficientnet_lite99", "timm knows no backbone 'tf_efficientnet_lite99'"),
        ("vit_tiny_patch16_224", "none at 4; choose another"),
        ("swin_tiny_patch4_window7_224", "takes no image of any size"),
        ("hf-hub:someone/something", "timm knows no backbone"),
    ],
)
def test_what_timm_cannot_give_is_refused(name: str, words: str) -> None:
    """Unknown names, networks without a pyramid's strides and those of one image size: one line each."""
    with pytest.raises(TimmError, match=words) as caught:
        TimmFeatures(TimmBackbone(name=name))
    assert "\n" not in str(caught.value)
    with pytest.raises(TimmError, match=words):
        check_backbone(name)


def test_what_timm_can_give_passes_even_where_it_needs_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that cannot be built without memory is built with it before it is refused."""
    create, devices = timm.create_model, []

    def picky(name: str, **options: object) -> torch.nn.Module:
        devices.append(torch.empty(0).device.type)
        if devices[-1] == "meta":
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", picky)
    check_backbone("resnet10t")
    assert {"meta", "cpu"} == set(devices)


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is optional."""
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(TimmError, match=r"pip install timm"):
        TimmFeatures(TimmBackbone(name=LITE))


def test_a_detector_is_saved_and_loaded(tmp_path: Path) -> None:
    """A model file with a backbone of timm rebuilds the same network."""
    model_config = ModelConfig(
        num_classes=2, backbone=TimmBackbone(name=LITE), pyramid_channels=16, head_depth=1, head_norm="group"
    )
    model = RetinaNet(model_config).eval()
    detector = DetectorConfig(model=model_config, inputs=InputConfig(), category_ids=(1, 2), category_names=("a", "b"))
    save_model(tmp_path / "m.safetensors", model, detector)
    again, same = load_model(tmp_path / "m.safetensors")
    assert same == detector
    images = torch.rand(1, 3, 128, 128)
    assert torch.equal(model(images).logits, again(images).logits)


def test_a_file_naming_an_unknown_backbone_is_refused(tmp_path: Path) -> None:
    """The one line is timm's, the file is named."""
    model_config = ModelConfig(num_classes=1, backbone=TimmBackbone(name=LITE), pyramid_channels=16, head_depth=1)
    model = RetinaNet(model_config)
    odd = DetectorConfig(
        model=ModelConfig(num_classes=1, backbone=TimmBackbone(name="no_such_net")),
        inputs=InputConfig(),
        category_ids=(1,),
        category_names=("a",),
    )
    save_model(tmp_path / "m.safetensors", model, odd)
    with pytest.raises(CheckpointError, match=r"m.safetensors: timm knows no backbone 'no_such_net'"):
        load_model(tmp_path / "m.safetensors")


def test_statistics_and_address_are_timms() -> None:
    """EfficientNet-Lite0 wants (x / 255 - 0.5) / 0.5; its file's name ends in its checksum."""
    assert input_statistics(LITE) == ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
    assert input_statistics("resnet18")[0] == pytest.approx((123.675, 116.28, 103.53))
    assert published_file(LITE).startswith("https://")


@pytest.mark.skipif(not SHARED.exists(), reason="the ImageNet weights of EfficientNet-Lite0 are not here")
def test_the_published_weights_load() -> None:
    """The real file fits to the last tensor, and its maps are no noise: a grey image's are finite and differ."""
    backbone = TimmFeatures(TimmBackbone(name=LITE)).eval()
    load_backbone(backbone, read_backbone(SHARED), SHARED)
    c5 = backbone(torch.zeros(1, 3, 64, 64))[-1]
    assert c5.isfinite().all() and c5.std() > 0
