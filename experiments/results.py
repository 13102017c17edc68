"""What testing gives on one picture, as rows of the files that it leaves.

rows = list(result_rows(prediction.picture, prediction.detections, detector.category_ids))      # COCO results
rows = list(recall_rows(prediction))            # a row an object: its best IoU before and after NMS
rows = list(budget_rows(prediction))            # a row an object and number of candidates
"""

from collections.abc import Iterator

from freeanchor.data.coco import Picture
from freeanchor.detector.postprocess import Candidates
from freeanchor.inference.predict import Prediction

BUDGETS = (10, 30, 100, 300, 1000)  # candidates of a picture, the best, for NMS recall at equal numbers
_IOUS = ("before", "after", "before_same_class", "after_same_class", "after_capped", "after_capped_same_class")
_OBJECT = ("image_id", "annotation_id")
RECALL_COLUMNS = (*_OBJECT, *_IOUS)
BUDGET_COLUMNS = (*_OBJECT, "budget", "num_given", "before", "after")


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


def recall_rows(prediction: Prediction) -> Iterator[dict[str, object]]:
    """A row an object: `RECALL_COLUMNS`, IoUs to 1e-6."""
    columns = [getattr(prediction.recall, name).tolist() for name in _IOUS]
    for annotation_id, *values in zip(prediction.picture.annotation_ids.tolist(), *columns, strict=True):
        ious = dict(zip(_IOUS, (round(value, 6) for value in values), strict=True))
        yield {"image_id": prediction.picture.image_id, "annotation_id": annotation_id, **ious}


def budget_rows(prediction: Prediction) -> Iterator[dict[str, object]]:
    """A row an object and budget of candidates: `BUDGET_COLUMNS`, IoUs to 1e-6."""
    annotation_ids = prediction.picture.annotation_ids.tolist()
    for budget, found in prediction.at_budgets.items():
        sides = found.before.tolist(), found.after.tolist()
        for annotation_id, before, after in zip(annotation_ids, *sides, strict=True):
            values = (prediction.picture.image_id, annotation_id, budget, found.num_given)
            yield dict(zip(BUDGET_COLUMNS, (*values, round(before, 6), round(after, 6)), strict=True))
