"""Tables: their exact lines, markup and files."""

import html
import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.tables import cells
from analysis.tables.cells import Table, TableCell, TableError, TableLine, tidy_table
from analysis.tables.markup import Marked, to_html, to_latex, to_markdown, write_table

NAN = math.nan
LAYOUT = cells.TableLayout(
    title="Table 2",
    labels={"backbone": "Backbone", "variant": "Detector"},
    metrics={"training_seconds": "Training time", "ap": "AP", "ap_50": "AP50"},
    caption="Gains & costs.",
)


def cell(metric, value, published, *, run="free_anchor", variant="FreeAnchor", low=NAN, high=NAN, n_seeds=1, **more):
    """One row of a tidy frame; a single seed's measurement unless told otherwise."""
    row = {
        "profile": "shapes", "run": run, "detector": variant.rstrip("*"), "backbone": "SmallResNet" if run else "",
        "split": "val", "metric": metric, "value": value, "low": low, "high": high, "n_seeds": n_seeds,
        "published": published, "source": "" if math.isnan(published) else "Table 2, test-dev", "variant": variant,
        "published_backbone": "ResNet-50", "schedule": "90k",
    }  # fmt: skip
    return row | more


def measured_and_published_only():
    """A run with an interval and without AP50 in the paper, a run never made, and somebody else's detector."""
    return pd.DataFrame(
        [
            cell("training_seconds", 453.0, 18972.0),
            cell("ap", 0.4537, 0.387, low=0.4391, high=0.4678),
            cell("ap_50", 0.6, NAN),
            cell("training_seconds", NAN, NAN, run="star", variant="FreeAnchor**", n_seeds=0),
            cell("ap", NAN, 0.473, run="star", variant="FreeAnchor**", n_seeds=0),
            cell("ap", NAN, 0.415, run="", variant="FCOS", n_seeds=0),
            cell("ap_50", NAN, 0.607, run="", variant="FCOS", n_seeds=0),
        ]
    )


def test_markdown_is_exact():
    """Paper above here, hours and minutes, intervals, `n/a`, `not run`, one line for a published-only row, escapes."""
    assert to_markdown(tidy_table(measured_and_published_only(), LAYOUT)) == (
        "**Table 2**\n"
        "\n"
        "Gains & costs.\n"
        "\n"
        "| Backbone | Detector | Source | Training time | AP | AP50 |\n"
        "| --- | --- | --- | --: | --: | --: |\n"
        "| ResNet-50 | FreeAnchor | paper | 5.27 h | 38.7 | n/a |\n"
        "| SmallResNet | FreeAnchor | here | 7.5 min | 45.4 [43.9, 46.8] | 60.0 |\n"
        "| ResNet-50 | FreeAnchor\\*\\* | paper | n/a | 47.3 | n/a |\n"
        "| SmallResNet | FreeAnchor\\*\\* | here | not run | not run | not run |\n"
        "| ResNet-50 | FCOS | paper | n/a | 41.5 | 60.7 |\n"
        "\n"
        "- paper: Table 2, test-dev.\n"
        "- here: shapes, val; seeds per run: 1.\n"
    )


def test_latex_is_exact():
    """The same table with booktabs, indices as in the paper, escapes, and space between rows of two lines."""
    assert to_latex(tidy_table(measured_and_published_only(), LAYOUT), label="table2") == (
        "% needs \\usepackage{booktabs,graphicx}\n"
        "\\begin{table}[t]\n"
        "  \\centering\n"
        "  \\caption{Gains \\& costs.}\n"
        "  \\label{tab:table2}\n"
        "  \\resizebox{\\linewidth}{!}{%\n"
        "  \\begin{tabular}{lllrrr}\n"
        "    \\toprule\n"
        "    Backbone & Detector & Source & Training time & AP & AP$_{50}$ \\\\\n"
        "    \\midrule\n"
        "    ResNet-50 & FreeAnchor & paper & 5.27 h & 38.7 & n/a \\\\\n"
        "    SmallResNet & FreeAnchor & here & 7.5 min & 45.4 {\\scriptsize [43.9, 46.8]} & 60.0 \\\\\n"
        "    \\addlinespace\n"
        "    ResNet-50 & FreeAnchor** & paper & n/a & 47.3 & n/a \\\\\n"
        "    SmallResNet & FreeAnchor** & here & not run & not run & not run \\\\\n"
        "    \\addlinespace\n"
        "    ResNet-50 & FCOS & paper & n/a & 41.5 & 60.7 \\\\\n"
        "    \\bottomrule\n"
        "  \\end{tabular}}\n"
        "  \\par\\smallskip{\\footnotesize paper: Table 2, test-dev.}\n"
        "  \\par\\smallskip{\\footnotesize here: shapes, val; seeds per run: 1.}\n"
        "\\end{table}\n"
    )


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("ap", 0.4537, "45.4"),
        ("ap", 0.0, "0.0"),
        ("ap_gain_objects_1_3", 0.0304, "+3.0"),
        ("ap_gain_objects_1_3", -0.0304, "-3.0"),
        ("again", 0.5, "50.0"),
        ("training_seconds", 93.4, "93 s"),
        ("training_seconds", 453.0, "7.5 min"),
        ("training_seconds", 18972.0, "5.27 h"),
        ("num_images", 500.0, "500"),
        ("effective_anchors", 12.34, "12.3"),
        ("ap", NAN, "not run"),
    ],
)
def test_numbers_are_printed_by_the_name_of_their_metric(metric, value, text):
    """Fractions as percent, gains with a sign, times in a fitting unit, counts as they are, nan as not run."""
    assert cells.format_measure(metric, value) == text


def test_a_finished_run_without_a_value_is_undefined_not_missing():
    """A nan with seeds behind it (no large object to find) differs from a run that was never made."""
    frame = pd.DataFrame([cell("ap", NAN, 0.387, n_seeds=1), cell("ap", NAN, 0.387, run="b", n_seeds=0)])
    here = [line for line in tidy_table(frame, LAYOUT).lines if line.kind == "here"]
    assert [line.cells[1].text for line in here] == ["undefined", "not run"]


def test_ablations_can_do_without_paper_lines():
    """Where the paper gives no number for any row, only the measured lines stand."""
    layout = replace(LAYOUT, has_paper_lines=False)
    table = tidy_table(pd.DataFrame([cell("ap", 0.4, NAN)]), layout)
    assert [line.kind for line in table.lines] == ["here"]
    assert "paper" not in to_markdown(table)


def test_labels_are_escaped_for_every_format_and_never_blank():
    """Letters that mean something to a format do no harm; a blank label shows a dash, a blank paper backbone n/a."""
    frame = pd.DataFrame([cell("ap", 0.4, 0.3, variant="a|b*c_d 5% & {x} [7]", published_backbone="")])
    table = tidy_table(frame, LAYOUT)
    assert "| n/a | a\\|b\\*c\\_d 5% & {x} [7] | paper |" in to_markdown(table)
    assert "n/a & a\\textbar{}b*c\\_d 5\\% \\& \\{x\\} {[}7{]} & paper" in to_latex(table)
    assert '<td class="placeholder">n/a</td><td>a|b*c_d 5% &amp; {x} [7]</td><td>paper</td>' in to_html(table)
    blank = tidy_table(pd.DataFrame([cell("ap", 0.4, 0.3, backbone="")]), LAYOUT)
    assert "| – | FreeAnchor | here |" in to_markdown(blank)


@given(st.lists(st.sampled_from([NAN, 0.0, 0.25, 1.0]), min_size=6, max_size=6), st.booleans())
def test_no_cell_is_ever_blank(numbers, is_published_only):
    """Whatever is missing, every cell says something, and every line has all its cells."""
    run = "" if is_published_only else "r"
    rows = [cell(m, numbers[i], numbers[i + 3], run=run) for i, m in enumerate(LAYOUT.metrics)]
    lines = tidy_table(pd.DataFrame(rows), LAYOUT).lines
    assert [line.kind for line in lines] == (["paper"] if is_published_only else ["paper", "here"])
    for line in lines:
        assert len(line.cells) == 3 and all(c.text.strip() for c in line.cells) and all(line.labels)


def test_files_hold_the_three_formats_and_the_csv_reads_back(tmp_path):
    """md and tex are what the functions give, the csv gives back every number exactly, and nothing else is left."""
    frame = measured_and_published_only().assign(value=lambda rows: rows.value / 3)
    write_table(frame, LAYOUT, tmp_path / "deep" / "table2.v1")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [
        "table2.v1.csv", "table2.v1.md", "table2.v1.tex",
    ]  # fmt: skip
    assert (tmp_path / "deep" / "table2.v1.md").read_text() == to_markdown(tidy_table(frame, LAYOUT))
    back = pd.read_csv(tmp_path / "deep" / "table2.v1.csv", keep_default_na=False, na_values={"value": [""]})
    assert list(back)[: len(cells.TIDY_COLUMNS)] == list(cells.TIDY_COLUMNS)
    pd.testing.assert_series_equal(back.value, frame.value)


def test_nothing_is_written_where_the_frame_does_not_fit(tmp_path):
    """A missing column or a doubled cell is one clear line, and leaves no file behind."""
    frame = measured_and_published_only()
    with pytest.raises(TableError, match="the frame lacks published"):
        write_table(frame.drop(columns="published"), LAYOUT, tmp_path / "t")
    with pytest.raises(TableError, match=r"ap stands twice in the row of shapes, free_anchor"):
        write_table(pd.concat([frame, frame.iloc[[1]]]), LAYOUT, tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_a_run_without_a_published_number_is_one_line() -> None:
    """No paper's line of dashes above it."""
    cell = {"profile": "photos", "run": "peer", "detector": "peer", "backbone": "b", "split": "val", "metric": "ap"}
    cell |= {"value": 0.2, "low": 0.1, "high": 0.3, "n_seeds": 1, "published": float("nan"), "source": ""}
    layout = cells.TableLayout(title="T", labels={"detector": "Detector"}, metrics={"ap": "AP"})
    kinds = ("here", "here alone")
    tables = [tidy_table(pd.DataFrame([{**cell, "measured_as": kind}]), layout) for kind in kinds]
    assert [[line.kind for line in table.lines] for table in tables] == [["paper", "here"], ["here"]]


def of_claims() -> Table:
    """A claim with two parts, in words of ours that are marked and a name that is not."""
    values = TableCell(text="AP_50: +6.0", interval="[+1.8, +10.1]", below=(TableCell(text="AP large: not run"),))
    verdict = TableCell(text="holds", is_bold=True)
    return Table(
        title="Claims",
        caption=Marked("*holds* where <all> of it does"),
        headings=("Verdict", "Measured"),
        lines=(TableLine(kind="holds", row=0, cells=(verdict, values), runs=("a&b", "old", "c")),),
        notes=(Marked("`SEEDS=3` tells."), "`as it is`"),
    )


def test_parts_of_a_cell_stand_below_each_other():
    """One line per part, verdicts bold, words to the left; marks of our own words and no others are obeyed."""
    assert to_markdown(of_claims()) == (
        "**Claims**\n\n*holds* where <all> of it does\n\n"
        "| Verdict | Measured |\n| --- | --- |\n"
        "| **holds** | AP\\_50: +6.0 [+1.8, +10.1]<br>AP large: not run |\n\n"
        "- `SEEDS=3` tells.\n- \\`as it is\\`\n"
    )
    latex = to_latex(of_claims())
    assert (
        "\\emph{holds} where \\textless{}all\\textgreater{} of it does" in latex and "\\texttt{SEEDS=3} tells." in latex
    )
    assert "\\textbf{holds} & AP\\_50: +6.0 {\\scriptsize [+1.8, +10.1]}; AP large: not run \\\\\n" in latex


def test_html_is_exact():
    """A line has its kind's class; the verdict leads to the first known run and names all, words lead nowhere."""
    assert to_html(of_claims().of_runs(["c", "a&b"])) == (
        '<table>\n<thead><tr><th scope="col">Verdict</th><th scope="col">Measured</th></tr></thead>\n<tbody>\n'
        '<tr class="holds"><td><a class="origin" href="#run-a&amp;b" title="a&amp;b, c"><strong>holds</strong></a></td>'
        '<td><span class="part">AP_50: +6.0<span class="interval"> [+1.8, +10.1]</span></span>'
        '<span class="part">AP large: not run</span></td></tr>\n</tbody>\n</table>\n'
        '<ul class="notes"><li><code>SEEDS=3</code> tells.</li><li>`as it is`</li></ul>'
    )
    numbers = to_html(tidy_table(measured_and_published_only(), LAYOUT))
    assert '<th scope="col" class="number">AP<sub>50</sub></th>' in numbers
    assert '<td class="number">38.7</td>' in numbers and '<td class="number placeholder">not run</td>' in numbers
    link = '<a class="origin" href="#run-free_anchor" title="free_anchor">'
    assert f'<td class="number">{link}45.4<span class="interval"> [43.9, 46.8]</span></a></td>' in numbers


@pytest.mark.parametrize(
    ("name", "markdown", "latex"),
    [
        ("$x$ and $y$", r"\$x\$ and \$y\$", r"\$x\$ and \$y\$"),
        ("[a](javascript:b)", r"[a\](javascript:b)", "{[}a{]}(javascript:b)"),
        ("&lt;b&gt; &#60; R&D", r"\&lt;b\&gt; \&#60; R&D", r"\&lt;b\&gt; \&\#60; R\&D"),
        ("~~gone~~ a~b", r"\~~gone\~~ a~b", r"\textasciitilde{}\textasciitilde{}gone"),
        ('a|b "c" `d`', r'a\|b "c" \`d\`', r"a\textbar{}b \textquotedbl{}c\textquotedbl{} \textasciigrave{}d"),
        ("a\n\n| b |\t\\end{x}", r"a \| b \| \\end{x}", r"a \textbar{} b \textbar{} \textbackslash{}end\{x\}"),
        ("<script>x</script>", r"\<script\>x\</script\>", r"\textless{}script\textgreater{}x"),
    ],
)
def test_names_of_users_are_shown_as_they_are(name: str, markdown: str, latex: str) -> None:
    """Links, entities, formulas and commands in them do nothing, in any of the three formats."""
    table = tidy_table(pd.DataFrame([cell("ap", 0.4, 0.3, variant=name)]), LAYOUT)
    assert f"| {markdown} |" in to_markdown(table)
    assert latex in to_latex(table)
    assert f"<td>{html.escape(' '.join(name.split()))}</td>" in to_html(table)
