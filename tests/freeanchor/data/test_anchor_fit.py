"""The fit of anchors to objects is that of all anchors, looked at one by one, though only those nearby are looked at."""

import numpy as np
import pytest
import torch
from oracles.anchor_fit import fit_of

from freeanchor.anchors import AnchorConfig, grid_anchors, padded_size
from freeanchor.boxes import pairwise_iou
from freeanchor.data.anchor_fit import NUM_RANKS, anchor_fit
from freeanchor.data.coco import InputConfig
from freeanchor.data.images import resized_size

P3, P2 = (8, 16, 32, 64, 128), (4, 8, 16, 32, 64)
INPUTS = InputConfig(short_side=96, max_long_side=150)


def _random_images(seed: int, num_images: int = 3, num_objects: int = 4) -> list[tuple[int, int, torch.Tensor]]:
    """Images of any shape; sides of objects from a pixel to the whole image, evenly in their logarithm."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(num_images):
        width, height = generator.integers(40, 400, size=2).tolist()
        sides = np.exp(generator.uniform(0, np.log([width, height]), size=(num_objects, 2)))
        corners = generator.uniform(0, 1, size=(num_objects, 2)) * ([width, height] - sides)
        boxes = np.hstack([corners, corners + sides]).astype(np.float32)
        images.append((width, height, torch.from_numpy(boxes)))
    return images


def _config(strides: tuple[int, ...], size: float, **settings) -> AnchorConfig:
    return AnchorConfig(sizes=tuple(size * stride for stride in strides), strides=strides, **settings)


def _by_all_anchors(images, inputs: InputConfig, anchors: AnchorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and counts from every anchor's IoU with every object: how the stored `bag_overlap.csv` were computed."""
    ious, counts = [np.zeros((0, NUM_RANKS), dtype=np.float32)], [np.zeros(0, dtype=np.int64)]
    for width, height, boxes in images:
        w, h = resized_size(width, height, inputs.short_side, inputs.max_long_side)
        size = padded_size(h, w)
        grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in anchors.strides]
        scaled = boxes * torch.tensor([w / width, h / height] * 2)
        all_ious = pairwise_iou(scaled, grid_anchors(anchors, grids, size))
        best = all_ious.topk(min(NUM_RANKS, all_ious.shape[1]), dim=1).values
        ious.append(np.pad(best.numpy(), ((0, 0), (0, NUM_RANKS - best.shape[1]))))
        counts.append((all_ious >= 0.5).sum(dim=1).numpy())
    return np.concatenate(ious), np.concatenate(counts)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("strides", "size"), [(P3, 4.0), (P2, 4.0), (P2, 2.0), (P3, 3.0)])
def test_it_equals_plain_loops(seed: int, strides: tuple[int, ...], size: float) -> None:
    """Ranks, counts, cells and pixels, for random objects from a pixel to the whole image."""
    images = _random_images(seed, num_images=2, num_objects=3)
    fit = anchor_fit(images, INPUTS, _config(strides, size))
    plain = [(width, height, [tuple(box) for box in boxes.tolist()]) for width, height, boxes in images]
    expected = fit_of(plain, strides, size, 96, 150)
    np.testing.assert_allclose(fit.ious.numpy(), expected.ious, atol=2e-5)
    assert fit.num_fitting.tolist() == expected.fitting
    assert fit.num_cells == pytest.approx(np.mean(expected.cells))
    assert fit.num_pixels == pytest.approx(np.mean(expected.pixels))


@pytest.mark.parametrize("geometry", ["exact", "legacy", "torchvision"])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("size", [0.5, 2.0, 4.0, 9.0])
def test_no_anchor_is_missed(geometry, offset: float, size: float) -> None:
    """Whatever the grid: the ranks of all anchors to 1e-5, the counts exactly; the stored reports' arithmetic."""
    config = _config(P2, size, geometry=geometry, centre_offset=offset)
    images = _random_images(7, num_images=8, num_objects=6)
    fit = anchor_fit(images, INPUTS, config)
    ious, counts = _by_all_anchors(images, INPUTS, config)
    np.testing.assert_allclose(fit.ious.numpy(), ious, rtol=0, atol=1e-5)
    assert fit.num_fitting.tolist() == counts.tolist()


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 400, 300),  # the whole image
        (0, 150, 400, 151),  # a line through all columns: hundreds of anchors share each IoU
        (399, 0, 400, 300),
        (200, 150, 200.01, 150.01),  # next to nothing
        (0, 0, 2, 2),  # in a corner, where half of the cells around it are missing
        (10, 10, 10, 60),  # no area
        (96, 96, 128, 128),  # an anchor itself
    ],
)
@pytest.mark.parametrize("short_side", [32, 300])
def test_odd_objects_are_found_their_anchors(box: tuple[float, ...], short_side: int) -> None:
    """Objects at the edge of what a box can be, alone, on a single row of cells and on many."""
    images = [(400, 300, torch.tensor([box], dtype=torch.float32))]
    inputs, config = InputConfig(short_side=short_side, max_long_side=400), _config(P3, 4.0)
    fit = anchor_fit(images, inputs, config)
    ious, counts = _by_all_anchors(images, inputs, config)
    np.testing.assert_allclose(fit.ious.numpy(), ious, rtol=0, atol=1e-5)
    assert fit.num_fitting.tolist() == counts.tolist()


def test_images_without_objects_count_as_images() -> None:
    """They have cells and pixels; no image and no object at all give empty columns."""
    empty = torch.zeros(0, 4)
    fit = anchor_fit([(96, 96, empty), (96, 96, torch.tensor([[5.0, 5, 40, 40]]))], INPUTS, AnchorConfig())
    assert fit.ious.shape == (1, NUM_RANKS) and fit.num_cells == 144 + 36 + 9 + 4 + 1 and fit.num_pixels == 96 * 96
    assert anchor_fit([(96, 96, empty)], INPUTS, AnchorConfig()).ious.shape == (0, NUM_RANKS)
    assert anchor_fit([], INPUTS, AnchorConfig()).num_cells == 0


def test_objects_do_not_depend_on_each_other() -> None:
    """One by one, they have the ranks that they have together."""
    images = _random_images(3, num_images=4, num_objects=3)
    together = anchor_fit(images, INPUTS, AnchorConfig())
    alone = [
        anchor_fit([(width, height, box[None])], INPUTS, AnchorConfig())
        for width, height, boxes in images
        for box in boxes
    ]
    torch.testing.assert_close(together.ious, torch.cat([fit.ious for fit in alone]))
