"""Train a torchvision RetinaNet by FreeAnchor's loss on synthetic scenes, and print AP before and after.

    .venv/bin/python examples/torchvision_free_anchor.py              # a minute or two on one CPU core
    .venv/bin/python examples/torchvision_free_anchor.py --steps 2000 --data DIR   # train.json, val.json, images/

The line that makes it FreeAnchor is `use_free_anchor(...)`. The network is small, so that a CPU can train it from
nothing; `torchvision.models.detection.retinanet_resnet50_fpn(num_classes=…)` goes through the same lines.
"""

import argparse
import sys
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from analysis import evaluate
from freeanchor.boxes import xyxy_to_xywh
from freeanchor.data.augmentation import AugmentConfig, TrainingStream
from freeanchor.data.coco import InputConfig, Sample, Split, load_sample, read_split
from freeanchor.detector.backbones import Backbone, SmallResNet, build_backbone
from freeanchor.integrations.torchvision import use_free_anchor
from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.scene import ShapesConfig

INPUTS = InputConfig(short_side=128, max_long_side=224, mean=(0, 0, 0), std=(255, 255, 255))  # RGB of 0 to 1
EASY = ShapesConfig(num_train=600, num_val=100, image_size=128, max_objects=4, min_size=32, max_size=88, min_head=10)


def small_retinanet(num_classes: int, inputs: InputConfig) -> RetinaNet:
    """torchvision's RetinaNet, narrow; `num_classes` counts the background, as there."""
    head = RetinaNetHead(64, 9, num_classes, norm_layer=partial(nn.GroupNorm, 8))
    body = build_backbone(SmallResNet(widths=(32, 64, 128, 256)))
    assert isinstance(body, Backbone)
    stages = OrderedDict(stem=body.stem, **dict(zip(("c2", "c3", "c4", "c5"), body.stages, strict=True)))
    levels, channels = {"c3": "p3", "c4": "p4", "c5": "p5"}, list(body.out_channels)[1:]
    pyramid = BackboneWithFPN(nn.Sequential(stages), levels, channels, 64, LastLevelP6P7(64, 64))
    sizes = tuple(tuple(size * 2 ** (octave / 3) for octave in range(3)) for size in (24, 48, 96, 192, 384))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    limits = {"min_size": inputs.short_side, "max_size": inputs.max_long_side, "detections_per_img": 100}
    return RetinaNet(pyramid, num_classes, anchor_generator=anchors, head=head, **limits)


def start_from_scratch(head: RetinaNetHead) -> None:
    """Draw the heads' hidden layers by He's rule: torchvision's N(0, 0.01) is for 256 channels, trained long."""
    for part in (head.regression_head, head.classification_head):
        for module in part.conv.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def as_torchvision(samples: Sequence[Sample]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images and targets as torchvision takes them; slot 0 of the head is the background's."""
    targets = [{"boxes": sample.boxes, "labels": sample.record.labels + 1} for sample in samples]
    return [sample.image for sample in samples], targets


@torch.no_grad()
def average_precision(model: RetinaNet, split: Split, inputs: InputConfig) -> float:
    """COCO's AP of the model on a split."""
    model.eval()
    rows = []
    for image in split.images:
        found = model([load_sample(image, inputs).image])[0]
        boxes, categories = xyxy_to_xywh(found["boxes"]).tolist(), [split.category_ids[i - 1] for i in found["labels"]]
        for box, score, category in zip(boxes, found["scores"].tolist(), categories, strict=True):
            rows.append({"image_id": image.image_id, "category_id": category, "bbox": box, "score": score})
    table = evaluate(split.annotations, rows, resamples=0).table
    return float(table.loc[table["metric"] == "ap", "value"].iloc[0])


def train(model: RetinaNet, stream: TrainingStream, num_steps: int) -> None:
    """Plain torchvision training: the model gives its losses, their sum is minimised."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=num_steps)
    model.train()
    for step in range(num_steps):
        terms = model(*as_torchvision([stream[position] for position in range(8 * step, 8 * step + 8)]))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step:4d}  " + "  ".join(f"{name} {term.item():.3f}" for name, term in terms.items()))


def main() -> None:
    """Generate the data where they are missing, train, and print AP before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="steps of 8 images (default: 500)")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/example"),
        help="a data set, generated where there is none (default: data/example)",
    )
    arguments = parser.parse_args()
    if not arguments.data.exists():
        write_shapes(EASY, arguments.data)
    split, val = read_split(arguments.data, "train"), read_split(arguments.data, "val")
    torch.manual_seed(0)
    model = use_free_anchor(small_retinanet(len(split.category_ids) + 1, INPUTS))
    start_from_scratch(model.head)
    before = average_precision(model, val, INPUTS)
    train(model, TrainingStream(split, INPUTS, AugmentConfig(), seed=0), arguments.steps)
    after = average_precision(model, val, INPUTS)
    print(f"AP before {before:.1%}, after {arguments.steps} steps {after:.1%}")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # of the data or the steps: one line
        sys.exit(f"error: {error}")
