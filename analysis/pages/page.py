"""The page of an evaluation or a comparison: one file without network, under a stated number of bytes.

html = evaluation_page(subject, title=…, caption=…, table=result.table, parts=result.parts, photos="images")
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.pages.content import Subject, page_content

SIZE_LIMIT = 3_000_000  # bytes of a page, unless told otherwise
_LEGEND = (
    ("object", "object"),
    ("object missed", "missed object"),
    ("ok", "right"),
    ("cls", "classification error"),
    ("loc", "localisation error"),
    ("both", "both"),
    ("dup", "duplicate"),
    ("bkg", "background error"),
)


def evaluation_page(
    subject: Subject,
    *,
    title: str,
    caption: str,
    table: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    photos: Path | str | None = None,
    size_limit: int = SIZE_LIMIT,
) -> str:
    """The page as text. Images of the folder `photos` stand on it as far as `size_limit` allows, boxes always.

    Raises `UsageError` where the folder has none of the images.
    """
    content = page_content(subject, table=table, parts=parts, photos=photos, size_limit=size_limit)
    return _template().render(**content, title=title, caption=caption, legend=_LEGEND, json=_inline(content["data"]))


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
    )
    return environment.get_template("page.html")


def _inline(data: dict[str, Any]) -> Any:
    """The data as json that no text in it can end: what HTML would take for a tag is written as an escape."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # holds no markup
