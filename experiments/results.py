"""Detections and candidates of one picture in COCO results format.

rows = list(result_rows(prediction.picture, prediction.detections, detector.category_ids))
"""

from collections.abc import Iterator

from freeanchor.data import Picture
from freeanchor.postprocess import Candidates


def result_rows(picture: Picture, found: Candidates, category_ids: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """A row a box: image_id, category_id, bbox (x, y, width, height in the file's pixels, to 0.001), score."""
    for (x1, y1, x2, y2), score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        yield {
            "image_id": picture.image_id,
            "category_id": category_ids[label],
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 6),
        }
