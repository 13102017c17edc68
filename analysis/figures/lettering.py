"""Names from users' files in figures: shortened where they are long, in fonts that have their letters, or with a note.

shortened("a name of many, many letters …")
with noted_letters("figure1.png"):
    figure.savefig(...)         # one line on stderr for all letters that no font here has
"""

import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from freeanchor.errors import printable

SHOWN = 48  # letters of a name; more leave no room for what the figure shows
# Fonts of other scripts than Latin, Greek and Cyrillic, of the systems' own and of those that are commonly installed.
FALLBACKS = (
    "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR",
    "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC",
    "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil",
    "Noto Sans Thai", "Noto Sans Symbols2", "Noto Emoji", "Unifont",
)  # fmt: skip
_GLYPH = re.compile(r"^Glyph (\d+) \(.*missing from")
_SCRIPT = re.compile(r"does not support .* natively")


def shortened(name: str, limit: int = SHOWN) -> str:
    """A name of at most `limit` letters: of a longer one the beginning and the end, since names differ at either."""
    if len(name) <= limit:
        return name
    end = (limit - 1) // 3
    return f"{name[: limit - 1 - end]}…{name[-end:]}"


@cache
def families() -> list[str]:
    """DejaVu Sans, which comes with matplotlib: the same letters everywhere; then what is installed of `FALLBACKS`."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]


@cache
def _font(family: str) -> tuple[Path, frozenset[int]]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    path = findfont(family)
    return Path(path), frozenset(FT2Font(path).get_charmap())


def font_of(text: str) -> tuple[Path, str]:
    """The file of the font that has most letters of a text, and those that it lacks."""
    lacking = [
        (_font(family)[0], "".join(letter for letter in dict.fromkeys(text) if ord(letter) not in _font(family)[1]))
        for family in families()
    ]
    return min(lacking, key=lambda one: len(one[1]))


@contextmanager
def noted_letters(where: object) -> Iterator[None]:
    """Within it matplotlib's warnings of single letters that no font has become one note on stderr; others stay."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    lacking = []
    for warning in caught:
        text = str(warning.message)
        if glyph := _GLYPH.match(text):
            lacking.append(chr(int(glyph[1])))
        elif not _SCRIPT.search(text):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    say_lacking(where, lacking)


def say_lacking(where: object, letters: Sequence[str]) -> None:
    """Say once on stderr which letters are drawn as boxes, if any."""
    kinds = list(dict.fromkeys(letters))
    if kinds:
        shown = printable("".join(kinds[:8])) + ("…" if len(kinds) > 8 else "")
        scripts = dict.fromkeys(unicodedata.name(letter, "unnamed").split()[0].lower() for letter in kinds)
        print(
            f"{printable(str(where))}: {len(kinds)} letters ({shown}: {', '.join([*scripts][:3])}) are in no font here "
            "and are drawn as boxes; install one that has them, such as Noto Sans CJK",
            file=sys.stderr,
        )
