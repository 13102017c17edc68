"""The matching explorer in headless Chromium: every way through it, its numbers against the loss's, no console error."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from exploring import BAG, HOSTILE, STEPS, explore_words, exploring_folder, header_of

from experiments.bench.browser import Browser, find_chromium
from experiments.cli import main
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import collate, load_sample, read_split_file
from freeanchor.losses.free_anchor import FreeAnchorLoss, mean_max_weights

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
IN_VIEW = (
    "(() => { const { top, bottom } = scene.panels[1].svg.getBoundingClientRect();"
    "return top >= -1 && bottom <= innerHeight + 1 })()"
)
DRAWN = "performance.getEntriesByName('explorer-drawn').length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and models, and the page of both detectors."""
    root = exploring_folder(tmp_path_factory.mktemp("page"))
    assert main(explore_words(root, "--snapshots", "--out", root / "page.html")) == 0
    return root


@pytest.fixture(scope="module")
def shared() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(shared: Browser, folder: Path) -> Browser:
    """The page, freshly opened, without errors."""
    shared.errors.clear()
    shared.open(folder / "page.html", ready=DRAWN)
    return shared


def _text(browser: Browser, selector: str) -> str:
    found: str = browser.ask(f"document.querySelector({selector!r}).textContent")
    return found


def _middle(browser: Browser, expression: str) -> tuple[float, float]:
    """The middle of an element on the screen, scrolled to."""
    browser.ask(f"{expression}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = browser.ask(
        f"(() => {{ const b = {expression}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})()"
    )
    return box[0], box[1]


def _click(browser: Browser, expression: str) -> None:
    browser.click(*_middle(browser, expression))


def _choose(browser: Browser, identifier: str, value: str) -> None:
    """What a person does with a select or a slider."""
    browser.ask(
        f"(() => {{ const one = document.getElementById('{identifier}'); one.value = {value!r};"
        "one.dispatchEvent(new Event('input')); one.dispatchEvent(new Event('change')) })()"
    )


def _number(text: str) -> float:
    """A fraction as the page writes it."""
    return 0.0 if text.startswith("<") else float(text)


def test_images_objects_and_stages_are_picked_with_the_mouse(browser: Browser, folder: Path) -> None:
    """An image of the strip, an object by its button, a stage of the slider, the player."""
    header = header_of((folder / "page.html").read_text(encoding="utf-8"))
    place = next(
        i for i, one in enumerate(header["images"]) if i != browser.ask("state.image") and len(one["objects"]) > 1
    )
    _click(browser, f"document.querySelector('#film button[data-place=\"{place}\"]')")
    browser.wait_for(f"state.image === {place} && location.hash.includes('image={header['images'][place]['id']}')")
    _click(browser, "document.querySelector('#objects button[data-place=\"1\"]')")
    browser.wait_for("state.object === 1 && document.getElementById('what').textContent.startsWith('2 ')")
    _choose(browser, "time", "0")
    assert _text(browser, "#moment") == "step 10 of 90"
    assert "at this stage " in _text(browser, "#what")
    assert f"step={STEPS[0]}" in browser.ask("location.hash")
    _click(browser, "document.getElementById('play')")
    browser.wait_for("state.moment === 'end' && !timer")
    assert _text(browser, "#moment") == "end, step 90" and "at this stage" not in _text(browser, "#what")
    assert "IoU 0.5" in browser.ask("document.querySelector('#what abbr:last-of-type').title")
    assert all(address.startswith(("file:", "data:", "about:", "blob:")) for address in browser.requests)
    assert browser.errors == []


def test_objects_on_the_image_are_picked_where_they_lie(browser: Browser) -> None:
    """A click into each object's box picks it, or one that lies inside it."""
    for object_ in range(browser.ask("image().objects.length")):
        browser.ask("document.getElementById('map').scrollIntoView({block: 'center', behavior: 'instant'})")
        x, y = browser.ask(
            f"(() => {{ const [x1, y1, x2, y2] = image().objects[{object_}].box;"
            "const p = new DOMPoint((x1 + x2) / 2, (y1 + y2) / 2).matrixTransform(document.getElementById('map').getScreenCTM());"
            "return [p.x, p.y] })()"
        )
        browser.click(x, y)
        browser.wait_for(
            f"(() => {{ const [x1, y1, x2, y2] = image().objects[{object_}].box, [a, b, c, d] = image().objects[state.object].box;"
            "const x = (x1 + x2) / 2, y = (y1 + y2) / 2; return a <= x && x <= c && b <= y && y <= d })()"
        )
    assert browser.errors == []


def test_ten_anchors_have_the_losses_confidence(browser: Browser, folder: Path) -> None:
    """P^cls, P^loc, confidence and share of both detectors in the table, at a stage of training, for ten anchors."""
    split = {image.image_id: image for image in read_split_file(folder / "val.json", folder / "images").images}
    _choose(browser, "time", "1")
    number = browser.ask("image().id")
    index = split[number].annotation_ids.tolist().index(browser.ask("image().objects[state.object].id"))
    expected = []
    for name in ("retinanet", "freeanchor"):
        model, detector = load_model(folder / name / "snapshots" / f"step-{STEPS[1]:06d}.safetensors")
        sample = load_sample(split[number], detector.inputs)
        with torch.no_grad():
            output = model(collate([sample]).images)
        arguments = output.logits[0], output.deltas[0], output.anchors, sample.boxes, sample.record.labels
        bags, confidence = FreeAnchorLoss(bag_size=BAG).confidence(*arguments)
        cls_prob = output.logits[0][bags, sample.record.labels[:, None]].sigmoid()
        expected.append((cls_prob[index], confidence[index], mean_max_weights(confidence)[index]))
    for anchor in range(10):
        _choose(browser, "anchor", str(anchor + 1))
        rows = browser.ask(
            "[...document.querySelectorAll('#numbers tbody tr')].map(row => [...row.children].map(cell => cell.textContent))"
        )
        assert [row[0] for row in rows] == ["RetinaNet", "FreeAnchor"]
        for row, (cls_prob, confidence, share) in zip(rows, expected, strict=True):
            assert _number(row[1]) == pytest.approx(cls_prob[anchor].item(), abs=6e-4)
            assert _number(row[3]) == pytest.approx(confidence[anchor].item(), abs=6e-4)
            assert _number(row[2]) == pytest.approx((confidence / cls_prob)[anchor].item(), abs=1.1e-3)
            assert float(row[4].split()[0]) / 100 == pytest.approx(share[anchor].item(), abs=6e-3)
    assert browser.errors == []


def test_both_sides_show_the_same_anchor(browser: Browser) -> None:
    """The mouse over a dot of one side picks that anchor in both, with the box predicted from it."""
    _choose(browser, "anchor", "12")
    x, y = browser.ask(
        "(() => { const m = scene.panels[0], [x, y] = m.spots[0]; m.svg.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const p = new DOMPoint(x, y).matrixTransform(m.svg.getScreenCTM()); return [p.x, p.y] })()"
    )
    browser.move(x, y)
    browser.wait_for("state.anchor === 0")
    assert browser.ask("scene.panels.map(panel => panel.over.querySelectorAll('rect[stroke-dasharray]').length)") == [
        1,
        1,
    ]
    assert _text(browser, "#about").startswith(f"Anchor 1 of {BAG} by overlap")
    browser.ask("document.getElementById('tools').open = true")
    for metric in ("cls_prob", "loc_prob", "confidence", "share", "iou", "by_iou"):
        _click(browser, f"document.querySelector('#metrics input[value={metric}]')")
        browser.wait_for(f"state.metric === '{metric}' && location.hash.includes('metric={metric}')")
        assert ("does not depend on the network" in _text(browser, "#scale")) == (metric in ("iou", "by_iou"))
    _click(browser, "document.querySelector('#marks input[value=boxes]')")
    browser.wait_for("document.querySelectorAll('.stage rect.anchor').length === 2 * scene.panels[0].spots.length")
    _choose(browser, "level", browser.ask("document.getElementById('level').options[1].value"))
    shown = browser.ask("scene.panels[1].marks.filter(one => one.style.display !== 'none').length")
    assert 0 < shown <= BAG
    _click(browser, "document.getElementById('nms')")
    browser.wait_for("state.nms && location.hash.includes('nms=1')")
    browser.wait_for(IN_VIEW)
    assert browser.errors == []


def test_filters_and_orders_change_what_is_listed(browser: Browser, folder: Path) -> None:
    """Slender objects alone; an empty filter says so; the image of most disagreement, or the most decided, first."""
    header = header_of((folder / "page.html").read_text(encoding="utf-8"))
    slender = [one["id"] for one in header["images"] for it in one["objects"] if "slender" in it["groups"]]
    _choose(browser, "filter", "slender")
    browser.wait_for("image().objects[state.object].groups.includes('slender')")
    assert browser.ask("document.querySelectorAll('#film button').length") == len(set(slender))
    _choose(browser, "filter", "one")
    found = [one for one in header["images"] if any(it["found"][0][-1] != it["found"][1][-1] for it in one["objects"])]
    assert browser.ask("document.querySelectorAll('#film button').length") == len(found)
    _choose(browser, "filter", "all")
    _choose(browser, "sort", "disagreement")
    most = max(
        range(len(header["images"])), key=lambda i: max(it["disagreement"] for it in header["images"][i]["objects"])
    )
    browser.wait_for(f"document.querySelector('#film button').dataset.place === '{most}' && state.image === {most}")
    _choose(browser, "sort", "decided")
    objects = [(it["effective"], i, j) for i, one in enumerate(header["images"]) for j, it in enumerate(one["objects"])]
    _, image, place = min(objects)
    browser.wait_for(f"state.image === {image} && state.object === {place} && location.hash.includes('sort=decided')")
    assert browser.ask("document.querySelector('#film button').dataset.place") == str(image)
    assert browser.errors == []


def test_the_formula_is_whole_and_counts_are_told(browser: Browser, folder: Path) -> None:
    """As many terms above as below the line, the result in the window; the header's counts."""
    more = f"… {BAG - 2} more"
    parts = browser.ask(
        "[...document.querySelectorAll('.sum')].map(sum => [...sum.querySelector('mfrac').children].map(it => it.textContent))"
    )
    assert len(parts) == 2 and all(len(own) == 2 and more in own[0] and more in own[1] for own in parts)
    assert browser.ask("[...document.querySelectorAll('.sum')].every(sum => sum.scrollWidth <= sum.clientWidth)")
    ends = [one["ends"] for one in header_of((folder / "page.html").read_text(encoding="utf-8"))["detectors"]]
    assert f"share for {ends[1]['decided'] or 'none'}; for {ends[1]['alike']} all {BAG}" in _text(browser, "#ends")
    for own in ends:
        assert f"{own['kept']} of the {own['found']} that" in _text(browser, "#survive")
    assert "gives it to" in _text(browser, "#what")
    assert browser.errors == []


def test_what_nms_leaves_is_told_box_by_box(browser: Browser) -> None:
    """A suppressor off the object is said to be; the box that is left is that one or another; the cost is of what is shown."""
    browser.ask(
        "window.told = (best, survivor, suppressor, owner = state.object) => fateTexts({ side: { kind: 'hard' }, strongest: () => 0,"
        "perObject: name => ({ num_before: 1, num_after: survivor ? 1 : 0, fate: 2, owner })[name],"
        "nms: which => { const iou = [best, survivor, suppressor][which];"
        "return iou && { box: [0, 0, 1, iou], score: 0.5, iou, anchor: -1 } } }).map(it => it.textContent).join(' ')"
    )
    same = browser.ask("told(0.974, 0.946, 0.946)")
    assert "That box is what is left. NMS cost 0.02 of IoU." in same and "not on this object" not in same
    other = browser.ask("told(0.8, 0.744, 0.49)")
    assert "that box is not on this object" in other and "What is left is another box" in other
    assert "No box is left on the object." in browser.ask("told(0.8, null, 0.49, -1)")
    assert "cost less than 0.01" in browser.ask("told(0.7, 0.699, 0.699)")
    assert "overlaps a neighbour more, object 9" in browser.ask("told(0.8, 0.7, 0.7, 8)")


def test_a_link_leads_back_to_the_view(shared: Browser, folder: Path) -> None:
    """The address after picking opens the same view; one of nonsense opens the page all the same."""
    header = header_of((folder / "page.html").read_text(encoding="utf-8"))
    image = header["images"][2]
    fragment = f"#image={image['id']}&object={image['objects'][1]['id']}&step=40&metric=confidence&marks=boxes&nms=1"
    shared.errors.clear()
    shared.open(folder / "page.html", fragment, ready=DRAWN)
    assert shared.ask("[state.image, state.object, state.moment, state.metric, state.marks, state.nms]") == [
        2, 1, 40, "confidence", "boxes", True,
    ]  # fmt: skip
    assert shared.ask("location.hash") == fragment
    shared.open(folder / "page.html", "#image=nothing&object=%00&step=x&metric=__proto__&left=7", ready=DRAWN)
    assert shared.ask("[state.metric, state.left]") == ["role", 0]
    assert shared.errors == []


def test_the_keyboard_alone_goes_everywhere(browser: Browser) -> None:
    """Tab reaches every control, arrows pick images and objects, single keys move stages; each control has a name."""
    browser.ask("document.querySelector('#film button[tabindex=\"0\"]').focus()")
    before = browser.ask("state.image")
    browser.press("ArrowLeft" if browser.ask("document.activeElement.nextSibling === null") else "ArrowRight")
    browser.wait_for(f"state.image !== {before} && document.activeElement.closest('#film')")
    browser.wait_for("document.getElementById('objects').dataset.key.startsWith(`${state.image} `)")
    browser.ask("document.querySelector('#objects button[tabindex=\"0\"]').focus()")
    browser.press("End")
    browser.wait_for("state.object === image().objects.length - 1 && document.activeElement.closest('#objects')")
    browser.press(",")
    browser.wait_for("state.moment === 40")
    reached = set()
    browser.ask("document.activeElement.blur()")
    for _ in range(40):
        browser.press("Tab")
        reached.add(browser.ask("document.activeElement.id || document.activeElement.parentElement.id"))
    assert {"filter", "sort", "film", "objects", "play", "time", "anchor", "strongest", "nms"} <= reached
    nameless = browser.ask(
        "[...document.querySelectorAll('button, input, select, [role=img], [role=radio], [role=radiogroup]')].filter(one =>"
        "!(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length || one.closest('label')))"
        ".map(one => one.outerHTML)"
    )
    assert nameless == []
    assert browser.errors == []


def test_hostile_names_stay_text(browser: Browser) -> None:
    """A class that would end a script is shown as it is written, and makes no element."""
    browser.ask("(async () => { for (let i = 0; i < header.images.length; i++) { pickImage(i); await showAll(); } })()")
    assert browser.ask(f"header.categories.includes({HOSTILE!r})")
    place = browser.ask(
        f"header.images.findIndex(one => one.objects.some(it => header.categories[it.category] === {HOSTILE!r}))"
    )
    browser.ask(f"(async () => {{ pickImage({place}); await showAll(); }})()")
    assert HOSTILE in _text(browser, "#objects")
    assert browser.ask("document.querySelectorAll('img[src=x]').length") == 0
    assert browser.errors == []


def test_narrow_dark_and_touched(folder: Path, tmp_path: Path) -> None:
    """At 400 px nothing is wider than the window; a finger picks; in the dark, text has contrast; the page prints."""
    with Browser(width=400, height=800, is_dark=True, is_touch=True) as browser:
        browser.open(folder / "page.html", ready=DRAWN)
        browser.ask("document.getElementById('tools').open = true")
        assert browser.ask("document.documentElement.scrollWidth") == 400
        assert browser.ask("[...document.querySelectorAll('.sum')].every(sum => sum.scrollWidth <= sum.clientWidth)")
        _click(browser, "document.getElementById('try')")
        assert browser.ask("state.moment") == STEPS[0]
        browser.wait_for(IN_VIEW)
        browser.wait_for("state.moment === 'end' && !timer")
        _click(browser, "document.querySelector('#objects button[data-place=\"1\"]')")
        browser.wait_for("state.object === 1")
        ground, ink = browser.ask(
            "['background-color', 'color'].map(it => getComputedStyle(document.body).getPropertyValue(it))"
        )
        luminances = [sum(int(part) for part in text[4:-1].split(",")) for text in (ground, ink)]
        assert luminances[1] - luminances[0] > 400
        browser.print(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
        assert browser.errors == []


def test_one_detector_stands_beside_the_rule_by_hand(shared: Browser, folder: Path) -> None:
    """The other side is what IoU would assign, or, of a RetinaNet, what Mean-max would make of it."""
    shared.errors.clear()
    for name, other in (("freeanchor", ["By hand", "FreeAnchor"]), ("retinanet", ["RetinaNet", "Mean-max"])):
        page = folder / f"{name}.html"
        assert main(explore_words(folder, "--num-images", 2, "--out", page, detectors=(name,))) == 0
        shared.open(page, ready=DRAWN)
        assert shared.ask("scene.panels.map(panel => panel.title.children[1].textContent)") == other
        assert not shared.ask("document.querySelector('.time label').checkVisibility()")
        assert shared.ask("document.getElementById('view-title').checkVisibility()")
    assert shared.errors == []
