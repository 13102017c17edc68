"""Candidates too many to be held at once: a results file in blocks of whole images, as detectors write them.

    for block in image_blocks(Path("candidates.json.gz"), ground_truth):
        block.image_id                  # of some images, with all their candidates

Streaming is for files with nothing to be told of. Where a file lists an image in two places, has ids that the ground
truth lacks, or raises a suspicion, `NotInPieces` is raised, and the reader of whole files takes over and says so. No
suspicion is missed: each is of a share of the rows, and no share of the whole exceeds that of every block.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.pieces import NotInPieces, ResultRows, joined, result_pieces
from analysis.coco.suspicions import detection_suspicions
from freeanchor.errors import DataError

STREAMED_FROM = 20_000_000  # bytes; smaller files are read as a whole
_ENOUGH = 10_000  # rows of a block for a share to mean something; the last one may be a single image


def is_streamed(source: object) -> bool:
    """Whether a source is a json file so large that it is read in blocks."""
    if not isinstance(source, Path | str) or Path(source).suffix == ".parquet":
        return False
    path = Path(source)
    return path.is_file() and path.stat().st_size > STREAMED_FROM


def image_blocks(path: Path, ground_truth: GroundTruth) -> Iterator[Detections]:
    """Blocks of rows, each image in one of them; raises `NotInPieces` for a file that needs the other reader."""
    is_done = np.zeros(len(ground_truth.image_ids), dtype=bool)
    rest: ResultRows | None = None
    for rows in result_pieces(path):
        if not np.isin(rows.category_id, ground_truth.category_ids).all():
            raise NotInPieces("a category that is not listed")
        rows = rows if rest is None else joined([rest, rows])
        image = _places(rows.image_id, ground_truth.image_ids)
        if is_done[image].any():
            raise NotInPieces("an image in two places")
        is_last = rows.image_id == rows.image_id[-1]  # may go on in the next piece
        rest = rows.take(is_last)
        if not is_last.all():
            is_done[image[~is_last]] = True
            yield _checked(rows.take(~is_last), ground_truth)
    if rest is not None:
        yield _checked(rest, ground_truth)


def _places(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    if (known[place] != ids).any():
        raise NotInPieces("an image that is not listed")
    return place


def _checked(rows: ResultRows, ground_truth: GroundTruth) -> Detections:
    try:
        block = rows.as_detections()
    except DataError as error:  # names the row in the block, not in the file
        raise NotInPieces(str(error)) from None
    if len(block) >= _ENOUGH and any(detection_suspicions(block, ground_truth)):
        raise NotInPieces("something to be told of")
    return block
