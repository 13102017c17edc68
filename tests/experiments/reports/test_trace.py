"""From a number on the page to its run in one click, and to that run's provenance in another."""

import json
import re
from pathlib import Path

from miniature import Mini

from experiments.registry.build import build_profile
from experiments.reports.catalogue import REPORTS, write_report
from experiments.reports.index import line_runs, measured_runs, write_index, write_run
from experiments.runs.store import Store


def test_every_number_leads_to_its_runs_provenance(mini: Mini, tmp_path: Path) -> None:
    """Each measured number links to a row of the table of runs, that to the whole record; records of others go."""
    for name in ("claims", "headline", "table1", "table2", "table3", "ablations", "figure5", "training"):
        write_report(name, mini.profile, mini.store, tmp_path)
    of_earlier = tmp_path / "mini" / "runs" / "freeanchor-small-s9.json"
    of_earlier.parent.mkdir()
    of_earlier.write_text("{}")
    page = write_index(mini.profile, mini.store, tmp_path).read_text(encoding="utf-8")
    assert not of_earlier.exists()
    rows = dict(re.findall(r'<tr id="run-([\w.-]+)"><td><a href="([^"]+)">', page))
    assert set(rows) == set(mini.profile.pair)
    linked = set(re.findall(r'class="origin" href="#run-([\w.-]+)"', page))
    assert linked == set(rows)
    for run, file in rows.items():
        record = json.loads((tmp_path / "mini" / file).read_text(encoding="utf-8"))
        assert record["run"] == run
        training = mini.profile.evaluations[run].training
        assert record["training"]["fingerprint"] == training.fingerprint
        assert {"commit", "hardware", "torch"} <= set(record["training"]["provenance"])
        assert record["test"]["num_pictures"] == 16
    numbers = re.findall(r'<tr class="here">.*?</tr>', page, flags=re.S)
    cells = [cell for row in numbers for cell in re.findall(r'<td class="number">(.*?)</td>', row, flags=re.S)]
    assert cells
    assert all('class="origin"' in cell for cell in cells)


def test_figures_name_their_runs(mini: Mini) -> None:
    """Figs. 5 and 6 are of the compared pair, Fig. 2 of the code alone; runs that are not there are left out."""
    assert measured_runs("figure5", mini.profile, mini.store) == mini.profile.pair
    assert measured_runs("figure2", mini.profile, mini.store) == ()
    assert set(measured_runs("claims", mini.profile, mini.store)) == set(mini.profile.pair)


def test_lines_without_runs_lead_nowhere(empty_store: Store, tmp_path: Path) -> None:
    """A table of which nothing was run has no links; a missing one has no lines."""
    profile = build_profile("mini")
    write_report("table1", profile, empty_store, tmp_path)
    assert set(line_runs("table1", profile, empty_store, tmp_path / "mini")) == {()}
    assert line_runs("table2", profile, empty_store, tmp_path / "mini") == ()
    assert "table1" in REPORTS


def test_a_record_says_where_the_run_lies(mini: Mini, tmp_path: Path) -> None:
    """The run's folder is given relative to the project, whatever the store's own place."""
    name = mini.profile.pair[0]
    path = write_run(mini.profile.evaluations[name], mini.store, tmp_path)
    record = json.loads((tmp_path / path).read_text(encoding="utf-8"))
    assert record["directory"].startswith(f"runs/mini/{name}-")
