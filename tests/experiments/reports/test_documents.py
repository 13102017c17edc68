"""README.md and REPRODUCING.md: blocks that are the reports', marks that are the code's."""

from pathlib import Path

import pytest

from experiments.reports import documents
from experiments.reports.documents import (
    BLOCKS,
    DEVIATIONS,
    DOCUMENTS,
    DocumentError,
    deviations_table,
    filled,
    find_marks,
    main,
    stale_blocks,
)
from experiments.runs.store import ROOT

TEXT = "# Title\n\n<!-- begin deviations -->\nold\n<!-- end deviations -->\n\nafter\n"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_projects_documents_agree_with_its_reports(name: str) -> None:
    """Every table that stands between markers is, byte for byte, what the committed reports give."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert stale_blocks(text, ROOT) == []
    assert "<!-- begin " in text


def test_every_mark_in_the_code_is_listed_and_the_other_way_round() -> None:
    """A deviation without a mark, or a mark without an entry, is an error."""
    assert set(find_marks(ROOT)) == set(DEVIATIONS)
    numbers = [int(mark[1:]) for mark in DEVIATIONS]
    assert numbers == sorted(numbers)


def test_the_table_says_where_each_mark_stands() -> None:
    """A line a deviation, with the file that carries it."""
    lines = deviations_table(ROOT).splitlines()
    assert len(lines) == len(DEVIATIONS) + 2
    (line,) = (line for line in lines if line.startswith("| D14 |"))
    assert line.endswith("| `freeanchor/matching.py` |")


def test_a_block_is_filled_and_the_rest_left_alone() -> None:
    """Only what stands between the markers changes; once filled, it is not stale."""
    assert stale_blocks(TEXT, ROOT) == ["deviations"]
    text = filled(TEXT, ROOT)
    assert text.startswith("# Title\n\n<!-- begin deviations -->\n| mark |")
    assert text.endswith("<!-- end deviations -->\n\nafter\n")
    assert "old" not in text
    assert stale_blocks(text, ROOT) == []


def test_an_unknown_block_is_named() -> None:
    """A typing error in a marker is one clear line, not a block left stale for ever."""
    with pytest.raises(DocumentError, match="no block 'tabel'; choose one of headline"):
        filled(TEXT.replace("deviations", "tabel"), ROOT)
    assert "headline" in BLOCKS


def test_check_names_what_is_stale_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 and the block's name; without --check the document is mended."""
    for name in DOCUMENTS:
        (tmp_path / name).write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    assert main(["--check"]) == 1
    assert "README.md: deviations differ from the reports; run make documents" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == TEXT
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_one_sure_anchor_needs_99_percent_to_decide_a_bag() -> None:
    """The table of Mean-max against Eq. 7 by hand: weights 1 / (1 - c) and 49 times 1, their sum squared over squares."""
    head, _, numbers = (line.strip("| ").split(" | ")[1:] for line in BLOCKS["mean-max"](ROOT).splitlines())
    assert len(head) == len(numbers) > 0
    for confidence, number in zip(map(float, head), map(float, numbers), strict=True):
        odds = 1 / (1 - confidence)
        assert number == pytest.approx((odds + 49) ** 2 / (odds**2 + 49), abs=0.051)
    assert float(numbers[head.index("0.99")]) == pytest.approx(2.2, abs=0.05)
