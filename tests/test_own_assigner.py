"""The example of an assigner of one's own: what it assigns, that it trains, and that it stands in the table."""

from pathlib import Path

import pytest
import torch

from experiments.registry.build import build_profile
from experiments.registry.methods import own_method
from freeanchor.anchors import AnchorConfig, grid_anchors
from freeanchor.errors import UsageError

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "nearest_centres.py"


@pytest.mark.parametrize("num_per_cell", [1, 9])
def test_an_object_has_the_anchors_of_its_nearest_cells(num_per_cell: int) -> None:
    """Four cells around its centre, on the level of its size; the smaller of two objects has what both want."""
    usual = AnchorConfig()
    config = usual if num_per_cell == 9 else AnchorConfig(num_octaves=1, ratios=(1.0,))
    grids = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    anchors, sizes = grid_anchors(config, grids), tuple(rows * columns * num_per_cell for rows, columns in grids)
    gt_boxes = torch.tensor([[40.0, 40.0, 88.0, 88.0], [44.0, 44.0, 84.0, 84.0], [0.0, 0.0, 128.0, 128.0]])
    rule = own_method(EXAMPLE).loss.assigner
    assignment = rule.assign(anchors, gt_boxes, torch.zeros(3, dtype=torch.int64), level_sizes=sizes)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    small = centres[assignment == 1]
    assert len(small) == 4 * num_per_cell
    assert (small - 64).abs().max() <= 4.001  # the four cells of 8 px around (64, 64)
    assert (assignment == 2).sum() == 4 * num_per_cell
    empty = rule.assign(anchors, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), level_sizes=sizes)
    assert (empty == -1).all()


def test_its_runs_stand_beside_the_others() -> None:
    """One more method at the end, called after the file, with a run per seed and fingerprints of its own."""
    profile = build_profile("shapes", num_seeds=2, assigner=EXAMPLE)
    method = profile.methods[-1]
    assert (method.key, method.label) == ("nearest-centres", "NearestCentres")
    assert method.runs == ("nearest-centres-small-s0", "nearest-centres-small-s1")
    usual = build_profile("shapes", num_seeds=2)
    assert set(profile.evaluations) - set(usual.evaluations) == {*method.runs, *method.tried.values()}
    assert all(profile.evaluations[name] == usual.evaluations[name] for name in usual.evaluations)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "has 0 dataclasses with a method assign; give a file with one"),
        ("def (", "no Python file that can be read .line 1"),
        ("raise KeyError('a')", "stops with KeyError: 'a'; repair the file"),
        (
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own:\n    size: int\n"
            "    def assign(self): pass\n",
            "Own cannot be made .*; give every field a default",
        ),
    ],
)
def test_a_file_that_holds_no_assigner_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    """What is wrong with it, and what to do."""
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        own_method(tmp_path / "mine.py")
    with pytest.raises(UsageError, match=r"none\.py: no Python file that can be read"):
        own_method(tmp_path / "none.py")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("gt_boxes", r"gave torch.float32 \[1, 4\]; give int64 \[3\]"),
        ("anchors[:, 0].long() * 0 + 7", "gave 7 to 7 for 1 objects; give an object's index"),
    ],
)
def test_an_answer_that_is_no_assignment_is_one_line(tmp_path: Path, answer: str, message: str) -> None:
    """The shape, the kind and the range of what `assign` returns are looked at."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own:\n"
        f"    def assign(self, anchors, gt_boxes, gt_labels=None, **given):\n        return {answer}\n"
    )
    rule = own_method(tmp_path / "mine.py").loss.assigner
    with pytest.raises(UsageError, match=message):
        rule.assign(torch.zeros(3, 4), torch.zeros(1, 4))


def test_a_file_that_changes_has_other_runs(tmp_path: Path) -> None:
    """The fingerprint covers the source: nothing trained by an earlier version is taken for the new one."""
    text, folders = EXAMPLE.read_text(), []
    for number in (4, 5):
        (tmp_path / "own_cells.py").write_text(text.replace("num_cells: int = 4", f"num_cells: int = {number}"))
        profile = build_profile("mini", assigner=tmp_path / "own_cells.py")
        folders.append(profile.evaluations["own-cells-small-s0"].directory(Path("runs")))
    assert folders[0] != folders[1]
