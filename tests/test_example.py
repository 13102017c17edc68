"""The example for torchvision runs as its user runs it, on a miniature of the data."""

import subprocess
import sys
from pathlib import Path

from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.scene import ShapesConfig

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "torchvision_free_anchor.py"


def _run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, EXAMPLE, *map(str, arguments)], capture_output=True, text=True)


def test_it_trains_and_prints_ap_before_and_after(tmp_path: Path) -> None:
    """Two steps on a small data set end with the line that the whole example is for."""
    data = tmp_path / "data"
    write_shapes(ShapesConfig(num_train=16, num_val=4, image_size=128, max_size=80.0, min_head=9.0), data)
    done = _run("--steps", 2, "--data", data)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("AP before 0.0%, after 2 steps ")
    assert last.endswith("%")


def test_a_folder_without_images_is_one_line(tmp_path: Path) -> None:
    """A folder that is no data set ends the example with the reader's message, not with a traceback."""
    done = _run("--data", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "train.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_shows_an_example() -> None:
    """`--help` has a command to copy."""
    assert "examples/torchvision_free_anchor.py --steps" in _run("--help").stdout
