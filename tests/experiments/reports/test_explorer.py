"""The matching explorer's data: the loss's own numbers, packed and unpacked; which images it shows; hostile names."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from exploring import BAG, HOSTILE, STEPS, block_of, content, explore_words, exploring_folder, header_of
from PIL import Image

from analysis.coco.reading import read_ground_truth
from experiments.cli import main
from experiments.reports.answers import Asked, Stage, ask
from experiments.reports.explorer import disagreement, pack, unpack
from experiments.reports.sample import choose_images
from freeanchor.boxes import decode_boxes, pairwise_iou
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import ImageRecord, Split, collate, load_sample, read_split_file
from freeanchor.losses import AssignedLoss, SimOTA
from freeanchor.losses.assignment import Predictions
from freeanchor.losses.free_anchor import FreeAnchorLoss, mean_max, mean_max_weights
from freeanchor.runtime import Runtime

DETECTORS = ("retinanet", "freeanchor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exploring_folder(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    """A page of both detectors over their training."""
    assert main(explore_words(folder, "--snapshots", "--out", folder / "page.html")) == 0
    return (folder / "page.html").read_text(encoding="utf-8")


def test_arrays_come_back_as_they_were_stored() -> None:
    """Every kind of number, empty arrays too; equal arrays lie in the block once."""
    noise = np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16)
    arrays = {
        "a": (noise, 1 / 65535),
        "b": (np.arange(-6, 6, dtype=np.int16).reshape(3, 4), 0.5),
        "c": (np.linspace(0, 1, 5, dtype=np.float32), 1.0),
        "none": (np.zeros((0, 3), np.uint8), 1.0),
    }
    block = pack(arrays)
    found = unpack(block)
    assert found.keys() == arrays.keys()
    for name, (values, factor) in arrays.items():
        np.testing.assert_array_equal(found[name], values * factor)
    assert len(pack({**arrays, "again": arrays["a"]})) < len(block) + 100


def test_the_page_has_the_losses_own_numbers(folder: Path, page: str) -> None:
    """Confidence, P^cls, share and Mean-max of all anchors, objects and stages equal the loss's, as finely as stored."""
    header = header_of(page)
    split = {image.image_id: image for image in read_split_file(folder / "val.json", folder / "images").images}
    assert [one["steps"] for one in header["detectors"]] == [[*STEPS, 90], [*STEPS, 90]]
    for number, name in enumerate(DETECTORS):
        files = [folder / name / "snapshots" / f"step-{step:06d}.safetensors" for step in STEPS]
        for stage, path in enumerate([*files, folder / name / "model.safetensors"]):
            model, detector = load_model(path)
            for place, entry in enumerate(header["images"]):
                sample = load_sample(split[entry["id"]], detector.inputs)
                with torch.no_grad():
                    output = model(collate([sample]).images)
                logits = output.logits[0]
                loss, labels = FreeAnchorLoss(bag_size=BAG), sample.record.labels
                bags, confidence = loss.confidence(logits, output.deltas[0], output.anchors, sample.boxes, labels)
                arrays = {key[2:]: it for key, it in unpack(block_of(page, place)).items() if key[0] == str(number)}
                expected = {
                    "confidence": confidence,
                    "cls_prob": logits[bags, labels[:, None]].sigmoid(),
                    "share": mean_max_weights(confidence),
                }
                for key, values in expected.items():
                    np.testing.assert_allclose(arrays[key][stage], values.numpy(), atol=1e-5, err_msg=key)
                np.testing.assert_allclose(arrays["summary"][stage, :, 0], mean_max(confidence).numpy(), rtol=1e-5)
                anchors = output.anchors[bags].numpy()
                np.testing.assert_allclose(arrays["anchors"], anchors, atol=1 / 16)


def test_an_assigner_is_shown_as_it_assigns(folder: Path) -> None:
    """Equal shares of the anchors that it gives an object, in the bag and outside; of those, the page says how much."""
    split = read_split_file(folder / "val.json", folder / "images")
    path, rule = folder / "retinanet" / "model.safetensors", SimOTA()
    asked = Asked(name="SimOTA", run="simota", stages=(Stage(step=None, path=path),), loss=AssignedLoss(assigner=rule))
    ground_truth = read_ground_truth(folder / "val.json")
    runtime = Runtime(precision="float32")
    answers = ask(asked, split.images, split.category_names, ground_truth, bag_size=BAG, runtime=runtime)
    assert (answers.kind, answers.is_fixed) == ("hard", False)
    model, detector = load_model(path)
    num_inside = num_outside = 0
    for image in split.images:
        sample, arrays = load_sample(image, detector.inputs), answers.arrays[image.image_id]
        with torch.no_grad():
            output = model(collate([sample]).images)
        said = Predictions(boxes=decode_boxes(output.deltas[0], output.anchors), scores=output.logits[0].sigmoid())
        sizes = output.level_sizes
        strides = torch.cat(
            [torch.full((n,), float(s)) for n, s in zip(sizes, detector.model.anchors.strides, strict=True)]
        )
        owner = rule.assign(
            output.anchors, sample.boxes, image.labels, level_sizes=sizes, strides=strides, predictions=said
        )
        bags = pairwise_iou(sample.boxes, output.anchors).topk(BAG).values[:, -1]
        for number, box in enumerate(sample.boxes):
            own = torch.nonzero(owner == number).flatten()
            iou = pairwise_iou(box[None], output.anchors[own])[0]
            inside = int((iou >= bags[number]).sum())
            taught, outside = arrays["taught"][0, number], arrays["outside"][0, number]
            assert np.count_nonzero(taught) == inside
            assert taught[taught > 0] == pytest.approx(1 / max(1, len(own)))
            assert outside == pytest.approx((len(own) - inside) / max(1, len(own)), abs=1e-6)
            num_inside, num_outside = num_inside + inside, num_outside + len(own) - inside
    assert num_inside and num_outside


def test_counts_at_the_end_are_those_of_the_objects(page: str) -> None:
    """Decided, alike, found and kept by NMS, recounted from the blocks; each object's effective anchors, and the first."""
    header = header_of(page)
    objects = [(image, it) for image, one in enumerate(header["images"]) for it in range(len(one["objects"]))]
    blocks = [unpack(block_of(page, place)) for place in range(len(header["images"]))]
    for number, detector in enumerate(header["detectors"]):
        shares = [blocks[image][f"{number}/share"][-1, it] for image, it in objects]
        effective = [blocks[image][f"{number}/summary"][-1, it, 3] for image, it in objects]
        found = [header["images"][image]["objects"][it]["found"][number][-1] == 1 for image, it in objects]
        kept = [blocks[image][f"{number}/fate"][-1, it] == 1 for image, it in objects]
        alike = [own > 0.9 * BAG for own in effective]
        assert detector["ends"] == {
            "decided": sum(own.max() > 0.5 and not is_alike for own, is_alike in zip(shares, alike)),
            "alike": sum(alike),
            "found": sum(found),
            "kept": sum(a and b for a, b in zip(found, kept)),
        }
        if detector["kind"] == "soft":
            own = [header["images"][image]["objects"][it]["effective"] for image, it in objects]
            assert own == pytest.approx(effective, abs=0.006)
    assert sum(header["detectors"][1]["ends"].values())


def test_names_stay_text(page: str) -> None:
    """No name of a class or file opens or ends an element: the page has its own elements alone, and the names as json."""
    elements: list[str] = []

    class Elements(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            elements.append(tag)

    Elements().feed(page)
    assert "onerror" not in "".join(elements) and elements.count("img") == 0
    assert elements.count("script") == 2 + 2 * 6  # header, code; an image and a block each
    assert HOSTILE not in page and HOSTILE in header_of(page)["categories"]
    assert "p0'\" &lt;b>.png" in [one["file"] for one in header_of(page)["images"]]


def test_the_page_loads_nothing(page: str) -> None:
    """No address but those that name XML's vocabularies and images of its own."""
    assert page.count("http") == page.count("http://www.w3.org/")
    assert "src=" not in page.split('<script type="application/json"')[0].split("</style>")[1]


def test_equal_inputs_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    """Nothing of the time or the machine is in it."""
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        assert main(explore_words(folder, "--num-images", 1, "--out", page, detectors=("freeanchor",))) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


def _split(number: int, objects: list[list[list[float]]]) -> Split:
    images = tuple(
        ImageRecord(
            image_id=place,
            path=Path(f"{place}.png"),
            width=100,
            height=100,
            boxes=torch.tensor(own, dtype=torch.float32).reshape(-1, 4),
            labels=torch.zeros(len(own), dtype=torch.int64),
            annotation_ids=torch.arange(len(own)) + 1000 * place,
        )
        for place, own in enumerate(objects[:number])
    )
    return Split(annotations=Path("val.json"), images=images, category_ids=(1,), category_names=("a",))


SQUARE = [10.0, 10.0, 30.0, 30.0]
WORLD = [
    [],  # never shown
    [[5.0, 5.0, 5.5, 40.0]],  # nor one whose only object is thinner than a pixel
    *[[SQUARE]] * 30,
    [[0.0, 0.0, 90.0, 6.0]],  # the most slender
    [[float(x), 0.0, x + 20.0, 20.0] for x in range(14)],  # the most crowded
]


def test_special_images_are_among_the_chosen() -> None:
    """Slender, crowded and acentric ones are shown whatever is drawn; each image once, as many as asked for."""
    split, credits = _split(len(WORLD), WORLD), dict.fromkeys(range(len(WORLD)), "free")
    sample = choose_images(split, {5000: (29.0, 29.0)}, credits, count=9)
    ids = [image.image_id for image in sample.images]
    assert len(ids) == len(set(ids)) == 9
    assert {32, 33, 5} <= set(ids) and not {0, 1} & set(ids)
    assert sample.groups[32000] == ("slender",) and sample.groups[5000] == ("square", "acentric")
    assert "crowded" in sample.groups[33003]
    others = [choose_images(split, {}, credits, count=9, seed=seed).images for seed in (0, 1)]
    assert [it.image_id for it in others[0]] != [it.image_id for it in others[1]]
    assert len(choose_images(split, {}, credits, count=99).images) == 32


def test_restricted_images_are_left_out_or_marked() -> None:
    """An image without a credit is of a licence that forbids derivatives."""
    split, credits = _split(len(WORLD), WORLD), dict.fromkeys(range(2, 32), "free")
    sample = choose_images(split, {}, credits, count=99)
    assert sample.num_refused == 2 and not {32, 33} & {image.image_id for image in sample.images}
    kept = choose_images(split, {}, credits, count=99, keeps_restricted=True)
    assert kept.restricted == {32, 33} and kept.num_refused == 0


def _pixels(page: str, place: int) -> np.ndarray:
    address = page.split(f'id="image-{place}">data:image/webp;base64,')[1].split("</script>")[0]
    return np.array(Image.open(io.BytesIO(base64.b64decode(address)))).astype(np.float64)


def test_blurred_images_show_nothing(tmp_path: Path) -> None:
    """An image whose licence forbids derivatives is refused, or loses its edges; the others keep theirs."""
    made = content(licenses=[{"id": 4, "name": "CC BY-ND 2.0"}])
    made["images"][1]["license"] = 4
    folder = exploring_folder(tmp_path, made, steps=(90,))
    one = ("freeanchor",)
    assert main(explore_words(folder, "--out", tmp_path / "a.html", detectors=one)) == 0
    refused = header_of((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert 20 not in [one["id"] for one in refused["images"]] and refused["refused"] == 1
    assert main(explore_words(folder, "--blur", "restricted", "--out", tmp_path / "b.html", detectors=one)) == 0
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    entries = header_of(page)["images"]
    sharpness = [np.abs(np.diff(_pixels(page, place), axis=1)).max() for place in range(len(entries))]
    is_blurred = [one["blurred"] for one in entries]
    assert [one["id"] for one in entries if one["blurred"]] == [20]
    assert (
        max(s for s, b in zip(sharpness, is_blurred) if b) < 30 < min(s for s, b in zip(sharpness, is_blurred) if not b)
    )
    assert main(explore_words(folder, "--blur", "all", "--out", tmp_path / "c.html", detectors=one)) == 0
    assert all(one["blurred"] for one in header_of((tmp_path / "c.html").read_text(encoding="utf-8"))["images"])


def _answers(kind: str, role: list[list[float]], anchors: np.ndarray) -> tuple[object, dict[str, np.ndarray]]:
    class Answers:
        pass

    answers = Answers()
    answers.kind = kind  # type: ignore[attr-defined]
    values = np.array(role)
    arrays = {"share": values[None], "taught": values[None], "by_iou": values > 0, "anchors": anchors}
    return answers, arrays


def test_disagreement_is_what_lies_elsewhere() -> None:
    """0 for equal shares, 1 where nothing is shared; a rule gives its anchors equal parts; other anchors by their IoU."""
    anchors = np.array([[[0, 0, 10, 10], [20, 0, 30, 10]]], dtype=np.float64)
    hard, soft = _answers("hard", [[1, 0]], anchors), _answers("soft", [[0.25, 0.75]], anchors)

    def between(*pairs: tuple[object, dict[str, np.ndarray]]) -> list[float]:
        return disagreement([pair[0] for pair in pairs], [pair[1] for pair in pairs]).tolist()  # type: ignore[misc]

    assert between(hard, soft) == [0.75] and between(soft, soft) == [0.0]
    assert between(hard, soft, _answers("soft", [[0, 1]], anchors)) == [1.0]
    assert between(soft) == [0.25]  # both of its anchors are the rule's
    assert between(hard, _answers("soft", [[1, 0]], anchors + 5)) == [pytest.approx(1 - 25 / 175)]


def test_one_detector_and_other_anchors_make_a_page(folder: Path, tmp_path: Path) -> None:
    """A single model, without snapshots, has one stage without a step."""
    assert (
        main(explore_words(folder, "--num-images", 2, "--out", tmp_path / "one.html", detectors=("freeanchor",))) == 0
    )
    header = header_of((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert [one["steps"] for one in header["detectors"]] == [[None]] and len(header["images"]) == 2
