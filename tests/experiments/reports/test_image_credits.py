"""Credits of images: whose they are, and which must not be shown with boxes drawn on them."""

import json
from pathlib import Path

import pytest

from experiments.reports.gallery_objects import image_credits

LICENCES = [{"id": 1, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("Attribution-NonCommercial-NoDerivs License", ""),
        ("Attribution-NoDerivatives 4.0", ""),
        ("CC BY-ND 2.0", ""),
        ("cc by no derivatives", ""),
        ("6", "http://creativecommons.org/licenses/by-nd/2.0/"),
    ],
)
def test_images_that_forbid_derivatives_have_no_credit(tmp_path: Path, name: str, url: str):
    """However the licence is called, and whether its id is a number or text; the data set's own credit is no way in."""
    path = tmp_path / "val.json"
    images = [{"id": 1, "license": "7"}, {"id": 2, "license": 8}, {"id": 3}]
    licences = [{"id": 7, "name": name, "url": url}, {"id": 8, "name": "Land and Sand"}]
    path.write_text(json.dumps({"images": images, "licenses": licences}))
    assert image_credits(path, "ours") == {2: "Land and Sand", 3: "ours"}


def test_a_credit_names_licence_and_source(tmp_path: Path):
    """Flickr's address before COCO's; the data set's credit where the json has no licences; one printable line."""
    path = tmp_path / "val.json"
    images = [
        {"id": 1, "license": 1, "coco_url": "coco", "flickr_url": "flickr"},
        {"id": 2, "license": 1, "coco_url": "co\nco"},
        {"id": 3, "license": 5, "coco_url": "coco"},
    ]
    path.write_text(json.dumps({"images": images, "licenses": LICENCES}))
    expected = {1: "Attribution License, flickr", 2: "Attribution License, co\\nco", 3: "ours"}
    assert image_credits(path, "ours") == expected
    path.write_text(json.dumps({"images": images, "licenses": None}))
    assert set(image_credits(path, "ours").values()) == {"ours"}
