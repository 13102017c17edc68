"""Image files of every kind that a data folder may hold, broken ones among them; nothing here reads them.

write_odd("16-bit grey", tmp_path / "p.png")
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 48)  # width, height of all images that do not say otherwise
ORIENTATION = 0x0112


def scene(size: tuple[int, int] = SIZE) -> Image.Image:
    """A dark image with a bright left half, on which every kind of file can be told right."""
    pixels = np.full((size[1], size[0], 3), 40, dtype=np.uint8)
    pixels[:, : max(1, size[0] // 2)] = 200
    return Image.fromarray(pixels)


def _bytes(image: Image.Image, suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=suffix, **options)
    return buffer.getvalue()


def _turned(flag: int, size: tuple[int, int] = SIZE) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = flag
    return _bytes(scene(size), "JPEG", exif=exif, quality=95)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes) -> bytes:
    """A png made by hand: `colour` 0 is grey and 2 RGB, `rows` begin with a filter byte each."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bomb(side: int = 20_000) -> bytes:
    """A whole black-and-white png of `side` squared pixels in 50 kB: 1.2 GB once it is RGB."""
    return png((side, side), 1, 0, bytes((1 + -(-side // 8)) * side))


def _deep_colour() -> bytes:
    """A png of 16 bits a colour."""
    pixels = np.asarray(scene()).astype(">u2") * 257
    return png(SIZE, 16, 2, b"".join(b"\0" + row.tobytes() for row in pixels))


def _deep_grey() -> Image.Image:
    return Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257)


def _transparent_palette() -> bytes:
    return _bytes(scene().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=bytes([255, 128]))


def _see_through() -> Image.Image:
    image = scene().convert("RGBA")
    image.putalpha(128)
    return image


GOOD: dict[str, Callable[[], bytes]] = {
    "grey": lambda: _bytes(scene().convert("L"), "JPEG"),
    "grey and alpha": lambda: _bytes(scene().convert("LA"), "PNG"),
    "palette": lambda: _bytes(scene().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "palette with transparency": _transparent_palette,
    "palette gif": lambda: _bytes(scene(), "GIF"),
    "CMYK": lambda: _bytes(scene().convert("CMYK"), "JPEG"),
    "RGBA": lambda: _bytes(_see_through(), "PNG"),
    "16-bit grey": lambda: _bytes(_deep_grey(), "PNG"),
    "16-bit grey tiff": lambda: _bytes(_deep_grey(), "TIFF"),
    "16-bit colour": _deep_colour,
    "progressive jpeg": lambda: _bytes(scene(), "JPEG", progressive=True),
    "webp": lambda: _bytes(scene(), "WEBP"),
    "bmp": lambda: _bytes(scene(), "BMP"),
    "turned upside down by EXIF": lambda: _turned(3),
    "turned by EXIF": lambda: _turned(6),
}
SIZES = {"1x1": (1, 1), "1x5000": (1, 5000), "5000x1": (5000, 1), "20,000 px wide": (20_000, 40), "2x3": (2, 3)}
BROKEN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"this is no image at all",
    "web page": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "truncated jpeg": lambda: _bytes(Image.effect_noise(SIZE, 90).convert("RGB"), "JPEG")[:-300],
    "truncated png": lambda: _bytes(Image.effect_noise(SIZE, 90).convert("RGB"), "PNG")[:-300],
    "damaged png": lambda: _bytes(scene(), "PNG").replace(b"IDAT\x78", b"IDAT\x00"),
    "bare header": lambda: b"\xff\xd8\xff\xe0" + bytes(40),
    "20,000 px squared": bomb,
    "32-bit float": lambda: _bytes(Image.fromarray(np.ones(SIZE[::-1], dtype=np.float32)), "TIFF"),
}


def write_odd(name: str, path: Path) -> tuple[int, int]:
    """The image of that name at `path`; the size that a json would say it has."""
    if name in SIZES:
        scene(SIZES[name]).save(path, format="PNG")
        return SIZES[name]
    if name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    elif name != "missing":
        path.write_bytes({**GOOD, **BROKEN}[name]())
    return SIZE
