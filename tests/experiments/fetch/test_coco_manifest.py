"""COCO's manifest: what is fetched from where, and the room that it takes."""

from pathlib import Path

from experiments.fetch.coco import COCO_2017, needed_room


def test_the_manifest_is_coco_s() -> None:
    """Three archives of COCO's own server with full checksums, annotations first."""
    assert [item.folder for item in COCO_2017] == ["annotations", "val2017", "train2017"]
    assert [item.split for item in COCO_2017] == ["", "val", "train"]
    for item in COCO_2017:
        assert item.download.url.startswith("http://images.cocodataset.org/")
        assert item.download.url.endswith(f"/{item.download.name}")
        assert len(item.download.sha256) == 64
        assert (item.download.size or 0) > 250_000_000


def test_the_room_that_is_needed(tmp_path: Path) -> None:
    """A zip is removed before the next comes: the peak is the last one's; what is downloaded already is there."""
    annotations, val, train = COCO_2017
    zips = [item.download.size or 0 for item in COCO_2017]
    peak = annotations.unpacked + val.unpacked + zips[2] + train.unpacked
    assert needed_room(tmp_path, COCO_2017) == peak
    assert 40e9 < peak < 41e9
    assert needed_room(tmp_path, (val,)) == zips[1] + val.unpacked
    (tmp_path / "val2017.zip.partial").write_bytes(bytes(1_000_000))
    assert needed_room(tmp_path, (val,)) == zips[1] + val.unpacked - 1_000_000
    assert needed_room(tmp_path, COCO_2017) == peak - 1_000_000
    assert needed_room(tmp_path, ()) == 0
