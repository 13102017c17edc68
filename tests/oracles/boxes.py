"""Boxes one number at a time: what `freeanchor/boxes.py` computes, written again with plain arithmetic.

It is slow on purpose and shares nothing with the package. A box is `(x1, y1, x2, y2)` in continuous pixels.

    iou((0, 0, 2, 2), (1, 0, 3, 2))   # 1 / 3
"""

import math

Box = tuple[float, ...]
CODER_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # authors' code, box coder
LARGEST_LOG_RATIO = math.log(1000 / 16)  # authors' code: dw and dh are clamped from above only


def area(box: Box) -> float:
    """Width times height; 0 for a box turned inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """Area of the common part over area of the union; 0 where the union is empty."""
    common = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - common
    return common / union if union > 0 else 0.0


def _centre_form(box: Box) -> Box:
    """The same box as (centre x, centre y, width, height)."""
    width, height = box[2] - box[0], box[3] - box[1]
    return box[0] + width / 2, box[1] + height / 2, width, height


def encode(box: Box, anchor: Box) -> Box:
    """The four deltas that lead from `anchor` to `box`, times (10, 10, 5, 5)."""
    x, y, width, height = _centre_form(box)
    anchor_x, anchor_y, anchor_width, anchor_height = _centre_form(anchor)
    plain = (
        (x - anchor_x) / anchor_width,
        (y - anchor_y) / anchor_height,
        math.log(width / anchor_width),
        math.log(height / anchor_height),
    )
    return tuple(weight * value for weight, value in zip(CODER_WEIGHTS, plain, strict=True))


def decode(deltas: Box, anchor: Box) -> Box:
    """The box that `deltas`, coded with (10, 10, 5, 5), lead to from `anchor`; not clipped to any image."""
    anchor_x, anchor_y, anchor_width, anchor_height = _centre_form(anchor)
    dx, dy, dw, dh = (value / weight for weight, value in zip(CODER_WEIGHTS, deltas, strict=True))
    x, y = anchor_x + dx * anchor_width, anchor_y + dy * anchor_height
    width = anchor_width * math.exp(min(dw, LARGEST_LOG_RATIO))
    height = anchor_height * math.exp(min(dh, LARGEST_LOG_RATIO))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def clip(box: Box, height: float, width: float) -> Box:
    """The part of the box inside the image [0, width] x [0, height]."""
    return (
        min(max(box[0], 0.0), width),
        min(max(box[1], 0.0), height),
        min(max(box[2], 0.0), width),
        min(max(box[3], 0.0), height),
    )
