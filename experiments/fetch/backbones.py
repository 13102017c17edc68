"""ImageNet weights that trainings start from: which file, where it lies, how it is known to be the right one.

Sources: torchvision's and mmdetection's file names end in their SHA-256's first digits; for Caffe2's files, published
by Detectron, no checksum is known: the one found is recorded in the run's provenance. timm's own addresses are asked
for where a backbone of timm is wanted.

    backbone_download("resnet50-0676ba61.pth").url
    weights_of("tf_efficientnet_lite0", None)           # "timm/tf_efficientnet_lite0.in1k"
"""

import hashlib
import re
from pathlib import Path

from experiments.fetch.download import Download
from freeanchor.detector.backbones import RESNETS
from freeanchor.detector.timm import published_file, tagged
from freeanchor.errors import CheckpointError

_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"
_TORCHVISION = "https://download.pytorch.org/models"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party"
BACKBONE_FILES = {
    name: Download(url=url, name=name, sha256=digits)
    for name, url, digits in (
        ("resnet18-f37072fd.pth", f"{_TORCHVISION}/resnet18-f37072fd.pth", "f37072fd"),
        ("resnet34-b627a593.pth", f"{_TORCHVISION}/resnet34-b627a593.pth", "b627a593"),
        ("resnet50-0676ba61.pth", f"{_TORCHVISION}/resnet50-0676ba61.pth", "0676ba61"),
        ("resnet101-63fe2227.pth", f"{_TORCHVISION}/resnet101-63fe2227.pth", "63fe2227"),
        ("resnext101_64x4d-ee2c6f71.pth", f"{_OPENMMLAB}/resnext101_64x4d-ee2c6f71.pth", "ee2c6f71"),
        ("MSRA-R-50.pkl", f"{_DETECTRON}/MSRA/R-50.pkl", ""),
        ("MSRA-R-101.pkl", f"{_DETECTRON}/MSRA/R-101.pkl", ""),
        ("FBResNeXt-X-101-64x4d.pkl", f"{_DETECTRON}/FBResNeXt/X-101-64x4d.pkl", ""),
    )
}
_TIMM = "timm/"
_BY_DIGEST = " sha256:"  # between the name of a user's file and what it holds


def weights_of(backbone: str, file: Path | None) -> str:
    """The name, in a training's configuration, of the ImageNet weights of a backbone: its publisher's, or a file's.

    A file is known by its own name and what it holds, not by where it lies. Raises CheckpointError where it is missing.
    """
    if file is not None:
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file of backbone weights; give the path of one")
        with file.open("rb") as content:
            return f"{file.name}{_BY_DIGEST}{hashlib.file_digest(content, 'sha256').hexdigest()[:16]}"
    if backbone not in RESNETS:
        return f"{_TIMM}{tagged(backbone)}"
    published = [name for name in BACKBONE_FILES if name.startswith(f"{backbone}-")]
    if not published:
        raise CheckpointError(f"nobody is known to publish {backbone}; give a file with --backbone-weights FILE")
    return published[0]


def is_users_file(name: str) -> bool:
    """Whether weights of that name are a file that the user gave."""
    return _BY_DIGEST in name


def backbone_download(name: str) -> Download:
    """Where the weights of that name come from; raises TimmError where timm does not say."""
    if not name.startswith(_TIMM):
        return BACKBONE_FILES[name]
    url = published_file(name.removeprefix(_TIMM))
    file = url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8})\.pth$", file)
    if digest is None:  # Hugging Face's files are all called the same
        file = f"{name.removeprefix(_TIMM)}-{file}"
    return Download(url=url, name=file, sha256=digest[1] if digest else "")
