"""Sec. 4.3 as runs: the paper's values, one field at a time, nothing trained twice."""

from dataclasses import fields

import pytest
from miniature import Mini

from analysis.tables.markup import to_markdown
from experiments.registry.build import build_profile
from experiments.registry.profile import FACTORS
from experiments.reports.frames import ABLATION_LAYOUT, ablation_frame
from freeanchor.losses.free_anchor import FreeAnchorLoss

SECTION_4_3 = {
    "n": {40, 50, 60, 100},
    "t": {0.5, 0.6, 0.7},
    "alpha": {0.25, 0.5, 0.75},
    "gamma": {1.5, 2.0, 2.5},
}


def test_the_papers_values_are_all_there() -> None:
    """Every value that Sec. 4.3 names, and its choice as the default; beta has values on both sides of 0.75."""
    tried = {factor.symbol: factor for factor in FACTORS}
    for symbol, values in SECTION_4_3.items():
        assert set(tried[symbol].values) == values
        assert tried[symbol].is_papers
    assert min(tried["beta"].values) < tried["beta"].default == 0.75 < max(tried["beta"].values)
    assert [tried[symbol].default for symbol in SECTION_4_3] == [50, 0.6, 0.5, 2.0]
    assert set(tried["likelihood"].values) == {"mean-max", "detached", "max"}
    assert set(tried["excuse"].values) == {"per-class", "per-anchor", "none"}


@pytest.mark.parametrize("name", ["shapes", "coco"])
def test_a_variant_differs_in_its_one_field(name: str) -> None:
    """Same network, data, schedule and seed as the run of the tables; the default is that run itself."""
    profile = build_profile(name)
    default = profile.evaluations[profile.pair[1]].training
    for ablation in profile.ablations:
        training = profile.evaluations[ablation.run].training
        assert (training.model, training.inputs, training.data) == (default.model, default.inputs, default.data)
        ours, theirs = training.recipe.loss, default.recipe.loss
        assert isinstance(ours, FreeAnchorLoss)
        changed = {field.name for field in fields(ours) if getattr(ours, field.name) != getattr(theirs, field.name)}
        is_default = ablation.value == ablation.factor.default
        assert changed == (set() if is_default else {ablation.factor.field})
        assert (ablation.run == profile.pair[1]) == is_default
        assert getattr(ours, ablation.factor.field) == ablation.value
    runs = [ablation.run for ablation in profile.ablations if ablation.value != ablation.factor.default]
    assert len(runs) == len(set(runs)) == 15


def test_the_frame_has_every_value_run_or_not(mini: Mini) -> None:
    """The default's numbers stand in each factor's rows with a difference of 0; what was not run is nan and says so."""
    frame = ablation_frame(mini.profile, mini.store)
    own = frame[frame["metric"] == "ap"].set_index(["symbol", "is_default"])["value"]
    assert own["n", True] == own["excuse", True] > 0
    assert own[:, False].isna().all()
    differences = frame[frame["metric"] == "gain_ap"].set_index(["symbol", "is_default"])["value"]
    assert differences["n", True] == 0
    text = to_markdown(frame, ABLATION_LAYOUT)
    assert "50 (default)" in text and "none" in text and "not run" in text
