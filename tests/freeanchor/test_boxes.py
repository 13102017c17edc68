"""Box geometry: oracle in plain arithmetic, properties, torchvision, and boxes of no area."""

import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from oracles import boxes as oracle
from oracles.inputs import random_boxes
from torch import Tensor

from freeanchor.boxes import box_area, clip_boxes, decode_boxes, encode_boxes, pairwise_iou, xyxy_to_xywh

coordinates = st.floats(-500, 500, width=32)
sides = st.floats(0.5, 400, width=32)
solid_boxes = st.tuples(coordinates, coordinates, sides, sides).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
any_boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
box_lists = st.lists(any_boxes, min_size=1, max_size=5)


def _tensor(boxes: list[tuple]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64)


@given(box_lists, box_lists)
def test_iou_equals_the_oracle(a: list[tuple], b: list[tuple]) -> None:
    """Every pair has the IoU found with plain arithmetic, degenerate boxes included."""
    expected = [[oracle.iou(one, other) for other in b] for one in a]
    torch.testing.assert_close(pairwise_iou(_tensor(a), _tensor(b)), _tensor(expected), rtol=1e-12, atol=1e-12)


@given(box_lists, box_lists)
def test_iou_is_symmetric_and_a_fraction(a: list[tuple], b: list[tuple]) -> None:
    """IoU lies in [0, 1] and does not ask which box comes first."""
    iou = pairwise_iou(_tensor(a), _tensor(b))
    assert ((iou >= 0) & (iou <= 1)).all()
    torch.testing.assert_close(iou, pairwise_iou(_tensor(b), _tensor(a)).T, rtol=0, atol=0)


@given(st.lists(solid_boxes, min_size=1, max_size=5), coordinates, coordinates)
def test_iou_does_not_change_when_the_image_moves(boxes: list[tuple], dx: float, dy: float) -> None:
    """Moving both boxes by the same vector leaves their IoU as it is."""
    still, shift = _tensor(boxes), torch.tensor([dx, dy, dx, dy], dtype=torch.float64)
    torch.testing.assert_close(
        pairwise_iou(still + shift, still.flip(0) + shift), pairwise_iou(still, still.flip(0)), rtol=1e-9, atol=1e-9
    )


@given(solid_boxes)
def test_a_box_overlaps_itself_fully(box: tuple) -> None:
    """The IoU of a box with itself is 1."""
    assert pairwise_iou(_tensor([box]), _tensor([box])).item() == pytest.approx(1.0, abs=1e-12)


def test_iou_of_boxes_of_no_area_is_zero() -> None:
    """An empty union gives 0, not nan, and so does a line or a point inside a real box."""
    flat = _tensor([(5, 5, 5, 5), (2, 0, 2, 9), (0, 0, 10, 10)])
    expected = _tensor([(0, 0, 0), (0, 0, 0), (0, 0, 1)])
    torch.testing.assert_close(pairwise_iou(flat, flat), expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_iou_of_no_boxes_is_an_empty_matrix(shape: tuple[int, int]) -> None:
    """No rows or no columns come out as such."""
    assert pairwise_iou(torch.zeros(shape[0], 4), torch.zeros(shape[1], 4)).shape == shape


def test_iou_and_area_equal_torchvisions() -> None:
    """Random boxes have torchvision's areas and IoU."""
    generator = torch.Generator().manual_seed(0)
    a, b = random_boxes(40, generator), random_boxes(30, generator)
    torch.testing.assert_close(pairwise_iou(a, b), torchvision.ops.box_iou(a, b))
    torch.testing.assert_close(box_area(a), torchvision.ops.box_area(a))


def test_a_box_turned_inside_out_has_no_area() -> None:
    """Corners in the wrong order, on one axis or both, enclose nothing."""
    inside_out = _tensor([(4, 4, 1, 1), (4, 0, 1, 5)])
    assert box_area(inside_out).tolist() == [0, 0]
    assert pairwise_iou(inside_out, _tensor([(0, 0, 5, 5)])).tolist() == [[0], [0]]


@given(any_boxes)
def test_area_equals_the_oracle(box: tuple) -> None:
    """Area is width times height, 0 for lines and points."""
    assert box_area(_tensor([box])).item() == pytest.approx(oracle.area(box), rel=1e-12)


@given(solid_boxes, solid_boxes)
def test_encoding_equals_the_oracle(box: tuple, anchor: tuple) -> None:
    """Deltas are (dx, dy, log width, log height) ratios scaled by (10, 10, 5, 5)."""
    deltas = encode_boxes(_tensor([box]), _tensor([anchor]))
    torch.testing.assert_close(deltas, _tensor([oracle.encode(box, anchor)]), rtol=1e-9, atol=1e-9)


@given(st.tuples(*[st.floats(-30, 30, width=32)] * 4), solid_boxes)
def test_decoding_equals_the_oracle(deltas: tuple, anchor: tuple) -> None:
    """Boxes are the anchor moved and grown; growth is cut at 1000 / 16, shrinkage is not."""
    boxes = decode_boxes(_tensor([deltas]), _tensor([anchor]))
    torch.testing.assert_close(boxes, _tensor([oracle.decode(deltas, anchor)]), rtol=1e-9, atol=1e-9)


@given(solid_boxes, solid_boxes)
def test_decoding_undoes_encoding(box: tuple, anchor: tuple) -> None:
    """Within the growth limit, decoding a box's deltas gives the box back."""
    growth = max((box[2] - box[0]) / (anchor[2] - anchor[0]), (box[3] - box[1]) / (anchor[3] - anchor[1]))
    boxes, anchors = _tensor([box]), _tensor([anchor])
    restored = decode_boxes(encode_boxes(boxes, anchors), anchors)
    if growth < 62.5:
        torch.testing.assert_close(restored, boxes, rtol=1e-9, atol=1e-7)
    else:
        assert (restored[:, 2:] - restored[:, :2] <= 62.5 * (anchors[:, 2:] - anchors[:, :2]) * (1 + 1e-9)).all()


def test_growth_is_clamped_from_above_only() -> None:
    """A side grows at most 62.5 times but may shrink without limit."""
    anchor = _tensor([(0, 0, 16, 16)])
    huge, tiny = decode_boxes(_tensor([(0, 0, 999, 999)]), anchor), decode_boxes(_tensor([(0, 0, -50, -50)]), anchor)
    torch.testing.assert_close(huge, _tensor([(-492, -492, 508, 508)]))
    assert (tiny[0, 2] - tiny[0, 0]).item() == pytest.approx(16 * math.exp(-10), rel=1e-6)


def test_coding_works_over_leading_axes() -> None:
    """A batch [B, A, 4] is coded against anchors [A, 4] as each image is alone."""
    generator = torch.Generator().manual_seed(1)
    anchors = random_boxes(5, generator)
    boxes = torch.stack([random_boxes(5, generator), random_boxes(5, generator)])
    deltas = encode_boxes(boxes, anchors)
    torch.testing.assert_close(deltas[1], encode_boxes(boxes[1], anchors))
    torch.testing.assert_close(decode_boxes(deltas, anchors), boxes)


@pytest.mark.parametrize("box", [(5, 5, 5, 5), (2, 0, 2, 9)])
def test_a_box_of_no_area_has_finite_deltas(box: tuple) -> None:
    """Annotations without width or height code to finite numbers."""
    assert encode_boxes(_tensor([box]), _tensor([(0, 0, 10, 10)])).isfinite().all()


@given(any_boxes, st.floats(1, 300), st.floats(1, 300))
def test_clipping_equals_the_oracle_and_is_idempotent(box: tuple, height: float, width: float) -> None:
    """Boxes end at 0 and at the image's height and width; a second clip changes nothing."""
    original = _tensor([box])
    clipped = clip_boxes(original, height, width)
    torch.testing.assert_close(clipped, _tensor([oracle.clip(box, height, width)]), rtol=1e-12, atol=0)
    torch.testing.assert_close(clip_boxes(clipped, height, width), clipped, rtol=0, atol=0)
    torch.testing.assert_close(original, _tensor([box]), rtol=0, atol=0)  # the argument is untouched


@given(solid_boxes)
def test_boxes_are_written_as_coco_has_them(box: tuple) -> None:
    """(x, y, width, height) of xyxy."""
    x1, y1, x2, y2 = box
    torch.testing.assert_close(xyxy_to_xywh(_tensor([box])), _tensor([(x1, y1, x2 - x1, y2 - y1)]))
