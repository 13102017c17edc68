"""Writing results so that nobody ever sees half of one: a temporary name first, then a rename.

write_json(directory / "train.json", record)
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeanchor.writing import replacing

if TYPE_CHECKING:  # nobody waits for pandas who writes no table
    import pandas as pd


def write_json(path: Path, content: Any) -> None:
    """Write json, indented and sorted where it is an object."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write a frame without its index."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
