"""Results files read in pieces: the same numbers as the json reader's, or left to it."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.coco import reading
from analysis.coco.pieces import NotInPieces, read_results, result_pieces

NUMBERS = st.one_of(
    st.floats(-1e4, 1e4), st.integers(-1000, 1000), st.floats(1e-12, 1e-7), st.just(-0.0), st.just(1e22)
)
WRITERS = {
    "as Python writes": json.dumps,
    "compact": lambda rows: json.dumps(rows, separators=(",", ":")),
    "indented": lambda rows: json.dumps(rows, indent=1),
    "sorted": lambda rows: json.dumps(rows, sort_keys=True),
    "with a row per line": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
    "with another key": lambda rows: json.dumps([{"id": i, **row, "segment": [i, 1]} for i, row in enumerate(rows)]),
    "with names": lambda rows: json.dumps([{**row, "file": f"image {i}.jpg"} for i, row in enumerate(rows)]),
    "in changing order": lambda rows: json.dumps(
        [dict(sorted(row.items(), reverse=i % 2)) for i, row in enumerate(rows)]
    ),
}


def results(count: int, seed: int = 0) -> list[dict]:
    """Rows as detectors write them."""
    generator = np.random.default_rng(seed)
    return [
        {
            "image_id": int(generator.integers(9)),
            "category_id": int(generator.integers(1, 4)),
            "bbox": generator.uniform(0, 90, 4).round(2).tolist(),
            "score": round(float(generator.random()), 5),
        }
        for _ in range(count)
    ]


def assert_equal(rows, expected: list[dict]) -> None:
    """The columns hold what the rows do, to the bit."""
    for name, key in (("image_id", "image_id"), ("category_id", "category_id"), ("bbox", "bbox"), ("score", "score")):
        np.testing.assert_array_equal(getattr(rows, name), np.array([row[key] for row in expected]))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_any_writers_rows_are_read_alike(tmp_path, writer, is_packed):
    """Whatever keys, blanks and order a writer has, whole or gzipped, in pieces of any size."""
    expected, path = results(60), tmp_path / "found.json"
    content = WRITERS[writer](expected).encode()
    path.write_bytes(gzip.compress(content) if is_packed else content)
    for size in (300, 1000, 10**6):
        pieces = list(result_pieces(path, size))
        assert len(pieces) > 1 or size > 10**5
        for name in ("image_id", "category_id", "bbox", "score"):
            together = np.concatenate([getattr(rows, name) for rows in pieces])
            np.testing.assert_array_equal(together, np.array([row[name] for row in expected]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[NUMBERS] * 5), min_size=1, max_size=8))
def test_numbers_are_read_to_the_bit(tmp_path_factory, rows):
    """Exponents, signs and seventeen digits come out as the json reader has them."""
    path = tmp_path_factory.mktemp("numbers") / "found.json"
    expected = [{"image_id": 1, "category_id": 2, "bbox": list(row[:4]), "score": row[4]} for row in rows]
    path.write_text(json.dumps(expected))
    assert_equal(read_results(path), expected)


NOT_IN_PIECES = {
    "an object": '{"image_id": 1}',
    "an empty list": "[ ]",
    "nothing": "",
    "a cut file": json.dumps(results(5))[:-9],
    "a missing field": '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]}]',
    "a box of three": '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 0.5}]',
    "a gap": '[{"image_id": 1, "category_id": 2, "bbox": [1, , 3, 4], "score": 0.5}]',
    "two numbers in one place and none in another": (
        '[{"image_id": 1, "category_id": 2, "bbox": [1 2, , 3, 4], "score": 0.5}]'
    ),
    "an id that is not whole": '[{"image_id": 1.5, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]',
    "an id beyond floats": '[{"image_id": 9007199254740993, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]',
    "a truth value": '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": true}]',
    "text behind the list": json.dumps(results(3)) + "x",
    "one key twice": '[{"image_id": 1, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]',
}


@pytest.mark.parametrize("case", NOT_IN_PIECES)
def test_what_is_no_plain_list_is_left_to_the_reader_of_whole_files(tmp_path, case):
    """Nothing is guessed: the other reader takes it or says what is wrong."""
    path = tmp_path / "found.json"
    path.write_text(NOT_IN_PIECES[case])
    with pytest.raises(NotInPieces):
        read_results(path)


def test_gzip_that_unpacks_without_end_is_left_alone(tmp_path):
    """The limit of packed files holds here too."""
    path = tmp_path / "found.json.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 30_000_000 + b"]"))
    with pytest.raises(NotInPieces):
        read_results(path)


def test_read_detections_takes_the_fast_way(tmp_path, monkeypatch):
    """A plain file never meets the reader that makes objects."""
    path = tmp_path / "found.json"
    path.write_text(json.dumps(results(40)))
    expected = reading._json_detections(path, "")[1]
    monkeypatch.setattr(reading, "_json_detections", None)
    own = reading.read_detections(path)
    for name, column in vars(expected).items():
        np.testing.assert_array_equal(getattr(own, name), column)
