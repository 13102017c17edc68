"""Small copies of images for a page, as WebP in data URIs, as many as a budget of bytes allows.

files = file_names("gt.json")                           # image id -> name, where the ground truth has them
photos = small_photos(paths, budget=2_000_000)          # data URIs, "" where there is none or the budget is spent
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeanchor.errors import UsageError
from freeanchor.files import read_json

if TYPE_CHECKING:
    from PIL import Image

SIDE, QUALITY = 200, 45  # pixels of the long side; of WebP: about 5 kB each
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
)  # nothing else is decoded (freeanchor.data.images)
_MOST_PIXELS = 200_000_000  # of an image that is opened at all


def file_names(source: object) -> dict[int, str]:
    """Each image's `file_name` in a COCO instances file or its content; empty where there are none."""
    content: Any = source
    if isinstance(source, Path | str):
        content = read_json(Path(source)) if str(source).endswith((".json", ".json.gz")) else {}
    images = content.get("images", []) if isinstance(content, dict) else []
    return {int(image["id"]): str(image["file_name"]) for image in images if image.get("file_name")}


def photo_paths(folder: Path | str | None, names: Sequence[str]) -> list[Path | None]:
    """Where the images lie, under their name or its last part; None for those that are not there.

    Raises `UsageError` where the folder has none of them.
    """
    if folder is None:
        return [None] * len(names)
    places = [(Path(folder) / name, Path(folder) / Path(name).name) for name in names]
    found = [next((path for path in pair if name and path.is_file()), None) for name, pair in zip(names, places)]  # noqa: B905
    if names and not any(found):
        wanted = next((name for name in names if name), "file names, which the ground truth lacks")
        raise UsageError(f"photos must be the folder of the images, but {folder} does not hold {wanted}")
    return found


def small_photos(paths: Sequence[Path | None], *, budget: int) -> list[str]:
    """A data URI for each path, in order until `budget` bytes are spent; images that cannot be read are left out."""
    uris = []
    for path in paths:
        uri = "" if path is None or budget <= 0 else _small(path)
        uris.append(uri if len(uri) <= budget else "")
        budget -= len(uri)
    return uris


def _small(path: Path) -> str:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return ""
            image.draft("RGB", (SIDE, SIDE))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((SIDE, SIDE))
            return webp_uri(small, quality=QUALITY, method=4)
    # What Pillow raises for files that are no images, or whose size in pixels nobody would open.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


def webp_uri(image: "Image.Image", *, quality: int, method: int) -> str:
    """An image as a data address; `method` is how long to look for a small one, 0 to 6."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=quality, method=method)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
