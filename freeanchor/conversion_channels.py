"""The rows of the two output convolutions, which each code base lays out its own way (FACTS G2), to and from ours.

Ours are ratio-major, then class or delta; deltas are coded with (10, 10, 5, 5). torchvision has a slot for every
number up to the highest category id; detectron2 is scale-major; torchvision, detectron2 and mmdetection's RetinaNet
code deltas without a factor.

    rows = channels_of("torchvision", detector).to_ours("cls_head.output.weight", tensor)
"""

from dataclasses import dataclass

from torch import Tensor

from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.checkpoints import DetectorConfig
from freeanchor.conversion_keys import Format
from freeanchor.conversion_layout import PER_CELL

UNUSED_BIAS = -20.0  # of class slots that stand for nothing: a score of 2e-9


@dataclass(frozen=True, kw_only=True)
class Channels:
    """How a code base lays out the rows of the output convolutions.

    `slots` holds the class channel of each label among an anchor's `num_slots`; `scale_major` the order of anchors in a
    cell; `delta_scale` what their (dx, dy, dw, dh) are multiplied by to be ours.
    """

    slots: tuple[int, ...]
    num_slots: int
    scale_major: bool
    delta_scale: tuple[float, ...]

    def to_ours(self, name: str, tensor: Tensor) -> Tensor:
        """One of their tensors under our `name`, its rows in our order and scale."""
        if name.startswith("cls_head.output."):
            return self._reordered(tensor.unflatten(0, (PER_CELL, self.num_slots)))[:, list(self.slots)].flatten(0, 1)
        if name.startswith("box_head.output."):
            rows = self._reordered(tensor.unflatten(0, (PER_CELL, 4)))
            return (rows * self._scale_of(rows)).flatten(0, 1)
        return tensor

    def to_theirs(self, name: str, tensor: Tensor) -> Tensor:
        """The inverse of `to_ours`; classes that we do not have get no weight and a score of nothing."""
        if name.startswith("cls_head.output."):
            rows = tensor.unflatten(0, (PER_CELL, len(self.slots)))
            filling = UNUSED_BIAS if name.endswith("bias") else 0.0
            full = rows.new_full((PER_CELL, self.num_slots, *rows.shape[2:]), filling)
            full[:, list(self.slots)] = rows
            return self._reordered(full).flatten(0, 1)
        if name.startswith("box_head.output."):
            rows = tensor.unflatten(0, (PER_CELL, 4))
            return self._reordered(rows / self._scale_of(rows)).flatten(0, 1)
        return tensor

    def _reordered(self, rows: Tensor) -> Tensor:
        """Anchors between scale-major and ratio-major order, which are each other's transpose: three of each."""
        return rows.unflatten(0, (3, 3)).transpose(0, 1).flatten(0, 1) if self.scale_major else rows

    def _scale_of(self, rows: Tensor) -> Tensor:
        """The scale of the deltas, shaped like an anchor's rows."""
        return rows.new_tensor(self.delta_scale).reshape(4, *(1,) * (rows.ndim - 2))


def channels_of(format: Format, detector: DetectorConfig, num_slots: int | None = None) -> Channels:
    """The layout of `format`; torchvision's slots are raw category ids, `num_slots` or up to the highest id."""
    ids = detector.category_ids
    raw_ids = format == "torchvision"
    plain = format in ("torchvision", "detectron2") or (format == "mmdetection" and detector.detector == "RetinaNet")
    return Channels(
        slots=ids if raw_ids else tuple(range(len(ids))),
        num_slots=(num_slots or max(ids) + 1) if raw_ids else len(ids),
        scale_major=format == "detectron2",
        delta_scale=tuple(weight ** (plain - detector.model.plain_deltas) for weight in DELTA_WEIGHTS),
    )
