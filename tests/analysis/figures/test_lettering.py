"""Names of users in figures: never a formula, shortened where long, in a font that has their letters or with one note."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from oracles.match_frames import make_matches
from test_style_of_figures import FIGURES, REPORT

from analysis.figures import lettering, style
from analysis.figures.curves import figure2
from analysis.figures.intervals import interval_figure, nms_recall_figure
from analysis.figures.lettering import font_of, noted_letters, shortened
from analysis.figures.matching import figure1, figure4, match_heatmaps
from analysis.figures.style import new_figure, styled, write_figure

NAMES = (r"$\foo{$", "$5 or $10", "A$$et_tag", r"a\$b$_c$", "$x^", "50 %_{&")
IMAGE = np.full((96, 128, 3), 200, dtype=np.uint8)


def _intervals(name: str) -> Figure:
    frame = pd.DataFrame({"metric": ["ap_category"], "label": [name], "value": [0.3], "low": [0.2], "high": [0.4]})
    return interval_figure(frame)


def _nms(name: str) -> Figure:
    rows = [{"definition": name, "nms": name, "tau": tau, "nr": 0.5, "low": 0.4, "high": 0.6} for tau in (0.5, 0.7)]
    return nms_recall_figure(pd.DataFrame(rows))


def _heatmaps(name: str) -> Figure:
    frame = make_matches(steps=(250, 1000)).assign(category=name, stride_x=8, stride_y=8)
    return match_heatmaps(frame, IMAGE, [name[:60], f"{name[:60]}, step 1"])


def _plain(name: str) -> Figure:
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.set(title=name, xlabel=name, xticks=[0, 1], xticklabels=[name, "b"])
    axes.plot([0, 1], [0, 1], label=name)
    axes.legend(title=name)
    figure.suptitle(name)
    return figure


DRAWN = {"intervals": _intervals, "nms": _nms, "heatmaps": _heatmaps, "any": styled(_plain)}


def _draw(figure: Figure) -> None:
    FigureCanvasAgg(figure).draw()


def _texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_a_formula(drawn, name: str) -> None:
    """Drawn letter by letter, whether a formula could be read in it or not, whoever saves the figure."""
    figure = drawn(name)
    assert any(name in text.get_text() for text in _texts(figure))
    assert not any(text.get_parse_math() for text in _texts(figure))
    _draw(figure)  # outside the style


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_of_any_figure_is_read_as_a_formula(name: str) -> None:
    """Titles, ticks and legends of figures of runs alike; detectors are called what they like."""
    frame = pd.read_csv(REPORT / f"{name}.csv")
    odd = frame[frame.detector == "RetinaNet"].assign(detector=r"$\foo{$")
    figure = FIGURES[name](pd.concat([odd, frame]))
    assert not any(text.get_parse_math() for text in _texts(figure))
    _draw(figure)


def test_our_own_formulas_are_formulas() -> None:
    """The knots of Fig. 2 keep their indices."""
    curve = pd.DataFrame({"t1": 0.3, "t2": 0.8, "x": [0.0, 1.0], "value": [0.0, 1.0]})
    labels = figure2(curve).axes[0].get_xticklabels()
    assert {text.get_text() for text in labels if "$" in text.get_text()} == {"$t_1$\n0.3", "$t_2$\n0.8"}
    assert all(text.get_parse_math() for text in labels)


@pytest.mark.parametrize("name", ["x" * 10_000, "a long name " * 50 + "1", "é" * 49])
def test_long_names_keep_their_ends(name: str) -> None:
    """At most 48 letters of a name stand in a figure, those of its beginning and its end."""
    short = shortened(name)
    assert len(short) == 48 and name.startswith(short.split("…")[0]) and name.endswith(short.split("…")[1])
    assert shortened(name[:48]) == name[:48]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout that has no room
        for figure in (_intervals(name), _heatmaps(name)):
            assert max(len(line) for text in _texts(figure) for line in text.get_text().splitlines()) < 160
            _draw(figure)


def test_names_differ_at_either_end() -> None:
    """Long names of one beginning stay apart by their ends."""
    assert shortened("class " * 20 + "1") != shortened("class " * 20 + "2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("热带鱼", "3 letters (热带鱼: cjk)"),
        ("สวัสดี abc", "letters ("),
        ("\U0001f41f fish \U0001f41f", "1 letters (\U0001f41f: fish)"),
    ],
)
def test_letters_without_a_font_are_one_note(capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    """Not one warning per letter: one line that says what to install; known letters need none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with noted_letters("a"), matplotlib.rc_context({"font.family": ["DejaVu Sans"]}):
            _draw(_plain(name))
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and "install one that has them" in line
        with noted_letters("b"):
            _draw(DRAWN["any"]("Poisson – рыба – ψάρι"))
    assert capsys.readouterr().err == ""


def test_a_written_figure_has_one_note_for_all_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both its forms lack the same letters."""

    def lacking(_figure: Figure, suffix: str) -> bytes:
        for letter in "热带":
            warnings.warn(f"Glyph {ord(letter)} (\\N{{CJK}}) missing from font(s) DejaVu Sans.", stacklevel=1)
        return suffix.encode()

    monkeypatch.setattr(style, "figure_bytes", lacking)
    write_figure(Figure(), pd.DataFrame({"a": [1]}), tmp_path / "a")
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.pdf", "a.csv"}


def test_other_warnings_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Only those about letters are taken back."""
    with pytest.warns(UserWarning, match="about something else"), noted_letters("a"):
        warnings.warn("about something else", stacklevel=1)
    assert capsys.readouterr().err == ""


def test_the_font_with_most_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those installed, the first that has all; what even the best lacks is named."""
    monkeypatch.setattr(lettering, "families", lambda: ["cmr10", "DejaVu Sans", "DejaVu Serif"])
    path, lacking = font_of("рыба热")
    assert path.name == "DejaVuSans.ttf" and lacking == "热"


def test_families_that_are_not_installed_are_not_asked_for() -> None:
    """matplotlib would warn of each, at every text."""
    known = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    assert lettering.families()[0] == "DejaVu Sans" and set(lettering.families()) <= known


def test_figures_of_the_paper_draw_under_any_settings() -> None:
    """A user's own matplotlib settings do not reach them."""
    with matplotlib.rc_context({"text.usetex": True, "text.parse_math": True, "font.family": "serif"}):
        for figure in (figure1(make_matches(), IMAGE), figure4(make_matches(), IMAGE), _intervals("$x$")):
            assert {text.get_fontfamily()[0] for text in _texts(figure)} == {"DejaVu Sans"}
            assert not any(text.get_usetex() or text.get_parse_math() for text in _texts(figure))
