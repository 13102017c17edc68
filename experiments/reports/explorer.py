"""The matching explorer: one self-contained page that shows which anchors learn which object, image by image.

    write_explorer(Path("explorer.html"), Exhibition(sample=sample, answers=answers, title="shapes", …))

Images are webp, numbers quantised arrays, deflated, in base64: one block per image, which the page unpacks when it is
looked at. A block begins with a line of json that lists its arrays: name, type, shape, first byte, and what a stored
number is to be multiplied by. `FINENESS` says how finely fractions are kept; anchors keep 1/16 of a pixel shown, and
predicted boxes 1/2, as distances from the object's corners.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image

from analysis.evaluation.suppression import pairwise_iou
from analysis.figures.style import palette
from analysis.pages.photos import webp_uri
from experiments.reports.answers import SUMMARY, Answers, Arrays
from experiments.reports.page import template
from experiments.reports.sample import GROUPS, Sample
from freeanchor.data.coco import ImageRecord
from freeanchor.data.images import open_image
from freeanchor.files import write_bytes
from freeanchor.inference.outcomes import Fate
from freeanchor.losses.retinanet import RetinaNetLoss

LARGEST_SIDE = 480  # px of an image shown; smaller ones are not enlarged
QUALITY = 72  # of webp
BLURRED_SIDE = 10  # px that are left of a blurred image: colours, and nothing that could be recognised
ANCHOR_UNIT, BOX_UNIT = 1 / 16, 1 / 2  # px
LEAST_SIDE = 0.1  # of the image's long side, of the object that a page opens with
DECIDED, ALIKE = 0.5, 0.9  # a share above: one anchor has taken over; so much of the bag: all count about alike
LIMIT = 5_000_000  # bytes that a page should have at most, to be mailed and opened at once
SAME_ANCHOR = 0.1  # px: within rounding, two detectors' anchors are the same
UNKNOWN = -32768  # a box that is not there
# Parts of 1: as many digits as the page shows. Scores of an untrained network are small.
FINENESS = {
    **dict.fromkeys(("cls_prob", "confidence", "share", "taught"), 65535),
    "loc_prob": 2000,
    "iou": 1000,
    "box_iou": 1000,
}


@dataclass(frozen=True, kw_only=True)
class Exhibition:
    """What a page shows: one detector or several, asked about the same sample. `blurs_all` hides every image."""

    sample: Sample
    answers: Sequence[Answers]
    category_names: tuple[str, ...]
    title: str
    seed: int = 0
    blurs_all: bool = False


def write_explorer(path: Path, exhibition: Exhibition) -> int:
    """Write the page, whole or not at all; its size in bytes."""
    content = explorer_page(exhibition).encode()
    write_bytes(path, content)
    return len(content)


def explorer_page(exhibition: Exhibition) -> str:
    """The page's html."""
    images = exhibition.sample.images
    sizes = [_shown_size(image) for image in images]
    return template("explorer.html").render(
        title=exhibition.title,
        header=_json(_header(exhibition, sizes)),
        images=[_webp(exhibition, image, size) for image, size in zip(images, sizes, strict=True)],
        blocks=[_block(exhibition, image, size) for image, size in zip(images, sizes, strict=True)],
        style=_part("explorer.css"),
        script=_part("explorer.js"),
    )


def _part(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _json(content: Any) -> Markup:
    """Json as it may stand in a script element: no name can end the element, or begin a comment in it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _shown_size(image: ImageRecord) -> tuple[int, int]:
    scale = min(1, LARGEST_SIDE / max(image.width, image.height))
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _header(exhibition: Exhibition, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """All that the page needs before any block is unpacked: detectors, images, objects and what to filter by."""
    sample, answers = exhibition.sample, exhibition.answers
    looks = palette([one.asked.name for one in answers])
    return {
        "title": exhibition.title,
        "seed": exhibition.seed,
        "refused": sample.num_refused,
        "first": first_view(exhibition),
        "decided": DECIDED,
        "alike": ALIKE,
        "byHand": f"IoU of {RetinaNetLoss().foreground_iou:g} or more",
        "groups": GROUPS,
        "categories": exhibition.category_names,
        "detectors": [
            {
                "name": one.asked.name,
                "run": one.asked.run,
                "kind": one.kind,
                "rule": one.rule,
                "isFixed": one.is_fixed,
                "bagSize": one.bag_size,
                "levels": one.levels,
                "ratios": one.ratios,
                "colour": looks[one.asked.name].colour,
                "steps": [stage.step for stage in one.asked.stages],
                "leastScore": [min(score, 2.0) for score in one.least_score],
                "ends": _ends(one),
            }
            for one in answers
        ],
        "images": [_image_entry(exhibition, image, size) for image, size in zip(sample.images, sizes, strict=True)],
    }


def _ends(answers: Answers) -> dict[str, int]:
    """Objects of which one anchor has taken over at the end, or all count about alike; found; their best box kept."""
    counts = dict.fromkeys(("decided", "alike", "found", "kept"), 0)
    for arrays in answers.arrays.values():
        alike = arrays["summary"][-1, :, SUMMARY.index("effective")] > ALIKE * arrays["share"].shape[-1]
        is_found = arrays["found"][-1].astype(bool)
        each = {
            "decided": ~alike & (arrays["share"][-1].max(axis=1) > DECIDED),
            "alike": alike,
            "found": is_found,
            "kept": is_found & (arrays["fate"][-1] == Fate.KEPT),
        }
        counts = {name: counts[name] + int(own.sum()) for name, own in each.items()}
    return counts


def first_view(exhibition: Exhibition) -> tuple[int, int]:
    """The image and object, by position, that a page opens with: the most decided of those that all detectors find."""
    ranked = []
    for place, image in enumerate(exhibition.sample.images):
        arrays = [one.arrays[image.image_id] for one in exhibition.answers]
        effective = _effective(exhibition.answers, arrays)
        sides = (image.boxes[:, 2:] - image.boxes[:, :2]).amin(dim=1) / max(image.width, image.height)
        for index, side in enumerate(sides.tolist()):
            is_found = all(bool(own["found"][-1, index]) for own in arrays)
            ranked.append((not is_found, side < LEAST_SIDE, float(effective[index]), place, index))
    return min(ranked)[-2:]


def _effective(answers: Sequence[Answers], arrays: Sequence[Arrays]) -> Float[np.ndarray, " G"]:
    """How many anchors each object's Mean-max really uses at the end: the first detector's that learns shares."""
    soft = next((own for one, own in zip(answers, arrays, strict=True) if one.kind != "hard"), arrays[0])
    return np.asarray(soft["summary"][-1, :, SUMMARY.index("effective")])


def _image_entry(exhibition: Exhibition, image: ImageRecord, size: tuple[int, int]) -> dict[str, Any]:
    sample, arrays = exhibition.sample, [one.arrays[image.image_id] for one in exhibition.answers]
    scale = size[0] / image.width, size[1] / image.height
    boxes = image.boxes.numpy() * np.array([*scale, *scale])
    differs, effective = disagreement(exhibition.answers, arrays), _effective(exhibition.answers, arrays)
    return {
        "id": image.image_id,
        "file": image.path.name,
        "width": size[0],
        "height": size[1],
        "scale": round(scale[0], 6),
        "credit": sample.credits[image.image_id],
        "blurred": exhibition.blurs_all or image.image_id in sample.restricted,
        "objects": [
            {
                "id": number,
                "category": label,
                "box": box,
                "groups": sample.groups[number],
                "found": [own["found"][:, place].astype(int).tolist() for own in arrays],
                "disagreement": round(float(differs[place]), 3),
                "effective": round(float(effective[place]), 2),
            }
            for place, (number, label, box) in enumerate(
                zip(image.annotation_ids.tolist(), image.labels.tolist(), boxes.round(2).tolist(), strict=True)
            )
        ],
    }


def disagreement(answers: Sequence[Answers], arrays: Sequence[Arrays]) -> Float[np.ndarray, " G"]:
    """How much of each object's learning two detectors give to different anchors, at the end: 0 to 1.

    Half the sum of absolute differences of what anchors are given; of more detectors the largest over pairs, of one
    that to the IoU rule. Between detectors of other anchors it is 1 - IoU of the anchors that are given most.
    """
    roles = [_role(one.kind, own) for one, own in zip(answers, arrays, strict=True)]
    if len(answers) == 1:
        by_iou = arrays[0]["by_iou"] / np.maximum(arrays[0]["by_iou"].sum(axis=1, keepdims=True), 1)
        by_share = arrays[0]["share"][-1]
        return np.abs(roles[0] - (by_share if answers[0].kind == "hard" else by_iou)).sum(axis=1) / 2
    pairs = combinations(zip(roles, (own["anchors"] for own in arrays), strict=True), 2)
    return np.max([_difference(*one, *other) for one, other in pairs], axis=0)


def _role(kind: str, arrays: Arrays) -> Float[np.ndarray, "G n"]:
    """What each anchor is given of the object at the end of training: shares, or equal parts of those assigned."""
    return np.asarray(arrays["taught" if kind == "hard" else "share"][-1])


def _difference(role: np.ndarray, anchors: np.ndarray, other_role: np.ndarray, others: np.ndarray) -> np.ndarray:
    if anchors.shape == others.shape and np.abs(anchors - others).max(initial=0) < SAME_ANCHOR:
        return np.asarray(np.abs(role - other_role).sum(axis=1) / 2)
    rows = np.arange(len(anchors))
    first, second = anchors[rows, role.argmax(axis=1)], others[rows, other_role.argmax(axis=1)]
    return np.array([1 - pairwise_iou(a[None], b[None])[0, 0] for a, b in zip(first, second, strict=True)])


def _webp(exhibition: Exhibition, image: ImageRecord, size: tuple[int, int]) -> str:
    """An image as a data address: as large as it is shown, or without anything to recognise in it."""
    pixels = open_image(image.path)
    if exhibition.blurs_all or image.image_id in exhibition.sample.restricted:
        side = BLURRED_SIDE / max(size)
        small = max(1, round(size[0] * side)), max(1, round(size[1] * side))
        pixels = pixels.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    elif pixels.size != size:
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    return webp_uri(pixels, quality=QUALITY, method=6)


def _block(exhibition: Exhibition, image: ImageRecord, size: tuple[int, int]) -> str:
    """The arrays of one image of all detectors, packed."""
    scale = np.array([size[0] / image.width, size[1] / image.height] * 2)
    arrays = {
        f"{place}/{name}": stored
        for place, one in enumerate(exhibition.answers)
        for name, stored in _stored(one.arrays[image.image_id], one, image.boxes.numpy(), scale).items()
    }
    return pack(arrays)


Stored = tuple[np.ndarray, float]  # integers or float32, and what they are to be multiplied by


def _stored(arrays: Arrays, answers: Answers, gt_boxes: np.ndarray, scale: np.ndarray) -> dict[str, Stored]:
    """A detector's arrays as few bytes: boxes in pixels shown, ratios as positions in the detector's."""
    ratios = np.array(answers.ratios)
    positions = np.abs(arrays["ratio"][..., None] - ratios).argmin(axis=-1)
    nms = arrays["nms"]
    return {
        "anchors": _boxes(arrays["anchors"], scale, ANCHOR_UNIT),
        "predicted": _boxes(arrays["predicted"] - gt_boxes[:, None], scale, BOX_UNIT),
        "nms_boxes": _boxes(nms[..., :4], scale, BOX_UNIT),
        "nms_scores": (nms[..., 4:].astype(np.float32), 1.0),
        "summary": (arrays["summary"].astype(np.float32), 1.0),
        "outside": _fractions(arrays["outside"], 1000),
        "ratio": (positions.astype(np.uint8), 1.0),
        **{name: (arrays[name].astype(np.uint8), 1.0) for name in ("level", "octave", "by_iou", "fate")},
        **{name: (arrays[name].astype(np.int16), 1.0) for name in ("owner", "nms_anchor", "num_before", "num_after")},
        **{name: _fractions(arrays[name], parts) for name, parts in FINENESS.items()},
    }


def _fractions(values: np.ndarray, parts: int) -> Stored:
    return (values.clip(0, 1).astype(np.float64) * parts).round().astype(np.uint16), 1 / parts


def _boxes(values: np.ndarray, scale: np.ndarray, unit: float) -> Stored:
    units = (values.astype(np.float64) * scale / unit).round().clip(-32767, 32767)
    return np.nan_to_num(units, nan=UNKNOWN).astype(np.int16), unit


def pack(arrays: dict[str, Stored]) -> str:
    """Arrays as one block of text; equal ones are stored once. Bytes of a kind lie together, which packs better."""
    listing: list[tuple[str, str, tuple[int, ...], int, float]] = []
    content, known = b"", dict[bytes, int]()
    for name, (values, factor) in arrays.items():
        planes = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.dtype.itemsize).T.tobytes()
        if planes not in known:
            known[planes] = len(content)
            content += planes
        listing.append((name, values.dtype.name, values.shape, known[planes], factor))
    head = json.dumps(listing, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(head + b"\n" + content, 9)).decode()


def unpack(block: str) -> dict[str, np.ndarray]:
    """The arrays of a block as the page reads them; the inverse of `pack` but for what storing rounds."""
    head, content = zlib.decompress(base64.b64decode(block)).split(b"\n", 1)
    arrays = {}
    for name, kind, shape, first, factor in json.loads(head):
        item = np.dtype(kind)
        size = int(np.prod(shape)) * item.itemsize
        planes = np.frombuffer(content, np.uint8, size, first).reshape(item.itemsize, -1)
        arrays[name] = np.ascontiguousarray(planes.T).view(item).reshape(shape) * factor
    return arrays
