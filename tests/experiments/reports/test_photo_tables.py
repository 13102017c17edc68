"""The documents' table of photographs: a line a set, from the csv files of the reports."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.registry.profile import PEER
from experiments.reports.documents import photographs_table
from experiments.reports.frames import HEADLINE_ROWS


def write_report(folder: Path, peer: float | None) -> None:
    """A set's reports, as far as the table reads them."""
    folder.mkdir(parents=True)
    cells = [
        {"what": what, "metric": metric, "value": value, "low": value - 0.01, "high": value + 0.02, "n_seeds": 2}
        for place, what in enumerate(HEADLINE_ROWS.values())
        for metric, value in (("retinanet", 0.2 + place), ("freeanchor", 0.25 + place), ("gain", 0.05 + place))
    ]
    pd.DataFrame(cells).to_csv(folder / "headline.csv", index=False)
    rows = [{"run": PEER, "metric": "ap", "value": peer}] if peer is not None else []
    pd.DataFrame(rows, columns=["run", "metric", "value"]).to_csv(folder / "table2.csv", index=False)
    gains = (("FreeAnchor", "ap", -0.03), ("RetinaNet", "ap_50", 0.5), ("RetinaNet", "ap", 0.01))
    above = [(name, metric, v, v - 0.01, v + 0.02) for name, metric, v in gains] if peer else []
    pd.DataFrame(above, columns=["detector", "metric", "value", "low", "high"]).to_csv(folder / "peer.csv", index=False)
    bins = [{"bin": name, "num_images": number} for name, number in (("1-3", 7), ("1-3", 7), ("4-7", 5))]
    pd.DataFrame(bins).to_csv(folder / "figure6.csv", index=False)


@pytest.mark.parametrize(
    ("peer", "shown"), [(0.19, ["19.0", "+1.0 [+0.0, +3.0]; -3.0 [-4.0, -1.0]"]), (None, ["not run"] * 2)]
)
def test_a_line_a_set(tmp_path: Path, peer: float | None, shown: list[str]) -> None:
    """In percent; gains signed, with their interval; what was not run is said."""
    write_report(tmp_path / "reports" / "photos" / "ponds", peer)
    head, rule, line = photographs_table(tmp_path).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:7] == ["[ponds](reports/photos/ponds/claims.md)", "12", "2", "20.0", "25.0", *shown]
    places = [list(HEADLINE_ROWS).index(metric) for metric in ("ap", "ap_slender", "ap_square", "nr")]
    assert cells[7:] == [f"+{5 + 100 * at}.0 [+{4 + 100 * at}.0, +{7 + 100 * at}.0]" for at in places]
    assert head.count("|") == rule.count("|") == line.count("|")


def test_no_set_is_a_table_without_lines(tmp_path: Path) -> None:
    """Before anything was measured."""
    assert len(photographs_table(tmp_path).splitlines()) == 2


def test_a_report_of_an_earlier_version_has_no_peer(tmp_path: Path) -> None:
    """No peer.csv is as not run; a detector that was not run beside it, too."""
    folder = tmp_path / "reports" / "photos" / "ponds"
    write_report(folder, 0.19)
    frame = pd.read_csv(folder / "peer.csv")
    frame[frame["detector"] == "FreeAnchor"].to_csv(folder / "peer.csv", index=False)
    assert "| not run; -3.0 [-4.0, -1.0] |" in photographs_table(tmp_path)
    (folder / "peer.csv").unlink()
    assert "| 19.0 | not run |" in photographs_table(tmp_path)
