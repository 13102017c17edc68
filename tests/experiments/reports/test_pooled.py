"""Claims pooled over data sets: the verdicts, what is refused, and the files; the arithmetic is in `test_pooling`."""

import math
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.tables.markup import to_markdown
from experiments.claims.claims import CLAIMS, judge
from experiments.claims.evidence import Measured
from experiments.claims.ledger import COLUMNS, ClaimSet, PooledError, read_claim_sets, read_claims, write_ledger
from experiments.claims.pooling import pooled_frame, unpooled
from experiments.reports.pooled import main, pooled_table

Numbers = tuple[float, float, float]
FILES = {"pooled.csv", "pooled.md", "pooled.png", "pooled.pdf", "index.html"}


def _measured(value: float, low: float, high: float, n_seeds: int = 2) -> Measured:
    return Measured(value=value, low=low, high=high, n_seeds=n_seeds, runs=("a",))


def _ledger(parts: Mapping[str, Mapping[str, Numbers | None]], data: str = "folder a1") -> pd.DataFrame:
    """The ledger of a set: parts of claims by id with value, low and high; every other claim is not run."""
    rows = []
    for claim in CLAIMS:
        own = {
            name: _measured(*numbers) if numbers else None for name, numbers in parts.get(claim.id, {"": None}).items()
        }
        for name, part in own.items():
            numbers = (
                [part.value, part.low, part.high, part.n_seeds, 0.0, 0, "r f"]
                if part
                else [math.nan] * 3 + [0, math.nan, 0, ""]
            )
            head = [claim.id, claim.section, claim.wording, claim.paper, claim.test, claim.rule_text, claim.unit, name]
            verdicts = [judge(claim.rule, [part]), judge(claim.rule, list(own.values()))]
            rows.append(["photos", data, *head, *numbers, *verdicts])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _write(reports: Path, name: str, parts: Mapping[str, Mapping[str, Numbers | None]], data: str = "") -> Path:
    """The report of a set: its claims and a page; `data` is its identity, where its name will not do."""
    write_ledger(_ledger(parts, data or f"folder {name}"), reports / name / "claims")
    (reports / name / "index.html").write_text("<p>", encoding="utf-8")
    return reports / name / "claims.csv"


DOORS = {
    "ap-small": {"": (0.03, 0.01, 0.06)},
    "ap-family": {"AP50": (0.02, 0.01, 0.03), "AP large": None},
    "slender": {"": (0.05, 0.01, 0.09)},
    "cost": {"lite": (1.06, 1.03, 1.10)},
}
HARDHAT = {
    "ap-small": {"": (0.01, -0.02, 0.03)},
    "ap-family": {"AP50": (0.03, 0.02, 0.04), "AP large": (0.1, 0.05, 0.2)},
    "cost": {"lite": (1.04, 1.01, 1.05)},
}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Two sets: one without large objects, the other without slender ones."""
    _write(tmp_path / "photos", "doors", DOORS)
    _write(tmp_path / "photos", "hardhat", HARDHAT)
    return tmp_path / "photos"


def _pooled(reports: Path) -> pd.DataFrame:
    frame = pooled_frame(read_claim_sets(reports)[0])
    return frame[frame["level"] == "pooled"].set_index(["id", "part"])


def test_a_part_is_pooled_over_the_sets_that_have_it(reports: Path) -> None:
    """Values, intervals, range and sets of a part that both have, and of one that only one has."""
    frame = _pooled(reports)
    ap = frame.loc[("ap-small", "")]
    assert ap["value"] == pytest.approx(0.02)
    assert (ap["low"], ap["high"]) == pytest.approx(
        (0.02 - math.hypot(0.02, 0.03) / 2, 0.02 + math.hypot(0.03, 0.02) / 2)
    )
    assert (ap["minimum"], ap["maximum"], ap["sd"]) == pytest.approx((0.01, 0.03, 0.02 / math.sqrt(2)))
    assert (ap["n_sets"], ap["sets"], ap["n_seeds"]) == (2, "doors; hardhat", "2; 2")
    assert (ap["claimed_from"], ap["part_verdict"]) == (0, "holds")
    alone = frame.loc[("ap-family", "AP large")]
    assert math.isnan(alone["value"]) and (alone["n_sets"], alone["sets"]) == (1, "hardhat")


def test_verdicts_follow_the_rules_of_the_claims(reports: Path) -> None:
    """Two undecided sets may hold together; a part that cannot be pooled keeps its claim from holding, no other."""
    frame = _pooled(reports)
    assert frame.loc[("ap-family", "AP50"), "part_verdict"] == "holds"
    assert frame.loc[("ap-family", "AP large"), "part_verdict"] == "not run"
    assert frame.loc["ap-family", "verdict"].unique().tolist() == ["undecided"]
    assert frame.loc[("cost", "lite"), "verdict"] == "holds"  # below 1.1, though doors alone is undecided
    assert frame.loc[("cost", "lite"), "claimed_to"] == 1.1
    assert "slender" not in frame.index.get_level_values("id")


def test_a_set_keeps_its_own_row_and_verdict(reports: Path) -> None:
    """Below each pooled row stands every set, what it lacks as not run."""
    frame = pooled_frame(read_claim_sets(reports)[0])
    cost = frame[frame["id"] == "cost"]
    assert cost["level"].tolist() == ["pooled", "set", "set"]
    assert cost["part_verdict"].tolist() == ["holds", "undecided", "holds"]
    large = frame[(frame["part"] == "AP large") & (frame["sets"] == "doors")].iloc[0]
    assert (large["part_verdict"], large["verdict"], large["n_sets"]) == ("not run", "undecided", 0)


def test_parts_of_other_names_are_other_parts(tmp_path: Path) -> None:
    """The cost of one backbone says nothing about another's; a stand-in for parts never run is no part."""
    parts = [{"cost": {"lite": (1.0, 0.9, 1.05)}}, {"cost": {"R18": (1.0, 0.9, 1.05)}}, {}]
    sets = [ClaimSet(name=name, claims=_ledger(own)) for name, own in zip("abc", parts)]
    assert pooled_frame(sets).empty
    assert unpooled(sets) == {"Training costs hardly more": ["a", "b"]}
    third = ClaimSet(name="d", claims=_ledger(parts[0]))
    costs = pooled_frame([*sets, third]).query("level == 'pooled'")
    assert costs["part"].tolist() == ["lite", "R18"]


def test_other_classes_of_the_same_images_are_no_further_set(reports: Path) -> None:
    """`doors-one` beside `doors` would count its images twice; without `doors` it stands for them.

    So would another backbone. A name alone says nothing: `hardhat-one` are other images.
    """
    _write(reports, "doors-one", HARDHAT, "folder doors, classes one")
    _write(reports, "doors-resnet18", HARDHAT, "folder doors")
    _write(reports, "hardhat-one", DOORS)
    _write(reports, "trash-one", DOORS, "folder trash, classes one")
    _write(reports, "trash-supercategory", DOORS, "folder trash, classes supercategory")
    sets, left_out = read_claim_sets(reports)
    assert [one.name for one in sets] == ["doors", "hardhat", "hardhat-one", "trash-supercategory"]
    assert left_out == ["doors-one", "doors-resnet18", "trash-one"]
    assert (
        "already counted: doors-one, doors-resnet18, trash-one"
        in pooled_table(pooled_frame(sets), sets, left_out).notes[-1]
    )


def test_the_table_has_a_column_for_every_set(reports: Path) -> None:
    """Pooled value, range, then each set's verdict and values; what only one set has is named below."""
    sets, _ = read_claim_sets(reports)
    table = pooled_table(pooled_frame(sets), sets)
    heads = ["Pooled verdict", "Claim", "The paper", "Pooled", "Range over sets", "doors", "hardhat"]
    assert list(table.headings) == heads
    ap, family = to_markdown(table).splitlines()[6:8]
    assert table.lines[0].kind == "holds"
    assert ap.endswith(
        "| +2.0 [+0.2, +3.8] | +1.0 to +3.0 | holds<br>+3.0 [+1.0, +6.0] | undecided<br>+1.0 [-2.0, +3.0] |"
    )
    assert "AP large: hardhat only" in family
    notes = " ".join(table.notes)
    assert "no part of it in two sets: FreeAnchor is better on slender objects (doors)" in notes
    assert "2 holds, 1 undecided" in notes


class _Links(HTMLParser):
    """Where a page's links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if tag == "a" and name == "href"]


def test_the_command_writes_every_file_and_links_lead_somewhere(
    reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Table, figure and page; the page leads to each set's page and every relative link to a file; names are escaped."""
    odd = "50% <b>|*"
    _write(reports, odd, DOORS)
    assert main(["--reports", str(reports)]) == 0
    assert capsys.readouterr().out.strip() == str(reports / "index.html")
    assert {path.name for path in reports.iterdir() if path.is_file()} == FILES
    page = (reports / "index.html").read_text(encoding="utf-8")
    parser = _Links()
    parser.feed(page)
    relative = {link for link in parser.links if not link.startswith("#")}
    assert {"doors/index.html", "hardhat/index.html", "50%25%20%3Cb%3E%7C%2A/index.html"} <= relative
    assert all((reports / link.replace("50%25%20%3Cb%3E%7C%2A", odd)).exists() for link in relative)
    assert "<b>" not in page and page.count("data:image/webp") == 1
    assert {"pooled", "forest"} <= {link.removeprefix("#") for link in parser.links}


def test_the_same_reports_give_the_same_bytes(reports: Path) -> None:
    """All but the page, which bears a date."""
    names = sorted(FILES - {"index.html"})
    main(["--reports", str(reports)])
    first = [(reports / name).read_bytes() for name in names]
    main(["--reports", str(reports)])
    assert [(reports / name).read_bytes() for name in names] == first


def test_a_single_set_is_shown_but_not_pooled(tmp_path: Path) -> None:
    """A page that links to it, an empty table that says why, a figure that says not run."""
    _write(tmp_path, "doors", DOORS)
    (tmp_path / "other").mkdir()
    assert main(["--reports", str(tmp_path)]) == 0
    assert "No claim was measured in two sets" in (tmp_path / "pooled.md").read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "pooled.csv").empty
    assert "doors/index.html" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_without_any_set_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line with the remedy, status 2, and nothing written."""
    for folder in (tmp_path, tmp_path / "missing"):
        assert main(["--reports", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"pooled: {folder}: no folder in it has a claims.csv; write it again: make claims")
    assert list(tmp_path.iterdir()) == []


DAMAGES = {
    "empty": (lambda text: "", "cannot be read as csv"),
    "header alone": (lambda text: text.splitlines()[0] + "\n", "has no rows"),
    "another table": (lambda text: "a,b\n1,2\n", "no column profile, data, id, section"),
    "cut short": (
        lambda text: text[: text.rindex("points")],
        r"line \d+: [\w-]+ is judged by interval above 0 in ''",
    ),
    "a word for a number": (lambda text: text.replace("0.03,0.01,0.06", "0.03,low,0.06"), "line 2: value, low, high"),
    "no interval": (lambda text: text.replace("0.03,0.01,0.06", "0.03,,"), "line 2: .* a value needs an interval"),
    "infinite": (lambda text: text.replace("0.03,0.01,0.06", "0.03,0.01,inf"), "line 2: .* a value needs an interval"),
    "no seeds": (lambda text: text.replace("0.06,2,", "0.06,0,"), "line 2: .* a value needs an interval and seeds"),
    "a negative error": (lambda text: text.replace("0.06,2,0.0,0", "0.06,2,-1,1"), "line 2: .* cannot be so"),
    "half a degree": (lambda text: text.replace("0.06,2,0.0,0", "0.06,2,1,0.5"), "line 2: .* cannot be so"),
    "limits exchanged": (lambda text: text.replace("0.03,0.01,0.06", "0.03,0.06,0.01"), "line 2: .* before it begins"),
    "an unknown claim": (lambda text: text.replace(",ap-small,", ",ap-tiny,"), "line 2: no claim 'ap-tiny'"),
    "another rule": (
        lambda text: text.replace("above 0", "above 1", 1),
        "line 2: ap-small is judged by interval above 1",
    ),
    "odd classes": (lambda text: text.replace("folder doors", '"folder doors, classes all"', 1), "line 2: no classes"),
    "an unknown verdict": (lambda text: text.replace("holds,holds", "holds,wins", 1), "line 2: no verdict 'wins'"),
    "a row twice": (lambda text: text + text.splitlines()[1] + "\n", "ap-small has the part '' twice"),
    "not text": (lambda text: "\udcff\udcfe" + text, "cannot be read as csv"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_claims_are_refused_in_one_line(reports: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, the line, what is wrong there and how to mend it; status 2, nothing written."""
    spoil, words = DAMAGES[damage]
    path = reports / "doors" / "claims.csv"
    path.write_bytes(spoil(path.read_text(encoding="utf-8")).encode(errors="surrogateescape"))
    with pytest.raises(PooledError, match=words):
        read_claims(path)
    assert main(["--reports", str(reports)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and line.endswith("write it again: make claims PROFILE=photos DATA=DIR")
    assert not FILES & {path.name for path in reports.iterdir()}


def test_a_real_ledger_is_read() -> None:
    """The committed ledger of `shapes`, with its parts named 0.50 to 0.90 as they are written."""
    claims = read_claims(Path(__file__).parents[3] / "reports/shapes/claims.csv")
    shapes = ClaimSet(name="shapes", claims=claims)
    assert shapes.parts("nms-recall-all") == ["0.50", "0.60", "0.70", "0.80", "0.90"]
    row = shapes.row("ap-small", "")
    assert row is not None and row["value"] == pytest.approx(-0.0004, abs=1e-5)
