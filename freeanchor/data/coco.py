"""Reading COCO-format images with boxes, checking them, and laying them out as batches.

A data folder holds `train.json`, `val.json` and `images/`, or COCO's own layout (`annotations/instances_val2017.json`,
`val2017/`). Labels are positions 0..K-1 in the order of category ids. How an image is resized and normalised is an
`InputConfig`; random changes for training are in `augmentation.py`.

    split = read_split(Path("data/shapes"), "val")
    batch = collate([load_sample(image, InputConfig()) for image in split.images[:8]])
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from freeanchor.anchors import padded_size
from freeanchor.data import image_names, suspicions
from freeanchor.data.image_names import matched, name_problem
from freeanchor.data.images import RESIZE_RULES, ResizeRule, open_image, orientation, resized_size, size_difference
from freeanchor.data.json_check import Item, category_problems, content_problems, normal_name, read_lists, split_paths
from freeanchor.data.resizing import resize_pixels
from freeanchor.errors import DataError, Problem

# Kinds of warnings that whoever trains is told; all others are left to `freeanchor data check`.
UNLISTED = "annotations of unknown images", "annotations of unknown categories"
TOLD = {*suspicions.KINDS, suspicions.PASSED_OVER, image_names.KIND, *UNLISTED}


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image of a data set: where it lies, its size in pixels, its objects (crowd regions left out).

    `boxes` is [G, 4] xyxy float32, `labels` [G] int64, `annotation_ids` [G] int64.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    annotation_ids: Tensor


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images of a split with its categories, in the order of their ids; `notes` are suspicions, one line each."""

    annotations: Path
    images: tuple[ImageRecord, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How an image becomes the network's input: resized, in RGB or BGR of 0 to 255, minus `mean`, over `std`.

    The short side becomes `short_side` unless the long side would pass `max_long_side`, by the rule of one
    code base or another (`resizing.py`). The default statistics are ImageNet's, in the channel order that `bgr` says.
    `box_convention="inclusive"` scales a box's last pixel and not its edge, as the authors do: at a scale of r a width
    w becomes r (w - 1) + 1 (authors' code).
    """

    short_side: int = 800
    max_long_side: int = 1333
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    bgr: bool = False
    resize: ResizeRule = "pil"
    box_convention: Literal["continuous", "inclusive"] = "continuous"

    def __post_init__(self) -> None:
        if self.resize not in RESIZE_RULES:
            raise ValueError(f"resize must be one of {', '.join(RESIZE_RULES)}, got {self.resize!r}")
        if self.box_convention not in ("continuous", "inclusive"):
            raise ValueError(f"box_convention must be 'continuous' or 'inclusive', got {self.box_convention!r}")
        if min(self.short_side, self.max_long_side) < 1:
            raise ValueError(
                f"short_side and max_long_side must be 1 or more, got {self.short_side}, {self.max_long_side}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image ready for the network: [3, h, w] normalised, boxes in its frame, and the `scale` from file to frame."""

    record: ImageRecord
    image: Tensor
    boxes: Tensor
    scale: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images padded to one size [B, 3, H, W], with each one's own `sizes` (height, width) inside the padding."""

    images: Tensor
    sizes: tuple[tuple[int, int], ...]
    gt_boxes: tuple[Tensor, ...]
    gt_labels: tuple[Tensor, ...]
    samples: tuple[Sample, ...]

    def pin_memory(self) -> "Batch":
        """The same in memory from which a GPU copies while the processor goes on; DataLoader calls it."""
        gt_boxes, gt_labels = (tuple(own.pin_memory() for own in each) for each in (self.gt_boxes, self.gt_labels))
        return replace(self, images=self.images.pin_memory(), gt_boxes=gt_boxes, gt_labels=gt_labels)


def locate_split(directory: Path, split: str) -> tuple[Path, Path]:
    """Annotation file and image folder of `split` ("train" or "val") under `directory`, in either layout."""
    if not directory.is_dir():
        raise DataError(f"{directory}: no such data folder; give one that holds train.json, val.json and images/")
    annotations, images = split_paths(directory, split)
    if not annotations.is_file():
        remedy = "write the boxes there in COCO format, or give another folder"
        raise DataError(f"{directory}: holds no {split}.json; {remedy}")
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; the images of {annotations.name} belong there")
    return annotations, images


def _refuse(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Raise the first error of a json; those of its warnings that whoever trains should know."""
    for problem in problems:
        if problem.severity == "error":
            raise DataError.at(problem.where, problem.what, problem.remedy)
        if problem.kind in TOLD:
            yield problem


def _read_lists(path: Path) -> tuple[Item, list[Problem]]:
    content, problems = read_lists(path, str(path))
    return content, list(_refuse(problems))


def read_split(directory: Path, split: str) -> Split:
    """The images and boxes of a split, checked; raises DataError with one clear line.

    Crowd regions are left out and boxes clipped to the image; those without area are dropped (authors' code), and
    so are annotations of images and categories that are not listed. Whether
    the image files can be read shows when they are loaded; no file outside the image folder is named. What is most
    likely wrong, and files found under another spelling of their name (`image_names`), is in the split's `notes`.
    """
    return read_split_file(*locate_split(directory, split))


def read_split_file(path: Path, images_path: Path) -> Split:
    """The split in one COCO json as `read_split` has it; `images_path` is where its images lie, or would lie."""
    content, told = _read_lists(path)
    told += _refuse(content_problems(content, str(path)))
    names = {normal_name(image["file_name"]) for image in content["images"]}
    files = matched(names, images_path)
    told += [name_problem(files, len(names), str(path))] if files else []
    categories = _categories(content)
    label_of = {category_id: label for label, category_id in enumerate(categories)}
    objects = defaultdict(list)
    for item in content["annotations"]:
        if not item.get("iscrowd") and item["category_id"] in label_of:
            objects[item["image_id"]].append({**item, "label": label_of[item["category_id"]]})
    return Split(
        annotations=path,
        images=tuple(_image(image, objects.get(image["id"], []), images_path, files) for image in content["images"]),
        category_ids=tuple(categories),
        category_names=tuple(categories.values()),
        notes=tuple(map(str, told)),
    )


def _categories(content: Item) -> dict[int, str]:
    return {int(item["id"]): item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])}


def _image(image: Item, objects: Sequence[Item], images_path: Path, files: Mapping[str, str]) -> ImageRecord:
    """One entry of the file's images, its boxes clipped and those without area dropped; `files`: by other names."""
    width, height = int(image["width"]), int(image["height"])
    boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return ImageRecord(
        image_id=int(image["id"]),
        path=images_path / files.get(normal_name(image["file_name"]), image["file_name"]),
        width=width,
        height=height,
        boxes=torch.from_numpy(boxes[keep]),
        labels=torch.tensor([annotation["label"] for annotation in objects], dtype=torch.int64)[keep],
        annotation_ids=torch.tensor([annotation["id"] for annotation in objects], dtype=torch.int64)[keep],
    )


def normalise(image: Image.Image | Float[Tensor, "3 H W"], config: InputConfig) -> Float[Tensor, "3 H W"]:
    """An image (RGB, 0 to 255) in the network's channel order, minus its mean, over its standard deviation."""
    pixels = resize_pixels(image, image.size) if isinstance(image, Image.Image) else image
    if config.bgr:
        pixels = pixels.flip(0)
    return (pixels - torch.tensor(config.mean)[:, None, None]).div_(torch.tensor(config.std)[:, None, None])


def _without_thin(record: ImageRecord) -> ImageRecord:
    """The image without objects of one pixel's width or height or less, which have no inclusive box (authors' code)."""
    sides = record.boxes[:, 2:] - record.boxes[:, :2]
    keep = (sides > 1).all(dim=1)
    if bool(keep.all()):
        return record
    fields = {name: getattr(record, name)[keep] for name in ("boxes", "labels", "annotation_ids")}
    return replace(record, **fields)


def load_sample(
    record: ImageRecord,
    config: InputConfig,
    *,
    short_side: int | None = None,
    flip: bool = False,
    read: Callable[[Path], Image.Image] = open_image,
) -> Sample:
    """Read an image, resize it by `config`'s rule, flip it where asked, and normalise it."""
    image = read(record.path)
    if image.size != (record.width, record.height):
        what, remedy = size_difference(image.size, (record.width, record.height), orientation(image))
        raise DataError.at(record.path, what, remedy)
    width, height = resized_size(*image.size, short_side or config.short_side, config.max_long_side, rule=config.resize)
    scale = width / record.width, height / record.height
    pixels = normalise(resize_pixels(image, (width, height), config.resize), config)
    if config.box_convention == "inclusive":
        record = _without_thin(record)
    boxes = record.boxes * torch.tensor([*scale, *scale])
    if config.box_convention == "inclusive":
        boxes[:, 2:] += 1 - torch.tensor(scale)  # the last pixel, x2 - 1, is what scales
    if flip:
        pixels = pixels.flip(2)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return Sample(record=record, image=pixels, boxes=boxes, scale=scale)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch, zero-padded to a common size whose sides are multiples of 32 (authors' code)."""
    sizes = tuple((sample.image.shape[1], sample.image.shape[2]) for sample in samples)
    height, width = padded_size(*map(max, zip(*sizes, strict=True)))
    images = [
        functional.pad(sample.image, (0, width - w, 0, height - h))
        for sample, (h, w) in zip(samples, sizes, strict=True)
    ]
    return Batch(
        images=torch.stack(images),
        sizes=sizes,
        gt_boxes=tuple(sample.boxes for sample in samples),
        gt_labels=tuple(sample.record.labels for sample in samples),
        samples=tuple(samples),
    )


def read_categories(directory: Path, split: str) -> dict[int, str]:
    """Category ids and names of a split, in the order of their labels."""
    return read_categories_file(locate_split(directory, split)[0])


def read_categories_file(path: Path) -> dict[int, str]:
    """Category ids and names of a COCO json, in the order of their labels; its other lists are not looked into."""
    content, _ = _read_lists(path)
    list(_refuse(category_problems(content, str(path))))
    return _categories(content)


# The 80 object categories of COCO 2017, by id; a label is a position in this order. Ids have gaps: 1 to 90.
_NAMES_FROM = {
    1: "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant",
    13: "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    27: "backpack, umbrella",
    31: "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,"
    " surfboard, tennis racket, bottle",
    46: "wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza,"
    " donut, cake, chair, couch, potted plant, bed",
    67: "dining table",
    70: "toilet",
    72: "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator",
    84: "book, clock, vase, scissors, teddy bear, hair drier, toothbrush",
}  # runs of successive ids, by their first
COCO_CATEGORIES: dict[int, str] = {
    first + place: name for first, names in _NAMES_FROM.items() for place, name in enumerate(names.split(", "))
}
