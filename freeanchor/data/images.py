"""One image file, without torch: read as RGB of 8 bits, or refused in one line; and the size a network sees it at.

JPEG, PNG, WebP, BMP, GIF and TIFF are read, by their content: some of Pillow's other decoders start programs. Of
several images in a file the first counts. Pixels are taken as they are stored: a flag that makes viewers turn an image
is told (`orientation`) and not obeyed, as in the authors' code. Transparency is left out, and of 16 bits the upper 8
count.

Memory stays bounded: an image is refused by its header where it has more pixels than Pillow takes for a decompression
bomb, twice `Image.MAX_IMAGE_PIXELS` or 179 million, or would need more than `MEMORY` and 20 times its file's own size.
Links are followed: whoever owns the folder made them, no json can.

    image = read_image(Path("photo.jpg"))
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from freeanchor.errors import DataError, FileError

ResizeRule = Literal["pil", "maskrcnn-benchmark", "mmdetection", "torchvision", "detectron2"]
RESIZE_RULES: tuple[ResizeRule, ...] = ("pil", "maskrcnn-benchmark", "mmdetection", "torchvision", "detectron2")
LARGEST_SIDE = 2**13  # px, of an image as a network sees it: beyond, its maps take tens of gigabytes
ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held
TURNED = (5, 6, 7, 8)  # its values that swap width and height
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's names of what is decoded, and nothing else
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")  # of their files, most usual first
MEMORY = 400_000_000  # bytes that any image may need; a larger one at most SWELLING times the size of its file
SWELLING = 20
UNKNOWN_WHITE = ("I", "F")  # Pillow's modes of 32 bits a pixel, which may mean anything


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file with its header read; whatever fails then or inside the block is a FileError."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise FileError("is no file", "replace it")
        with Image.open(path, formats=FORMATS) as image:
            _check_memory(image, path)
            yield image
    except FileError:
        raise
    except FileNotFoundError:
        remedy = "put it there or take it out of the json"
        raise FileError("no such image", remedy, is_missing=True) from None
    except UnidentifiedImageError:
        what = "not an image of a kind that is read (JPEG, PNG, WebP, BMP, GIF, TIFF)"
        raise FileError(what, "save it as one of these, or replace the file") from None
    except Image.DecompressionBombError as error:
        raise _too_large(error) from None
    except Exception as error:  # decoders of two dozen formats raise what they like at a damaged file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise FileError(f"cannot be read ({reason})", "copy the image again") from None


def _too_large(error: Image.DecompressionBombError) -> FileError:
    """The refusal of an image that would take gigabytes."""
    found = re.search(r"\d+", str(error))
    pixels = f"{int(found[0]):,}" if found else "too many"
    limit = f", more than the {2 * Image.MAX_IMAGE_PIXELS:,} that are read" if Image.MAX_IMAGE_PIXELS else ""
    return FileError(f"has {pixels} pixels{limit}", "make it smaller, or cut it into tiles")


def _check_memory(image: Image.Image, path: Path) -> None:
    """Refuse an image whose header promises far more than its file can hold: a black one, or a lie."""
    pixels, size = image.width * image.height, path.stat().st_size
    stored = 1 if image.mode in ("1", "L", "P") else 4
    if image.mode.startswith("I;16"):
        stored = 6
    each = stored if image.mode == "RGB" else stored + 4  # with its copy in RGB
    if pixels * each > max(MEMORY, SWELLING * size):
        what = f"has {pixels:,} pixels in {size:,} bytes, and would need {pixels * each / 1e6:,.0f} MB"
        remedy = f"above {MEMORY / 1e6:,.0f} MB an image may need {SWELLING} times its file: make it smaller"
        raise FileError(what, remedy)


def to_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an opened image in RGB of 8 bits; raises FileError where nobody knows what is white."""
    if image.mode in UNKNOWN_WHITE:
        raise FileError("has 32 bits a channel, whose white nobody knows", "save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts at 255: all but black would be white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "RGB":  # convert would copy it
        image.load()
        return image._new(image.im)
    return image.convert("RGB")


def read_image(path: Path) -> Image.Image:
    """The image in RGB, fully read; raises FileError where it is missing, none, too large, or cut short."""
    with opened(path) as image:
        return to_rgb(image)


def orientation(image: Image.Image) -> int | None:
    """The EXIF flag of how viewers turn an image (1 is upright), None where it has none."""
    flag = image.getexif().get(ORIENTATION)
    return flag if isinstance(flag, int) else None


def size_difference(size: tuple[int, int], expected: tuple[int, int], flag: int | None) -> tuple[str, str]:
    """What is wrong with an image stored at another `size` than the json's, `flag` being its EXIF one; the remedy."""
    what = f"is {size[0]}x{size[1]} pixels, the json says {expected[0]}x{expected[1]}"
    if flag in TURNED and size[::-1] == expected:
        return f"{what}, as viewers turn it (EXIF orientation {flag})", "store it turned, without the flag"
    if size[::-1] == expected:
        return f"{what}, width and height swapped", "correct whichever is wrong"
    return what, "correct whichever is wrong"


def open_image(path: Path) -> Image.Image:
    """The image in RGB as `read_image` has it; raises DataError where it is missing, none, or cut short."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on large or odd files, which are read all the same
        try:
            return read_image(path)
        except FileError as error:
            raise DataError.at(path, error.what, error.remedy) from None


def upright(image: Image.Image) -> Image.Image:
    """The image as viewers turn it by its EXIF orientation; as it is where that says nothing, or cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on a damaged header
            flag = orientation(image)
    except Exception:  # a damaged header makes Pillow raise what it likes; the pixels are good
        return image
    if flag in (None, 1):
        return image
    bare = image.copy()
    bare.info = {}  # ImageOps writes the other EXIF fields again, and stumbles over odd ones
    bare.getexif()[ORIENTATION] = flag
    return ImageOps.exif_transpose(bare)


def resized_size(
    width: int, height: int, short_side: int, max_long_side: int, rule: ResizeRule = "pil"
) -> tuple[int, int]:
    """(width, height) with the short side at `short_side`, or less where the long side would pass `max_long_side`."""
    if rule == "maskrcnn-benchmark":
        return _floor_long_side(width, height, short_side, max_long_side)
    if rule == "detectron2":
        return _two_steps(width, height, short_side, max_long_side)
    short, long = min(width, height), max(width, height)
    factor = min(short_side / short, max_long_side / long)
    if rule == "mmdetection":
        return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))
    if rule == "torchvision":
        return max(1, int(width * factor)), max(1, int(height * factor))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _floor_long_side(width: int, height: int, short_side: int, max_long_side: int) -> tuple[int, int]:
    """The size by maskrcnn-benchmark's Resize: a whole short side first, then the long side cut to whole pixels."""
    short, long = min(width, height), max(width, height)
    if long / short * short_side > max_long_side:
        short_side = max(1, round(max_long_side * short / long))
    if short == short_side:
        return width, height
    if width < height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _two_steps(width: int, height: int, short_side: int, max_long_side: int) -> tuple[int, int]:
    """The size by detectron2's ResizeShortestEdge: the short side, then the limit, then halves rounded up."""
    factor = short_side / min(width, height)
    sides = (float(short_side), factor * height) if width <= height else (factor * width, float(short_side))
    if max(sides) > max_long_side:
        factor = max_long_side / max(sides)
        sides = sides[0] * factor, sides[1] * factor
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))
