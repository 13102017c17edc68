"""Slices and other settings of COCO's protocol: pycocotools' numbers on rewritten files; files that name slices."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from oracles.coco_slices import evaluated, mean_precision, mean_recall
from oracles.coco_worlds import coco_worlds
from oracles.plain_files import random_sets
from world_columns import columns

from analysis.evaluation.evaluate import Wanted, comparison_frames, evaluation_frames
from analysis.evaluation.protocol import Protocol
from analysis.evaluation.slices import Slice, read_slices
from freeanchor.errors import DataError, UsageError

SIZES = [[0, 1e10], [0, 20.0**2], [20.0**2, 50.0**2], [50.0**2, 1e10]]


def _slices_agree(world) -> None:
    truth, found = columns(world)
    ids = {
        "odd": {int(i) for i in truth.annotation_id if i % 2},
        "rest": {int(i) for i in truth.annotation_id if not i % 2},
    }
    rows = [{"annotation_id": int(i), "kind": "odd" if i % 2 else "rest"} for i in truth.annotation_id]
    images = [{"image_id": int(i), "place": "far" if i > 4 else "near"} for i in truth.image_ids]
    slices = [*(read_slices(rows, truth) if rows else []), *read_slices(images, truth)]
    table = evaluation_frames(truth, found, Wanted(slices=slices), num_resamples=0)["slices"]
    for one in slices:
        if one.kind == "object":
            theirs = evaluated(world.content, world.found, outside=set(truth.annotation_id.tolist()) - ids[one.value])
        else:
            theirs = evaluated(world.content, world.found, images=truth.image_ids[one.images].tolist())
        ours = table[table["slice"] == one.name].set_index("metric")["value"]
        expected = [mean_precision(theirs), mean_precision(theirs, iou=0), mean_recall(theirs)]
        np.testing.assert_allclose(ours[["ap", "ap_50", "ar_100"]], expected, rtol=0, atol=1e-12)


@given(world=coco_worlds())
@settings(max_examples=5)
def test_slices_equal_pycocotools_with_ignore_flags(world) -> None:
    """AP, AP50 and AR of objects and of images by a column, on worlds made of edges."""
    _slices_agree(world)


@pytest.mark.slow
@given(world=coco_worlds())
@settings(max_examples=100)
def test_slices_equal_pycocotools_on_100_worlds(world) -> None:
    """The same at length."""
    _slices_agree(world)


@given(world=coco_worlds())
@settings(max_examples=5)
def test_a_protocol_equals_pycocotools_under_its_settings(world) -> None:
    """Sizes, detections that count and IoU thresholds of one's own are those of pycocotools' `params`."""
    truth, found = columns(world)
    protocol = Protocol(size_cuts=(20, 50), max_detections=120, iou_thresholds=(0.3, 0.5, 0.9))
    table = evaluation_frames(truth, found, Wanted(protocol=protocol), num_resamples=0)["metrics"]
    ours = table.set_index("metric")["value"]
    theirs = evaluated(
        world.content, world.found, maxDets=[1, 10, 120], iouThrs=np.array([0.3, 0.5, 0.9]), areaRng=SIZES,
        areaRngLbl=["all", "s", "m", "l"],
    )  # fmt: skip
    expected = {
        "ap": mean_precision(theirs),
        **{f"ap_{name}": mean_precision(theirs, iou=place) for place, name in enumerate(("30", "50", "90"))},
        **{f"ar_{limit}": mean_recall(theirs, limit=place) for place, limit in enumerate((1, 10, 120))},
    }
    for area, name in enumerate(("size_0_20", "size_20_50", "size_50_plus"), start=1):
        expected |= {f"ap_{name}": mean_precision(theirs, area=area), f"ar_{name}": mean_recall(theirs, area=area)}
    np.testing.assert_allclose(ours[list(expected)], list(expected.values()), rtol=0, atol=1e-12)
    assert not {"ap_small", "ap_75", "ar_100"} & set(ours.index)


@pytest.fixture
def truth():
    """Twelve images with sixty objects."""
    return random_sets()[0]


def _table(truth) -> list[dict]:
    return [
        {"image_id": int(i), "weather": ["rain", "sun", ""][k % 3], "metres": k * 1.5, "level": k % 2, "night": k > 5}
        for k, i in enumerate(truth.image_ids)
    ]


def test_a_csv_a_json_and_a_list_name_the_same_slices(tmp_path, truth) -> None:
    """By value, numbers in bins of equal size or between one's own edges; what has no value is in none."""
    rows = _table(truth)
    pd.DataFrame(rows).to_csv(tmp_path / "s.csv", index=False)
    (tmp_path / "s.json").write_text(json.dumps(rows))
    found = [read_slices(source, truth, bins=3) for source in (rows, tmp_path / "s.csv", str(tmp_path / "s.json"))]
    names = [one.name for one in found[0]]
    assert names[:2] == ["weather=rain", "weather=sun"]
    assert names[2:5] == ["metres=[0, 5.5)", "metres=[5.5, 11)", "metres=[11, 16.5]"]
    assert names[5:] == ["level=0", "level=1", "night=False", "night=True"]
    for others in found[1:]:
        assert [one.name for one in others] == names
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one.objects, other.objects)
    assert found[0][0].images.sum() == found[0][1].images.sum() == 4
    edged = [one.name for one in read_slices(rows, truth, bins={"metres": [0, 4, 100]}) if one.column == "metres"]
    assert edged == ["metres=[0, 4)", "metres=[4, 100]"]


def test_crowd_regions_are_no_objects_of_a_slice(truth) -> None:
    """Counts are of what AP counts; few objects are said, and have no interval."""
    rows = [{"annotation_id": int(i), "image_id": 1, "first": "yes" if i < 9 else "no"} for i in truth.annotation_id]
    no, yes = read_slices(rows, truth)
    assert (no.kind, yes.kind) == ("object", "object")
    assert yes.num_objects == (~truth.iscrowd & (truth.annotation_id < 9)).sum()
    assert yes.note.startswith("too few for an interval") and not no.note
    nothing = Slice(column="a", value="b", kind="image", objects=no.objects & yes.objects, images=yes.images & False)
    assert nothing.note == "no objects"
    found = random_sets()[1]
    table = evaluation_frames(truth, found, Wanted(slices=[no, yes]), num_resamples=10)["slices"]
    both = comparison_frames(truth, found, found, Wanted(slices=[no, yes]), num_resamples=10)["slices"]
    for frame in (table, both):
        few = frame["slice"] == yes.name
        assert frame.loc[few, ["low", "high"]].isna().all(axis=None) and (frame.loc[few, "note"] != "").all()
        assert frame.loc[~few & frame["metric"].eq("ap"), ["low", "high"]].notna().all(axis=None)


def test_weights_of_the_file_are_paired(truth) -> None:
    """A detector beside itself differs by nothing in any slice, and in no error type."""
    found = random_sets()[1]
    wanted = Wanted(slices=read_slices(_table(truth), truth), errors="coco", candidates=(found, found))
    frames = comparison_frames(truth, found, found, wanted, num_resamples=10)
    for name in ("errors", "slices"):
        assert (frames[name][["difference", "low", "high"]].fillna(0.0) == 0.0).all(axis=None)
    nr = frames["slices"][frames["slices"]["metric"] == "nr"]
    assert len(nr) and (nr["first"].dropna() == 1.0).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "a": 2}], "needs a column image_id or annotation_id"),
        ([{"image_id": 1}], "and one more per slice"),
        ([{"image_id": 987, "a": "x"}], "no image_id of it is one of the ground truth's"),
        ([{"image_id": 1, "a": "x"}, {"image_id": "1", "a": "y"}], "image_id 1 has more than one row"),
        ([{"image_id": "first", "a": "x"}], "row 0 has image_id 'first'; ids must be whole"),
        (
            [{"image_id": 1, "a": f"v{k}"} if k == 1 else {"image_id": 990 + k, "a": f"v{k}"} for k in range(60)],
            "60 diff",
        ),
    ],
)
def test_files_that_name_no_slices_are_refused(truth, rows, message) -> None:
    """One line: what, where, how to fix it."""
    with pytest.raises(DataError, match=message) as caught:
        read_slices(rows, truth)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("slices: ")


@pytest.mark.parametrize(
    ("bins", "error", "message"),
    [
        (1, UsageError, "bins must be at least 2"),
        ({"metres": [3, 2]}, UsageError, "two edges or more that rise"),
        ({"miles": [1, 2]}, UsageError, "'miles', which the slices lack"),
        ({"weather": [1, 2]}, DataError, "column weather has bins but holds 'rain'"),
    ],
)
def test_bins_that_mean_nothing_are_refused(truth, bins, error, message) -> None:
    """One line that names the column."""
    with pytest.raises(error, match=message):
        read_slices(_table(truth), truth, bins=bins)


@pytest.mark.parametrize(
    "settings",
    [
        {"size_cuts": (96, 32)}, {"size_cuts": ()}, {"aspect_cuts": (1.0, 3)}, {"crowd_edges": (4, 4)},
        {"max_detections": 0}, {"iou_thresholds": (0.5, 1.0)}, {"iou_thresholds": (0.0, 0.5)},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings) -> None:
    """Each names itself."""
    with pytest.raises(UsageError, match=next(iter(settings))):
        Protocol(**settings)


@pytest.mark.parametrize("step", [60, 1, 1e-4])
def test_bins_of_close_numbers_stay_apart(truth, step: float) -> None:
    """Timestamps differ in their tenth digit: every image is in one slice, whose name tells it from the others."""
    rows = [{"image_id": int(i), "time": 1_700_000_000 + step * k} for k, i in enumerate(truth.image_ids[:8])]
    slices = read_slices(rows, truth, bins=4)
    assert len({one.name for one in slices}) == 4
    assert [np.flatnonzero(one.images).tolist() for one in slices] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_one_number_written_in_two_ways_is_one_value(tmp_path, truth) -> None:
    """1 and 1.0; and NAN is a missing value as nan is."""
    lines = [f"{i},{value}" for i, value in zip(truth.image_ids, ("1", "1.0", "2", "NAN"), strict=False)]
    path = tmp_path / "slices.csv"
    path.write_text("\n".join(["image_id,shift", *lines]))
    assert [(one.value, int(one.images.sum())) for one in read_slices(path, truth)] == [("1", 2), ("2", 1)]
    rows = [{"image_id": int(i), "camera": 1_700_000_000 + k % 2} for k, i in enumerate(truth.image_ids)]
    assert [one.value for one in read_slices(rows, truth)] == ["1700000000", "1700000001"]
