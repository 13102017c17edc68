"""Grids compared on a data set: every metric of every group against plain loops, the rule, and what is sampled."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles.anchor_fit import fit_of, group_of, metrics_of

from experiments.registry.sizes import shapes
from experiments.reports import anchors
from experiments.reports.anchors import GIVEN, GRID_COLUMNS, Grid, by_grid, fit_frame, grids, read_sample, recommended
from freeanchor.data.coco import read_split

ROOT = Path(__file__).parents[3]
GROUPS = ("all", "small", "medium", "large", "square", "middle", "slender")
LOW = Grid(short_side=96, max_long_side=160)
COARSE = Grid(pyramid="P2-P6", anchor_strides=3.0, short_side=64, max_long_side=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with jsons and no image: objects of all sizes, a crowd region, a box without area, an empty image."""
    folder = tmp_path_factory.mktemp("data") / "ponds"
    folder.mkdir()
    generator = np.random.default_rng(0)
    sizes = [(300, 200), (120, 260), (200, 200), (90, 80)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes, start=1)]
    boxes = []
    for image in images[:3]:
        for _ in range(4):
            width, height = np.exp(generator.uniform(1, np.log([image["width"], image["height"]]))).tolist()
            x, y = (generator.uniform(0, 1, 2) * (image["width"] - width, image["height"] - height)).tolist()
            boxes.append((image["id"], [x, y, width, height], 0))
    boxes += [(1, [0, 0, 200, 200], 1), (2, [5, 5, 0, 20], 0)]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "iscrowd": crowd, "area": 1.0}
        for i, (image, box, crowd) in enumerate(boxes, start=1)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fish"}]}
    (folder / "train.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("grid", [LOW, COARSE], ids=str)
def test_metrics_equal_plain_loops(folder: Path, grid: Grid) -> None:
    """Every metric of every group, sizes in the file's pixels and as resized; cost follows from cells and pixels."""
    sample = read_sample(folder)
    frame = fit_frame(sample, [LOW, grid])
    frame = frame[anchors.is_of(frame, grid)].drop_duplicates(["group", "metric"])
    plain = [(width, height, [tuple(box) for box in boxes.tolist()]) for width, height, boxes in sample.images]
    strides = (4, 8, 16, 32, 64) if grid.pyramid == "P2-P6" else (8, 16, 32, 64, 128)
    fit = fit_of(plain, strides, grid.anchor_strides, grid.short_side, grid.max_long_side)
    objects = [(box, (width, height)) for width, height, boxes in plain for box in boxes]
    assert len(objects) == sample.num_objects == 12
    for group in GROUPS:
        chosen = [number for number, (box, _) in enumerate(objects) if group_of(box, group)]
        values = frame[frame["group"] == group].set_index("metric")["value"]
        assert (len(values) == 0) == (not chosen), group
        if chosen:
            expected = metrics_of(fit, chosen)
            np.testing.assert_allclose(values[list(expected)], list(expected.values()), atol=1e-4)
    whole = frame[frame["group"] == "all"].set_index("metric")["value"]
    assert whole["cells"] == pytest.approx(np.mean(fit.cells), abs=1e-4)
    assert whole["anchors"] == pytest.approx(9 * np.mean(fit.cells), abs=1e-3)
    reference = fit_of(plain, (8, 16, 32, 64, 128), 4.0, LOW.short_side, LOW.max_long_side)
    # 0.27 and 0.55 CPU seconds were measured at 71,680 pixels with 1,496 and 5,970 cells
    cell = 0.28 / 4474
    pixel = (0.27 - 1496 * cell) / 71_680
    costs = [pixel * np.mean(one.pixels) + cell * np.mean(one.cells) for one in (fit, reference)]
    assert whole["relative_cost"] == pytest.approx(costs[0] / costs[1], abs=1e-4)


def test_sizes_as_resized_have_groups_of_their_own(folder: Path) -> None:
    """An object's group by size changes with the input there, and stays in the groups of the file's pixels."""
    sample = read_sample(folder)
    frame = fit_frame(sample, [LOW, Grid(short_side=400, max_long_side=700)])
    counts = frame[frame["metric"] == "share_50"].pivot(index="short_side", columns="group", values="num_objects")
    counts = counts.fillna(0)
    assert (counts.loc[96, ["small", "medium", "large"]] == counts.loc[400, ["small", "medium", "large"]]).all()
    assert counts.loc[96, "small_resized"] > counts.loc[96, "small"] > counts.loc[400, "small_resized"]


def _frame(*rows: tuple[Grid, float, float]) -> pd.DataFrame:
    """Grids with their costs and their median 50th anchors."""
    metrics = [
        (grid, name, value) for grid, cost, iou in rows for name, value in (("relative_cost", cost), ("iou_50", iou))
    ]
    return pd.DataFrame([{**vars(g), "group": "all", "metric": m, "value": v, "num_objects": 1} for g, m, v in metrics])


def test_the_cheapest_grid_that_reaches_the_rule_is_recommended() -> None:
    """At exactly 0.40 too; of equal cost the one with the better 50th anchor."""
    one, two, three, four = (Grid(short_side=side) for side in (100, 200, 300, 400))
    assert recommended(_frame((four, 9.0, 0.6), (one, 1.0, 0.399), (three, 3.0, 0.5), (two, 2.0, 0.4))) == two
    assert recommended(_frame((one, 1.0, 0.39), (two, 2.0, 0.41), (three, 2.0, 0.45), (four, 2.0, 0.42))) == three


def test_the_nearest_is_recommended_where_none_reaches_it() -> None:
    """The highest; of equals the cheapest."""
    one, two, three = (Grid(short_side=side) for side in (100, 200, 300))
    assert recommended(_frame((three, 3.0, 0.35), (one, 1.0, 0.2), (two, 2.0, 0.35))) == two


def test_the_fixed_list_holds_the_given_input_too() -> None:
    """Two pyramids, three sizes and five inputs, the given one's long side in place of the fixed list's; given first."""
    assert len(grids(GIVEN)) == 30 and grids(GIVEN)[0] == GIVEN
    own = Grid(pyramid="P2-P6", anchor_strides=5.0, short_side=512, max_long_side=600)
    listed = grids(own)
    assert len(listed) == len(set(listed)) == 1 + 36 and listed[0] == own
    assert {(grid.short_side, grid.max_long_side) for grid in listed} == {
        (224, 373), (320, 533), (448, 746), (512, 600), (640, 1066), (800, 1333),
    }  # fmt: skip


def test_samples_are_evenly_spread_over_images_with_objects(folder: Path) -> None:
    """No crowd region, no box without area, no image without objects; as many as wanted, the first and last among them."""
    whole = read_sample(folder, max_images=0)
    assert [len(boxes) for *_, boxes in whole.images] == [4, 4, 4] and whole.num_images == 3
    few = read_sample(folder, max_images=2)
    assert [image[:2] for image in few.images] == [(300, 200), (200, 200)] and few.num_objects == 8
    assert len(read_sample(folder, max_images=99).images) == 3
    by_file = read_sample(folder / "train.json", max_images=0)
    assert (by_file.name, by_file.split) == ("train.json", "")
    assert all(torch.equal(a[2], b[2]) for a, b in zip(by_file.images, whole.images, strict=True))


def test_many_objects_are_sampled_by_themselves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve objects in three images, seven are about two images' worth."""
    monkeypatch.setattr(anchors, "ENOUGH_OBJECTS", 7)
    assert len(read_sample(folder).images) == 2


def test_boxes_are_those_that_training_reads(folder: Path) -> None:
    """With the image folder there, `read_split` gives the same boxes."""
    (folder / "images").mkdir(exist_ok=True)
    records = [record for record in read_split(folder, "train").images if len(record.boxes)]
    sample = read_sample(folder, max_images=0)
    assert all(torch.equal(a.boxes, b[2]) for a, b in zip(records, sample.images, strict=True))


def test_a_file_over_several_sets_has_one_row_per_set_grid_and_metric(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all objects; the recommended grid's rows say so; the synthetic set stands at its profile's input size."""
    monkeypatch.setattr(anchors, "grids", lambda given: [given, COARSE])
    out, drawn = tmp_path / "anchors.csv", tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "train.json").write_bytes((folder / "train.json").read_bytes())
    anchors.main(["--data", str(folder), "--shapes", str(drawn), "--out", str(out)])
    rows = pd.read_csv(out)
    assert len(rows) == 2 * 2 * len(anchors.KEPT_METRICS)
    assert not rows.duplicated(["data", *GRID_COLUMNS, "metric"]).any()
    own = shapes().inputs
    for data, given in (("ponds", GIVEN), ("shapes", Grid(short_side=own.short_side, max_long_side=own.max_long_side))):
        frame = fit_frame(read_sample(folder, max_images=0), [given, COARSE])
        best = rows[(rows["data"] == data) & rows["recommended"]].set_index("metric")
        key = tuple(vars(recommended(frame)).values())
        assert tuple(best.iloc[0][list(GRID_COLUMNS)]) == key
        np.testing.assert_allclose(best["value"], by_grid(frame).loc[key][best.index])
        costs = rows[(rows["data"] == data) & (rows["metric"] == "relative_cost")].set_index("short_side")["value"]
        assert costs[given.short_side] == 1


def test_the_documents_table_is_the_files_own() -> None:
    """One row per set of the committed csv, whose recommended grid obeys the rule among its own rows."""
    rows = pd.read_csv(ROOT / "reports" / "anchors.csv")
    lines = anchors.anchors_table(ROOT).splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in lines] == list(rows["data"].unique())
    for data, line in zip(rows["data"].unique(), lines, strict=True):
        own = rows[rows["data"] == data]
        chosen = recommended(own.assign(group="all"))
        assert str(chosen) in line
        assert tuple(own[own["recommended"]].iloc[0][list(GRID_COLUMNS)]) == tuple(vars(chosen).values())
