"""Photographs with a detector's boxes drawn on copies of them, turned as viewers show them. Nothing here needs torch.

draw_detections(upright(image), rows, category_ids).save("drawn.png")
"""

import colorsys
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from freeanchor.picture_files import ORIENTATION, orientation

SHOWN_SIDE = 960  # px, the least long side of a drawn picture


def upright(image: Image.Image) -> Image.Image:
    """The picture as viewers turn it by its EXIF orientation; as it is where that says nothing, or cannot be read."""
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


def _colour(label: int, num_labels: int) -> tuple[int, int, int]:
    """One of `num_labels` colours spread evenly over the hues."""
    red, green, blue = colorsys.hsv_to_rgb(label / num_labels, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image.Image, rows: Sequence[dict[str, Any]], category_ids: Sequence[int]) -> Image.Image:
    """A copy of the picture with each box in its class's colour, its name and score above it.

    A picture below `SHOWN_SIDE` is enlarged to it, so that the labels leave room for what they name.
    """
    zoom = max(1.0, SHOWN_SIDE / max(image.size))
    drawn = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(drawn)
    line = max(1, round(max(drawn.size) / 400))
    font = ImageFont.load_default(size=round(max(drawn.size) / 70))
    for row in sorted(rows, key=lambda row: row["score"]):  # the surest on top
        x, y, width, height = (value * zoom for value in row["bbox"])
        colour = _colour(category_ids.index(row["category_id"]), len(category_ids))
        canvas.rectangle((x, y, x + width, y + height), outline=colour, width=line)
        text = f"{row['category']} {row['score']:.2f}"
        left, top, right, bottom = canvas.textbbox((x, y), text, font=font, anchor="lb")
        shift = max(0, 1 - top)  # a label above the picture's edge moves inside
        canvas.rectangle((left - 1, top + shift - 1, right + 1, bottom + shift), fill=colour)
        canvas.text((x, y + shift), text, fill="black", font=font, anchor="lb")
    return drawn
