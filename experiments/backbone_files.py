"""ImageNet weights that trainings start from: which file, where it lies, how it is known to be the right one.

Sources: torchvision's and mmdetection's file names end in their SHA-256's first digits; for Caffe2's files, published
by Detectron, no checksum is known: the one found is recorded in the run's provenance.

    BACKBONE_FILES["resnet50-0676ba61.pth"].url
"""

from experiments.download import Download

_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"
_TORCHVISION = "https://download.pytorch.org/models"
_OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party"

BACKBONE_FILES = {
    item.name: item
    for item in (
        Download(url=f"{_TORCHVISION}/resnet18-f37072fd.pth", name="resnet18-f37072fd.pth", sha256="f37072fd"),
        Download(url=f"{_TORCHVISION}/resnet50-0676ba61.pth", name="resnet50-0676ba61.pth", sha256="0676ba61"),
        Download(url=f"{_TORCHVISION}/resnet101-63fe2227.pth", name="resnet101-63fe2227.pth", sha256="63fe2227"),
        Download(
            url=f"{_OPENMMLAB}/resnext101_64x4d-ee2c6f71.pth",
            name="resnext101_64x4d-ee2c6f71.pth",
            sha256="ee2c6f71",
        ),
        Download(url=f"{_DETECTRON}/MSRA/R-50.pkl", name="MSRA-R-50.pkl"),
        Download(url=f"{_DETECTRON}/MSRA/R-101.pkl", name="MSRA-R-101.pkl"),
        Download(url=f"{_DETECTRON}/FBResNeXt/X-101-64x4d.pkl", name="FBResNeXt-X-101-64x4d.pkl"),
    )
}
