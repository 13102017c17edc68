"""The page to mail: opened in Chromium, every control used, wide and narrow, dark and light; what it holds, and its size."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from oracles.plain_files import ground_truth_content, random_sets, results_content
from PIL import Image

from analysis import compare, evaluate
from analysis.pages.charts import Mark, forest
from analysis.pages.content import verdict
from analysis.pages.photos import small_photos
from experiments.bench.browser import Browser, find_chromium
from freeanchor.errors import UsageError

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; install the package chromium")
HOSTILE = "</script><b>&$x_$"


@pytest.fixture(scope="module")
def content() -> dict:
    """A ground truth whose images have names and sizes, and a category that tries to be markup."""
    gt = ground_truth_content(random_sets()[0])
    for row in gt["images"]:
        row |= {"file_name": f"{row['id']}.png", "width": 400, "height": 300}
    gt["categories"][0]["name"] = HOSTILE
    return gt


@pytest.fixture(scope="module")
def photos(tmp_path_factory, content) -> Path:
    """The images as files; one is none."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    for row in content["images"]:
        Image.fromarray(noise).resize((400, 300)).save(folder / row["file_name"])
    (folder / content["images"][0]["file_name"]).write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory, content, photos) -> Path:
    """A comparison with everything on its page."""
    first, second = (results_content(random_sets(num_detections=number)[1]) for number in (400, 250))
    slices = [{"image_id": row["id"], "half": "low" if row["id"] < 16 else "high"} for row in content["images"]]
    result = compare(
        content, first, second, errors="coco", slices=slices, working_point="f1", per_category=True, resamples=10
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    result.to_html(path, photos=photos)
    return path


@contextmanager
def opened(page: Path, *, width: int, is_dark: bool = False) -> Iterator[Browser]:
    """The page in a browser of its own."""
    with Browser(width=width, is_dark=is_dark) as browser:
        browser.open(page)
        yield browser


def data_of(page: str) -> dict:
    """The json that the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def choose(browser: Browser, select: str, value: str) -> None:
    """What a hand does: another value, and the event that follows."""
    browser.ask(f"(() => {{ const s = document.getElementById('{select}'); s.value = '{value}'; "
                "s.dispatchEvent(new Event('change')); })()")  # fmt: skip


@needs_browser
def test_every_control_works_without_an_error(page) -> None:
    """Filters keep the images that they name, order sorts, boxes go and come, more are shown; nothing is fetched."""
    data = data_of(page.read_text(encoding="utf-8"))
    with opened(page, width=1300) as browser:
        cards = "[...document.querySelectorAll('#cards > figure')].map(f => +f.dataset.id)"
        assert browser.ask(cards) == [image["id"] for image in data["images"][:12]]
        choose(browser, "by-slice", "1")
        name = data["slices"][1]
        assert name in ("half=low", "half=high")
        assert sorted(browser.ask(cards)) == sorted(i["id"] for i in data["images"] if 1 in i["slices"])
        choose(browser, "by-slice", "")
        kind = data["kinds"].index("missed")
        choose(browser, "by-error", str(kind))
        wanted = [i["id"] for i in data["images"] if any(counts[kind] for counts in i["errors"])]
        assert browser.ask(cards) == wanted[:12] and f"{len(wanted)} images" in browser.ask("get('count').textContent")
        choose(browser, "by-error", "")
        choose(browser, "by-class", "0")
        has_class = [
            i["id"] for i in data["images"] if 0 in [row[4] for rows in (i["objects"], *i["found"]) for row in rows]
        ]
        assert browser.ask(cards) == has_class[:12]
        choose(browser, "by-class", "")
        choose(browser, "order", "worse")
        gaps = {i["id"]: (i["ap"][1] or 0) - (i["ap"][0] or 0) for i in data["images"]}
        assert browser.ask(cards) == sorted(gaps, key=lambda identity: gaps[identity])[:12]
        for box, kind_of_box in (("objects", ".object"), ("detections", ".ok")):
            count = f"document.querySelectorAll('#cards {kind_of_box}').length"
            before = browser.ask(count)
            browser.ask(f"document.getElementById('{box}').click()")
            assert browser.ask(count) == 0 < before
            browser.ask(f"document.getElementById('{box}').click()")
            assert browser.ask(count) == before
        for label, kind_of_curve in ((HOSTILE, "f1"), ("all classes", "pr")):
            browser.ask(f"get('curve-class').value = {json.dumps(label)}")
            choose(browser, "curve-kind", kind_of_curve)
            assert browser.ask("document.querySelectorAll('#curve polyline').length") == 2
        assert browser.errors == []
        assert all(address.startswith(("file:", "data:", "about:")) for address in browser.requests)


@needs_browser
def test_a_keyboard_reaches_and_uses_the_page(page) -> None:
    """Tab walks through every control, Enter sorts the classes either way; each control has a name."""
    with opened(page, width=1300) as browser:
        reached = set()
        for _ in range(60):
            browser.press("Tab")
            reached.add(browser.ask("document.activeElement.id || document.activeElement.tagName"))
        controls = {"curve-class", "curve-kind", "by-class", "by-slice", "by-error", "order", "objects", "detections"}
        assert controls | {"BUTTON"} <= reached
        values = (
            "[...document.querySelectorAll('#class-table tbody tr')].map(r => parseFloat(r.children[1].textContent))"
        )
        browser.ask("document.querySelectorAll('#class-table th button')[1].focus()")
        for ascending in (False, True):
            browser.press("Enter")
            shown = browser.ask(values)
            assert shown == sorted(shown, reverse=not ascending)
            order = browser.ask("document.querySelectorAll('#class-table th')[1].getAttribute('aria-sort')")
            assert order == ("ascending" if ascending else "descending")
        unnamed = "[...document.querySelectorAll('select, input, svg[role=img]')].filter(e => !e.labels?.length && !e.ariaLabel)"
        assert browser.ask(f"{unnamed}.length") == 0
        assert browser.errors == []


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1300, False), (400, True)])
def test_it_fits_wide_and_narrow_dark_and_light(page, width, dark) -> None:
    """Nothing sticks out to the side; dark is dark; text is as wide as the page."""
    with opened(page, width=width, is_dark=dark) as browser:
        assert browser.ask("document.documentElement.scrollWidth") <= width
        colour = browser.ask("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour))) < 300) == dark
        browser.show_as_printed()
        assert browser.ask("getComputedStyle(document.querySelector('.controls')).display") == "none"
        assert browser.errors == []


def test_the_page_holds_the_numbers_of_the_result(page, content) -> None:
    """Boxes, kinds and photos of the images, worst first; texts that try to be markup stay text."""
    text = page.read_text(encoding="utf-8")
    data = data_of(text)
    assert data["categories"][0] == HOSTILE and "<b>" not in text
    gaps = [round(abs((image["ap"][1] or 0) - (image["ap"][0] or 0)), 3) for image in data["images"]]
    assert gaps == sorted(gaps, reverse=True)
    assert len(data["images"]) == len(content["images"])
    by_id = {image["id"]: image for image in data["images"]}
    assert by_id[content["images"][0]["id"]]["photo"] == "" != by_id[content["images"][1]["id"]]["photo"]
    objects = [row for row in content["annotations"] if row["image_id"] == content["images"][1]["id"]]
    shown = by_id[content["images"][1]["id"]]["objects"]
    assert sorted(row[:4] for row in shown) == sorted([round(x, 1) for x in row["bbox"]] for row in objects)


def test_photos_that_are_none_or_a_bomb_are_left_out(photos, tmp_path, monkeypatch) -> None:
    """A format that Pillow knows and nobody means, a text, and more pixels than Pillow opens: no address, no error."""
    (text := tmp_path / "a.jpg").write_text("no image")
    Image.new("RGB", (8, 8)).save(drawing := tmp_path / "b.jpg", format="PPM")
    whole = max(photos.iterdir(), key=lambda path: path.stat().st_size)
    assert [bool(uri) for uri in small_photos([whole, text, drawing], budget=10**6)] == [True, False, False]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert small_photos([whole], budget=10**6) == [""]


def test_photos_keep_to_the_budget(content, photos, tmp_path) -> None:
    """A page of few bytes has fewer photos and all boxes; a folder without the images is refused."""
    found = results_content(random_sets()[1])
    result = evaluate(content, found, resamples=0)
    whole = data_of(result.to_html(photos=photos))["images"]
    plain = result.to_html()
    small = result.to_html(photos=photos, size_limit=len(plain.encode()) + 160_000)
    few = data_of(small)["images"]
    assert 0 < sum(bool(i["photo"]) for i in few) < sum(bool(i["photo"]) for i in whole) == len(whole) - 1
    assert [i["found"] for i in few] == [i["found"] for i in whole]
    with pytest.raises(UsageError, match="photos must be the folder of the images"):
        result.to_html(photos=tmp_path)


def test_the_verdict_follows_the_interval() -> None:
    """Better, worse, or not shown; undefined where AP is."""
    import pandas as pd

    def of(difference: float, low: float, high: float) -> str:
        rows = [{"metric": "ap", "difference": difference, "low": low, "high": high}]
        return verdict(pd.DataFrame(rows), ("A", "B"))

    assert of(0.01, 0.005, 0.02) == "B is better than A: +1.00 points of AP, 95 % interval +0.50 to +2.00."
    assert of(-0.01, -0.02, -0.005).startswith("B is worse than A: -1.00")
    assert of(0.01, -0.005, 0.02).startswith("No difference is shown between B and A")
    assert of(float("nan"), float("nan"), float("nan")).startswith("AP is not defined")


def test_a_forest_plot_draws_what_it_is_given() -> None:
    """Points between the ends of their intervals, a line at 0, marks that exclude it, names as text."""
    nan = float("nan")
    marks = [
        Mark(name="a<b", value=1.0, low=0.5, high=1.5),
        Mark(name="b", value=0.0, low=-1.0, high=1.0),
        Mark(name="c", value=nan, low=nan, high=nan, note="no objects"),
    ]
    drawn = str(forest(marks, unit="points", is_difference=True))
    dots = [float(x) for x in re.findall(r'<circle class="dot[^"]*" cx="([\d.]+)"', drawn)]
    bars = [
        tuple(map(float, pair)) for pair in re.findall(r'<line class="bar[^"]*" x1="([\d.]+)" x2="([\d.]+)"', drawn)
    ]
    assert len(dots) == len(bars) == 2 and all(low < dot < high for dot, (low, high) in zip(dots, bars, strict=True))
    zero = re.search(r'<line class="zero" x1="([\d.]+)"', drawn)
    assert zero and float(zero[1]) == dots[1] and drawn.count(" sure") == 2
    assert "a&lt;b" in drawn and "+1.0 [+0.5, +1.5]" in drawn and "no objects" in drawn
