"""What an evaluation may be told: size ranges, aspect cuts, crowd bins, detections that count, IoU thresholds.

    COCO_PROTOCOL                                               # COCO's, and this project's breakdowns
    Protocol(max_detections=300, iou_thresholds=(0.5, 0.75), size_cuts=(16, 32, 96))
    protocol.area_subsets(ground_truth, detections)["small"]

The defaults give the metrics their usual names. Other cuts have names of their own (`ap_size_16_32`), so that no number
is taken for COCO's.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from analysis.coco.columns import COUNTED_AREA, Detections, GroundTruth
from analysis.evaluation.breakdowns import (
    CROWDEDNESS_EDGES,
    AspectCuts,
    aspect_ratio,
    aspect_subset,
    crowdedness_bins,
)
from analysis.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS, Subset
from analysis.evaluation.precision import ALL_AREAS, subset_within
from freeanchor.errors import UsageError

COCO_SIZE_CUTS = (32.0, 96.0)  # square roots of COCO's areas, pixels
_USUAL = AspectCuts()


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How to evaluate; raises `UsageError` for what means nothing."""

    size_cuts: tuple[float, ...] = COCO_SIZE_CUTS  # square roots of areas, in pixels; a cut belongs to both sides
    aspect_cuts: tuple[float, ...] = (_USUAL.square, _USUAL.slender)  # long side to short side; to both sides
    crowd_edges: tuple[int, ...] = CROWDEDNESS_EDGES  # the lowest number of objects of each bin
    max_detections: int = MAX_DETECTIONS  # of an image and category
    iou_thresholds: tuple[float, ...] = tuple(IOU_THRESHOLDS.tolist())

    def __post_init__(self) -> None:
        _check_rising("size_cuts", self.size_cuts, above=0, remedy="32 96 are COCO's")
        _check_rising("aspect_cuts", self.aspect_cuts, above=1, remedy="1.333 3 are usual")
        _check_rising("crowd_edges", self.crowd_edges, above=0, remedy="1 4 8 13 are usual")
        _check_rising("iou_thresholds", self.iou_thresholds, above=0, remedy="0.5 0.75 for instance")
        if self.iou_thresholds[-1] >= 1:
            raise UsageError(f"iou_thresholds must lie below 1, got {self.iou_thresholds[-1]}; pass fractions")
        if self.max_detections < 1:
            raise UsageError(f"max_detections must be at least 1, got {self.max_detections}; COCO's is 100")

    @property
    def is_record(self) -> bool:
        """Whether COCO's twelve statistics are what it computes."""
        usual = COCO_PROTOCOL
        names = ("size_cuts", "max_detections", "iou_thresholds")
        return all(getattr(self, name) == getattr(usual, name) for name in names)

    @property
    def note(self) -> str:
        """That `ap` is not COCO's, where it is another one's mean; else empty."""
        usual, said = COCO_PROTOCOL, []
        if self.iou_thresholds != usual.iou_thresholds:
            said.append(f"IoU {', '.join(f'{iou:g}' for iou in self.iou_thresholds)}")
        if self.max_detections != usual.max_detections:
            said.append(f"{self.max_detections} detections of an image and class")
        return f"Not COCO's AP: over {' and '.join(said)}." if said else ""

    @property
    def limits(self) -> tuple[int, ...]:
        """How many detections of an image and category AR is taken at: 1, 10, and all that count."""
        return (*(limit for limit in (1, 10) if limit < self.max_detections), self.max_detections)

    @property
    def single_ious(self) -> tuple[float, ...]:
        """The thresholds whose AP stands alone too: 0.5 and 0.75 of COCO's ten, all of fewer."""
        few = len(self.iou_thresholds) < len(IOU_THRESHOLDS)
        return tuple(iou for iou in self.iou_thresholds if few or np.isclose(iou, [0.5, 0.75]).any())

    def thresholds(self) -> Float[np.ndarray, " T"]:
        """The IoU thresholds as an array."""
        return np.array(self.iou_thresholds)

    def area_ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest area of each size, both included: small, medium and large, or `size_<low>_<high>`."""
        names = ["small", "medium", "large"] if self.size_cuts == COCO_SIZE_CUTS else _names("size", self.size_cuts, 0)
        areas = [0.0, *(cut**2 for cut in self.size_cuts), COUNTED_AREA]
        return dict(zip(names, pairwise(areas), strict=True))

    def aspect_ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest aspect ratio of each shape: square, middle and slender, or `aspect_<low>_<high>`."""
        if self.aspect_cuts == (_USUAL.square, _USUAL.slender):
            return _USUAL.ranges()
        edges = [1.0, *self.aspect_cuts, float("inf")]
        return dict(zip(_names("aspect", self.aspect_cuts, 1), pairwise(edges), strict=True))

    def all_objects(self, ground_truth: GroundTruth, detections: Detections) -> Subset:
        """Every object that COCO counts."""
        return subset_within(ground_truth, detections, *ALL_AREAS)

    def area_subsets(self, ground_truth: GroundTruth, detections: Detections) -> dict[str, Subset]:
        """COCO's sizes, or those asked for: objects by their `area`, detections by their box."""
        return {name: subset_within(ground_truth, detections, *ends) for name, ends in self.area_ranges().items()}

    def aspect_subsets(self, ground_truth: GroundTruth, detections: Detections) -> dict[str, Subset]:
        """Shapes, under the same rules."""
        return {name: aspect_subset(ground_truth, detections, *ends) for name, ends in self.aspect_ranges().items()}

    def crowd_bins(self, ground_truth: GroundTruth) -> dict[str, Bool[np.ndarray, " N"]]:
        """The images of each bin of crowdedness."""
        return crowdedness_bins(ground_truth, self.crowd_edges)

    def counts(self, ground_truth: GroundTruth) -> dict[str, tuple[int, int]]:
        """Objects and images that each of `ap_<part>` and `ar_<part>` is about, crowd regions left out."""
        aspects = aspect_ratio(ground_truth.sizes)

        def within(measure: np.ndarray, low: float, high: float) -> tuple[int, int]:
            own = ~ground_truth.iscrowd & (measure >= low) & (measure <= high)
            return int(own.sum()), len(np.unique(ground_truth.image_id[own]))

        whole = within(ground_truth.area, *ALL_AREAS)[0], len(ground_truth.image_ids)
        sized = {name: within(ground_truth.area, *ends) for name, ends in self.area_ranges().items()}
        rows = dict.fromkeys(("ap", *(f"ap_{percent(iou)}" for iou in self.single_ious)), whole)
        rows |= {f"ap_{name}": count for name, count in sized.items()}
        rows |= {f"ar_{limit}": whole for limit in self.limits} | {f"ar_{name}": own for name, own in sized.items()}
        rows |= {f"ap_{name}": within(aspects, *ends) for name, ends in self.aspect_ranges().items()}
        num_objects = np.bincount(ground_truth.image_index[~ground_truth.iscrowd], minlength=whole[1])
        for name, images in self.crowd_bins(ground_truth).items():
            rows[f"ap_{name}"] = int(num_objects[images].sum()), int(images.sum())
        return rows


def percent(iou: float) -> str:
    """A threshold as metrics are named: 50 for 0.5, 62_5 for 0.625."""
    return f"{round(100 * iou, 6):g}".replace(".", "_")


def _names(kind: str, cuts: tuple[float, ...], lowest: float) -> list[str]:
    edges = [f"{edge:g}" for edge in (lowest, *cuts)]
    return [*(f"{kind}_{low}_{high}" for low, high in pairwise(edges)), f"{kind}_{edges[-1]}_plus"]


def _check_rising(name: str, values: tuple[float, ...], *, above: float, remedy: str) -> None:
    if not values or list(values) != sorted(set(values)) or not above < values[0] or not np.isfinite(values[-1]):
        given = " ".join(f"{value:g}" for value in values)
        raise UsageError(f"{name} must rise, all above {above}, got {given or 'none'}; {remedy}")


COCO_PROTOCOL = Protocol()
