"""Small Pascal VOC style data sets written by hand: tiny jpgs, xml as text, lists of ids. Nothing here reads them.

root = write_official(tmp_path / "VOC2012", {"a": [voc_object("dog", (3, 4, 10, 12))]}, {"train": ["a"], "val": ["b"]})
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

SIZE = (40, 30)  # width, height of all images that do not say otherwise
Objects = Mapping[str, Sequence[str]]  # the xml of an image's objects, by its name without extension
DOG, CAT = "dog", "cat"


def voc_object(
    name: str = DOG, box: Sequence[object] = (3, 4, 10, 12), *, difficult: object = None, more: str = ""
) -> str:
    """The xml of one object; `box` is xmin, ymin, xmax, ymax as they are written, `more` stands before it."""
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{escape(name)}</name>{flag}{more}<bndbox>{sides}</bndbox></object>"


def voc_xml(
    objects: Sequence[str] = (), *, filename: str | None = None, size: tuple[object, object] | None = SIZE
) -> str:
    """The text of an xml file."""
    named = "" if filename is None else f"<filename>{escape(filename)}</filename>"
    sized = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>\n{named}\n{sized}\n" + "\n".join(objects) + "\n</annotation>\n"


def draw(path: Path, *, size: tuple[int, int] = SIZE, grey: int = 90, exif_orientation: int | None = None) -> Path:
    """An image of one grey, of the kind its extension says; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if exif_orientation is not None:
        exif[0x0112] = exif_orientation
    Image.new("RGB", size, (grey, grey, grey)).save(path, exif=exif)
    return path


def write_images(
    annotations: Path,
    images: Path,
    objects: Objects,
    *,
    suffix: str = ".jpg",
    size: tuple[int, int] = SIZE,
    grey: int = 90,
) -> None:
    """An xml and an image for each name, in the folders given."""
    annotations.mkdir(parents=True, exist_ok=True)
    for stem, items in objects.items():
        name = f"{stem}{suffix}"
        draw(images / name, size=size, grey=grey)
        (annotations / f"{stem}.xml").write_text(voc_xml(items, filename=name, size=size), encoding="utf-8")


def write_lists(root: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """`ImageSets/Main/NAME.txt` with a line each."""
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_official(root: Path, objects: Objects, lists: Mapping[str, Sequence[str]]) -> Path:
    """VOC's own layout; returns `root`."""
    write_images(root / "Annotations", root / "JPEGImages", objects)
    if lists:
        write_lists(root, lists)
    return root


def write_flat(root: Path, splits: Mapping[str, Objects]) -> Path:
    """Folders of a split each, xml beside images; the images of each split are of another grey; returns `root`."""
    for position, (split, objects) in enumerate(splits.items()):
        write_images(root / split, root / split, objects, grey=60 + 50 * position)
    return root


def numbered(num_images: int, name: str = DOG) -> dict[str, list[str]]:
    """As many images with an object each: p01, p02 and so on."""
    return {f"p{number:02d}": [voc_object(name)] for number in range(1, num_images + 1)}


def small_official(root: Path) -> Path:
    """Two images to train on and one to test on, dog and cat in both."""
    pair = [voc_object(DOG, (1, 1, 40, 30)), voc_object(CAT, (11, 6, 20, 25))]
    return write_official(root, {"a": pair, "b": pair[:1], "c": pair}, {"train": ["a", "b"], "val": ["c"]})


def entities(kind: str) -> str:
    """An xml that means harm: "laughs" grows a thousandfold in three steps, "external" asks for another file."""
    if kind == "laughs":
        steps = ['<!ENTITY a0 "dog">', *(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 4))]
        declared, used = "".join(steps), "&a3;"
    else:
        declared, used = '<!ENTITY a SYSTEM "secret.txt">', "&a;"
    text = voc_xml([voc_object("NAME")], filename="c.jpg").replace("NAME", used)
    return f'<?xml version="1.0"?>\n<!DOCTYPE annotation [{declared}]>\n{text}'
