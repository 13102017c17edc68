"""Detections in a parquet table, for files too large to be json.

    read_parquet(Path("candidates.parquet"))
    # such a file: pandas.DataFrame(coco_results).to_parquet("candidates.parquet")

The columns are `image_id`, `category_id`, `score`, and either `bbox` (x, y, width, height) or `x`, `y`, `width`,
`height`. Needs pyarrow, which nothing else here does: the extra `parquet`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.coco.columns import Detections, corners
from freeanchor.errors import DataError

_SIDES = ("x", "y", "width", "height")
_COLUMNS = ("image_id", "category_id", "score", "bbox", *_SIDES)
_FEW = 10**6  # values of a column; run lengths and dictionaries pack more into a small file than detections ever do


def read_parquet(path: Path) -> Detections:
    """The detections or candidates in a parquet table; other columns are not read.

    Raises `DataError` where pyarrow is not installed, the file is damaged, a column is missing or empty in places, ids
    are not whole numbers, boxes are not four finite numbers with sides of 0 or more, or scores are not finite; where a
    column has more values than the file has bytes, too, unless it has a million at most.
    """
    try:
        frame = _table(path)
    except ImportError:
        raise DataError("reading parquet needs pyarrow; pip install pyarrow, or give json") from None
    except DataError:
        raise
    except Exception as error:  # pyarrow's errors are of every kind that Python has
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"not a readable parquet file ({reason}); fetch or write it again") from None
    bbox = _boxes(frame)
    return Detections(
        image_id=_ids(frame, "image_id"),
        category_id=_ids(frame, "category_id"),
        boxes=corners(bbox),
        scores=_numbers(frame, "score"),
        sizes=bbox[:, 2:],
    )


def _table(path: Path) -> pd.DataFrame:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        columns = [[group.column(place) for group in groups] for place in range(file.metadata.num_columns)]
        most = max((sum(chunk.num_values for chunk in column) for column in columns), default=0)
        if most > max(_FEW, path.stat().st_size):
            raise DataError(
                f"holds {most:,} values of a column in {path.stat().st_size:,} bytes, which no detections do; write "
                "the detections anew, or give json"
            )
        return file.read([name for name in file.schema_arrow.names if name in _COLUMNS]).to_pandas()


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        raise DataError(f'has no column "{name}"; it has {", ".join(map(str, frame.columns)) or "none"}')
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise DataError(f'has several columns "{name}"; keep one of them')
    return column


def _ids(frame: pd.DataFrame, name: str) -> np.ndarray:
    column = _column(frame, name)
    if not len(column):
        return np.empty(0, dtype=np.int64)
    if pd.api.types.is_float_dtype(column.dtype) and (column % 1 == 0).all() and column.abs().max() < 2**63:
        return column.to_numpy(dtype=np.float64).astype(np.int64)  # 1.0 is 1
    if not pd.api.types.is_integer_dtype(column.dtype) or column.isna().any() or column.max() >= 2**63:
        raise DataError(
            f'column "{name}" is of type {column.dtype}; ids must be whole numbers of 63 bits, none of them missing'
        )
    return column.to_numpy(dtype=np.int64)


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    column = _column(frame, name)
    if not len(column):
        return np.empty(0)
    kind = column.dtype
    if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        raise DataError(f'column "{name}" is of type {kind}; it must hold numbers')
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _boxes(frame: pd.DataFrame) -> Float[np.ndarray, "D 4"]:
    """The boxes as the file has them, xywh, from one column of lists or from four."""
    if "bbox" not in frame and set(_SIDES) & set(frame.columns):
        return np.stack([_numbers(frame, side) for side in _SIDES], axis=1)
    values = _column(frame, "bbox").tolist()
    for row, box in enumerate(values):
        if not hasattr(box, "__len__") or len(box) != 4:
            raise DataError(f"detection in row {row} has bbox {box!r}; it must be four numbers: x, y, width, height")
    try:
        return np.array(values, dtype=np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        raise DataError("a bbox holds something that is not a number; it must be x, y, width, height") from None
