"""Detections in parquet: what json says, with json's checks; the tables are real where pyarrow is installed."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from world_columns import objects

from analysis.coco import parquet
from analysis.coco.columns import GroundTruth
from analysis.coco.reading import read_detections
from freeanchor.errors import DataError

ROWS = [
    {"image_id": 2, "category_id": 7, "bbox": [10.1, 20.0, 0.1, 40.3], "score": 0.9},
    {"image_id": 1, "category_id": 9, "bbox": [0.0, 0.0, 5.0, 6.0], "score": 1 / 3},
]
SIDES = ("x", "y", "width", "height")


def as_table(rows, layout: str) -> pd.DataFrame:
    """COCO results as a frame, boxes in a column of arrays (as pyarrow gives lists back) or in four columns."""
    frame = pd.DataFrame(rows)
    boxes = np.array(frame["bbox"].tolist(), dtype=float)
    if layout == "bbox":
        return frame.assign(bbox=list(boxes), note="other columns are left alone")
    return frame.drop(columns="bbox").assign(**dict(zip(SIDES, boxes.T, strict=True)))


@pytest.fixture
def ground_truth() -> GroundTruth:
    """Images 1 and 2, categories 7 and 9."""
    return objects([[0, 0, 10, 10]], category_id=7, image_ids=(1, 2), category_ids=(7, 9))


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes us find a frame in a parquet file, so that no pyarrow is needed."""

    def place(frame: pd.DataFrame) -> Path:
        path = tmp_path / "d.parquet"
        path.write_bytes(b"PAR1")
        monkeypatch.setattr(parquet, "_table", lambda _: frame)
        return path

    return place


@pytest.mark.parametrize("layout", ["bbox", "four columns"])
def test_a_table_is_read_like_json(tmp_path, table, ground_truth, layout):
    """Either layout of boxes gives the columns that the same rows give in json, to the bit."""
    json_path = tmp_path / "d.json"
    json_path.write_text(json.dumps(ROWS))
    expected = read_detections(json_path, ground_truth)
    ours = read_detections(table(as_table(ROWS, layout)), ground_truth)
    for name, column in vars(expected).items():
        np.testing.assert_array_equal(getattr(ours, name), column)


@pytest.mark.parametrize("layout", ["bbox", "four columns"])
def test_a_real_table_is_read_like_json(tmp_path, ground_truth, layout):
    """The same through a file that pyarrow wrote, where it is installed; no rows are no detections."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "d.parquet"
    as_table(ROWS, layout).to_parquet(path)
    detections = read_detections(path, ground_truth)
    assert detections.sizes.tolist() == [[0.1, 40.3], [5.0, 6.0]]
    assert detections.scores.tolist() == [0.9, 1 / 3]
    as_table(ROWS, layout).iloc[:0].to_parquet(path)
    with pytest.warns(UserWarning, match="holds no detections"):
        assert len(read_detections(path, ground_truth)) == 0


def test_ids_written_as_floats_are_ids(table, ground_truth):
    """pandas makes 1.0 of 1 as soon as a table has had gaps."""
    frame = as_table(ROWS, "bbox").astype({"image_id": np.float64, "category_id": np.float32})
    assert read_detections(table(frame), ground_truth).image_id.tolist() == [2, 1]
    with pytest.raises(DataError, match=r'column "image_id" is of type float64; ids must be whole numbers'):
        read_detections(table(frame.assign(image_id=[1e19, 1.0])), ground_truth)


@pytest.mark.parametrize("layout", ["bbox", "four columns"])
def test_more_rows_than_a_file_can_hold_are_refused(tmp_path, monkeypatch, layout):
    """Run lengths and dictionaries pack any number of equal rows into some kB; what is usual passes, whatever its size."""
    pytest.importorskip("pyarrow")
    frame = as_table(ROWS, layout)
    path = tmp_path / "d.parquet"
    many = pd.concat([frame.iloc[:1]] * 30_000, ignore_index=True)
    many.to_parquet(path)
    assert path.stat().st_size < 30_000
    assert len(read_detections(path)) == 30_000
    monkeypatch.setattr(parquet, "_FEW", 20_000)
    with pytest.raises(DataError, match="values of a column in .* bytes, which no detections do") as caught:
        read_detections(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    many["score"] = np.random.default_rng(0).random(len(many))
    many.to_parquet(path)
    assert len(read_detections(path)) == 30_000


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    """The remedy names the package, the extra, and json as the way round."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"needs pyarrow; pip install pyarrow, or give json") as caught:
        read_detections(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_files_that_are_no_table(tmp_path):
    """A missing file, a folder, and where pyarrow is installed one that holds something else."""
    folder, text = tmp_path / "folder.parquet", tmp_path / "text.parquet"
    folder.mkdir()
    text.write_text(json.dumps(ROWS))
    for path, message in ((tmp_path / "none.parquet", "no such file"), (folder, "is a folder")):
        with pytest.raises(DataError, match=message):
            read_detections(path)
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match="not a readable parquet file") as caught:
        read_detections(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("bbox", {"image_id": None}, 'has no column "image_id"; it has category_id'),
        ("bbox", {"bbox": None}, 'has no column "bbox"'),
        ("four columns", {"width": None}, 'has no column "width"'),
        ("bbox", {"score": None}, 'has no column "score"'),
        ("bbox", {"image_id": [1.0, np.nan]}, 'column "image_id" is of type float64; ids must be whole'),
        ("bbox", {"category_id": ["7", "9"]}, 'column "category_id" is of type .*; ids must be whole'),
        ("bbox", {"score": ["high", "low"]}, 'column "score" is of type .*; it must hold numbers'),
        ("bbox", {"score": [0.5, np.nan]}, "detection 1 has score nan"),
        ("bbox", {"bbox": [[0, 0, 1, 1], None]}, "detection in row 1 has bbox None"),
        ("bbox", {"bbox": [[0, 0, 1], [0, 0, 1, 1]]}, "row 0 has bbox .0, 0, 1.; it must be four numbers"),
        ("bbox", {"bbox": [list("abcd"), [0, 0, 1, 1]]}, "something that is not a number"),
        ("bbox", {"bbox": [[0, 0, 1, 1], [0, 0, -1, 1]]}, "detection 1 has bbox"),
        ("four columns", {"height": [1.0, np.inf]}, "detection 1 has bbox"),
        ("bbox", {"image_id": [6, 5]}, "image id 6 .row 0. is not an image"),
        ("bbox", {"category_id": [1, 1]}, "category id 1 .row 0. is not a category"),
    ],
)
def test_bad_tables_are_refused(table, ground_truth, layout, change, message):
    """Each defect is one line that names the file and the column or row."""
    frame = as_table(ROWS, layout)
    for name, values in change.items():
        frame = frame.drop(columns=name) if values is None else frame.assign(**{name: values})
    path = table(frame)
    with pytest.raises(DataError, match=message) as caught:
        read_detections(path, ground_truth)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
