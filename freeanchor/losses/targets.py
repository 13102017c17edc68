"""The door of every loss: predictions and ground truth of a batch, checked once and brought into one form.

    deltas, anchors, boxes, labels = checked(logits, deltas, anchors, gt_boxes, gt_labels)

Ground truth comes as lists, one tensor per image, or padded: [B, M, 5] with rows (x1, y1, x2, y2, label) of which those
of label -1 are padding. Values are looked at in one transfer per batch, however many images it has and in either form.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from freeanchor.losses.focal import widen

LARGEST_COORDINATE = 2.0**60  # px: areas of such boxes are still far from where float32 ends
PADDING = -1  # the label of a row that is no object
Ragged = Sequence[Tensor] | Tensor


def checked(
    logits: Tensor, deltas: Tensor, anchors: Tensor, gt_boxes: Ragged, gt_labels: Ragged | None
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Deltas and anchors [A, 4] in float32 or wider, and per image boxes [G, 4] as wide and labels [G] in int64.

    Raises ValueError where shapes, kinds or devices do not fit, where a box is not finite or has its corners in the
    wrong order, and where a label is no class: 0 to K - 1.
    """
    anchors = anchors[0] if anchors.ndim == 3 and len(anchors) == 1 else anchors
    _check_predictions(logits, deltas, anchors)
    found = _without_padding(gt_boxes, gt_labels, anchors, logits) if isinstance(gt_boxes, Tensor) else None
    boxes, labels = found or _checked_lists(gt_boxes, gt_labels, anchors, logits)
    deltas, anchors = widen(deltas), widen(anchors)
    return deltas, anchors, [own.to(anchors) for own in boxes], labels


def _checked_lists(
    gt_boxes: Ragged, gt_labels: Ragged | None, anchors: Tensor, logits: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    boxes, labels = _as_lists(gt_boxes, gt_labels)
    if not len(logits) == len(boxes) == len(labels):
        raise ValueError(f"{len(logits)} images, {len(boxes)} gt_boxes and {len(labels)} gt_labels do not pair up")
    pairs = [_of_image(image, *own) for image, own in enumerate(zip(boxes, labels, strict=True))]
    boxes, labels = [own for own, _ in pairs], [own for _, own in pairs]
    _check_values(boxes, labels, anchors, logits)
    return boxes, labels


def _without_padding(
    gt_boxes: Tensor, gt_labels: Ragged | None, anchors: Tensor, logits: Tensor
) -> tuple[list[Tensor], list[Tensor]] | None:
    """Padded ground truth as lists by one transfer; None where it has a fault, or padding before an object."""
    if gt_labels is None and gt_boxes.ndim == 3 and gt_boxes.shape[2] == 5:
        gt_boxes, gt_labels = gt_boxes[..., :4], gt_boxes[..., 4]
    elif not isinstance(gt_labels, Tensor) or gt_labels.dtype not in (torch.int32, torch.int64):
        return None
    is_shaped = gt_boxes.shape == (*gt_labels.shape, 4) and gt_labels.ndim == 2 and len(gt_labels) == len(logits)
    if not (is_shaped and gt_boxes.is_floating_point() and gt_boxes.device == gt_labels.device == logits.device):
        return None
    kept, labels = gt_labels != PADDING, gt_labels.long()
    faults = kept & ((labels != gt_labels) | (labels < 0) | (labels >= logits.shape[2]) | ~_are_corners(gt_boxes))
    is_faulty = faults.any() | (kept[:, 1:] > kept[:, :-1]).any() | ~_are_finite(anchors)
    *counts, found = torch.cat([kept.sum(dim=1), is_faulty[None]]).tolist()  # the one transfer
    if found:
        return None
    cut = [[own[:count] for own, count in zip(padded, counts, strict=True)] for padded in (gt_boxes, labels)]
    return cut[0], cut[1]


def _are_finite(anchors: Tensor) -> Tensor:
    lowest, highest = anchors.aminmax() if len(anchors) else (anchors.new_zeros(()),) * 2
    return (lowest >= -LARGEST_COORDINATE) & (highest <= LARGEST_COORDINATE)  # NaN is neither


def _check_predictions(logits: Tensor, deltas: Tensor, anchors: Tensor) -> None:
    if logits.ndim != 3 or logits.shape[2] < 1:
        raise ValueError(f"logits are {_shape(logits)}; give [B, A, K]: images, anchors, classes")
    if deltas.shape != (*logits.shape[:2], 4):
        raise ValueError(f"deltas are {_shape(deltas)} beside logits {_shape(logits)}; give [B, A, 4] of the same A")
    if anchors.shape != (logits.shape[1], 4):
        raise ValueError(
            f"anchors are {_shape(anchors)} beside logits {_shape(logits)}; give [A, 4], one for all images"
        )
    for name, tensor in (("logits", logits), ("deltas", deltas), ("anchors", anchors)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} are {tensor.dtype}; give floating-point numbers")
        if tensor.device != logits.device:
            raise ValueError(f"{name} are on {tensor.device}, logits on {logits.device}; put both on one device")


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _as_lists(gt_boxes: Ragged, gt_labels: Ragged | None) -> tuple[list[Tensor], list[Tensor]]:
    """Padded ground truth without its padding; lists as they are."""
    if gt_labels is None:
        if not (isinstance(gt_boxes, Tensor) and gt_boxes.ndim == 3 and gt_boxes.shape[2] == 5):
            raise ValueError(
                "no gt_labels are given; give one per box, or padded targets [B, M, 5] with the label last"
            )
        gt_boxes, gt_labels = gt_boxes[..., :4], gt_boxes[..., 4]
        is_whole = gt_labels == gt_labels.round()
        if not bool(is_whole.all()):
            raise ValueError("padded targets have labels that are no whole numbers; give 0 to K - 1, or -1 for padding")
        gt_labels = gt_labels.long()
    if isinstance(gt_boxes, Tensor) and isinstance(gt_labels, Tensor) and gt_boxes.ndim == 3 and gt_labels.ndim == 2:
        if gt_boxes.shape[:2] != gt_labels.shape:
            raise ValueError(f"gt_boxes are {_shape(gt_boxes)}, gt_labels {_shape(gt_labels)}; give one label per box")
        kept = gt_labels != PADDING
        images = range(len(kept))
        return [gt_boxes[image][kept[image]] for image in images], [gt_labels[image][kept[image]] for image in images]
    return list(gt_boxes), list(gt_labels)


def _of_image(image: int, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    boxes = boxes.reshape(0, 4) if boxes.shape == (0,) else boxes  # torch.tensor([]) is an image without objects
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ValueError(f"image {image} has gt_boxes of {boxes.dtype} {_shape(boxes)}; give numbers, [G, 4] as xyxy")
    if labels.numel() and (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
        raise ValueError(f"image {image} has gt_labels of {labels.dtype}; give whole numbers, such as labels.long()")
    if labels.ndim != 1 or len(boxes) != len(labels):
        raise ValueError(
            f"image {image} has {len(boxes)} gt_boxes and {labels.numel()} gt_labels {_shape(labels)}; give one label "
            "per box"
        )
    return boxes, labels.long()  # of uint8, arithmetic would wrap


def _are_corners(boxes: Tensor) -> Tensor:
    return (boxes.abs() <= LARGEST_COORDINATE).all(dim=-1) & (boxes[..., 2:] >= boxes[..., :2]).all(dim=-1)


def _check_values(boxes: list[Tensor], labels: list[Tensor], anchors: Tensor, logits: Tensor) -> None:
    num_classes = logits.shape[2]
    if any(own.device != logits.device for own in (*boxes, *labels)):
        raise ValueError(f"gt_boxes or gt_labels are not on {logits.device}, as the logits are; move them there")
    faults = [
        (label < 0) | (label >= num_classes) | ~_are_corners(box) for box, label in zip(boxes, labels, strict=True)
    ]
    if not bool(torch.cat([*faults, ~_are_finite(anchors)[None]]).any()):  # the one transfer
        return
    if not bool(torch.cat(faults).any()):
        place = int((~(anchors.abs() <= LARGEST_COORDINATE)).nonzero()[0, 0])
        raise ValueError(f"anchor {place} is {anchors[place].tolist()}; corners must be finite and below 2^60")
    image = next(image for image, found in enumerate(faults) if bool(found.any()))
    place = int(faults[image].nonzero()[0, 0])
    label, box = int(labels[image][place]), boxes[image][place].tolist()
    if not 0 <= label < num_classes:
        raise ValueError(f"image {image} has label {label}; labels are 0 to {num_classes - 1}, not category ids")
    raise ValueError(
        f"image {image} has gt_box {place} {box}; corners must be finite, below 2^60, x1 <= x2 and y1 <= y2"
    )
