"""The registry: what is run, and that the two detectors differ in nothing but what the paper says."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from oracles.coco_folder import write_both

from experiments.registry.build import PROFILES, build_profile
from experiments.registry.profile import Profile
from experiments.registry.published import published
from freeanchor.errors import DataError
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest, tmp_path: Path) -> Profile:
    """Each profile with two seeds."""
    data = write_both(tmp_path / "doors") if request.param in ("photos", "coco-mini") else None
    return build_profile(request.param, data=data, num_seeds=2)


def _differences(one: Any, other: Any, name: str = "") -> set[str]:
    """Paths of the fields in which two nests of dataclasses differ; a field whose type differs is named whole."""
    if type(one) is not type(other) or not is_dataclass(one):
        return set() if one == other else {name}
    return set().union(
        *(
            _differences(getattr(one, f.name), getattr(other, f.name), f"{name}.{f.name}".lstrip("."))
            for f in fields(one)
        )
    )


def test_the_two_detectors_differ_in_loss_and_prior_alone(profile: Profile) -> None:
    """Same data, network, input, recipe and seed for every backbone; names aside."""
    pairs = 0
    for name, evaluation in profile.evaluations.items():
        other = profile.evaluations.get(name.replace("freeanchor", "retinanet"))
        if name.startswith("freeanchor") and other is not None:
            pairs += 1
            names = {"training.name", "training.detector", "name"}
            assert evaluation.training.recipe.loss == FreeAnchorLoss()
            differences = _differences(evaluation, other) - names
            if profile.name == "coco-mmdetection":  # which trains its RetinaNet otherwise, as it says
                assert differences == {
                    "training.model.plain_deltas",
                    "training.recipe.loss",
                    "training.recipe.max_grad_norm",
                }
                continue
            assert differences == {"training.model.prior_prob", "training.recipe.loss"}
            assert other.training.recipe.loss == RetinaNetLoss()
            assert (evaluation.training.model.prior_prob, other.training.model.prior_prob) == (0.02, 0.01)
    num_tried = len(profile.trials) // 2 if profile.name == "photos" else 0
    num_committed = len(set(profile.examples) - set(profile.pair)) // 2
    num_coarse = len(
        {run for cell in profile.grids if cell.detector == "RetinaNet" for run in cell.runs if "-coarse" in run}
    )
    num_rates = 2 if profile.name == "photos" else 0  # elsewhere RetinaNet's rates are among the trials, or not tried
    assert pairs == 2 * (1 if profile.name == "photos" else 2) + num_coarse + num_committed + num_tried + num_rates


def test_names_are_those_of_the_runs(profile: Profile) -> None:
    """Every run is registered under its own name, and different runs lie in different folders."""
    assert all(name == evaluation.name for name, evaluation in profile.evaluations.items())
    folders = [evaluation.directory(Path("runs")) for evaluation in profile.evaluations.values()]
    assert len(set(folders)) == len(folders)


def test_every_row_points_at_runs_that_exist(profile: Profile) -> None:
    """Tables, compared pairs, demonstration, trials and ablations name registered runs; rows have a run a seed.

    Table 3's schedules on a small profile take as long as two runs and have one seed.
    """
    for rows in profile.tables.values():
        for row in rows:
            assert set(row.runs) <= set(profile.evaluations)
            is_theirs = set(row.runs) <= set(profile.zoo)
            is_long = any("-2x" in run for run in row.runs) and profile.name in ("shapes", "mini")
            is_peer = "torchvision" in row.detector
            assert len(row.runs) in (0, 1 if is_theirs or is_long or is_peer else 2)
            assert row.runs or row.published
            if row.runs:
                detectors = {profile.evaluations[run].training.detector for run in row.runs}
                assert detectors == {row.detector.partition(" (")[0].rstrip("*")}
    compared = {run for pairs in profile.comparisons.values() for pair in pairs for run in pair}
    named = {*compared, *profile.demo, *profile.trials, *(ablation.run for ablation in profile.ablations)}
    assert named <= set(profile.evaluations)


def test_the_pair_is_retinanet_then_freeanchor(profile: Profile) -> None:
    """Gains are second minus first, so the order matters; seeds agree; the demonstration runs the first backbone's."""
    for pairs in profile.comparisons.values():
        for seed, pair in enumerate(pairs):
            trainings = [profile.evaluations[name].training for name in pair]
            assert [training.detector for training in trainings] == ["RetinaNet", "FreeAnchor"]
            assert [training.recipe.seed for training in trainings] == [seed, seed]
    assert profile.demo == tuple(run for pair in profile.pairs for run in pair)


def test_rows_stand_beside_published_ones(profile: Profile) -> None:
    """Every row with a counterpart in the paper finds its numbers there."""
    for table, rows in profile.tables.items():
        for row in rows:
            if row.published:
                assert published(row.published_in or table, *row.published)


def test_every_published_row_of_the_paper_has_a_place() -> None:
    """Table 1 has both detectors, Table 2 both on two backbones, Table 3 all fourteen lines of the paper and two of the README."""
    tables = build_profile("shapes").tables
    pairs = [(detector, network) for network in ("ResNet-50", "ResNet-101") for detector in ("RetinaNet", "FreeAnchor")]
    assert [row.published for row in tables["table1"]] == pairs[:2]
    assert [row.published for row in tables["table2"]] == pairs
    assert len([row for row in tables["table3"] if row.published and not row.published_in]) == 14
    assert len({row.published for row in tables["table3"] if row.published}) == 16


@pytest.mark.parametrize("name", ["shapes", "mini"])
def test_multi_scale_testing_shares_its_training(name: str) -> None:
    """Six scales, 480 to 1280 of 800, on the very training with wide jitter."""
    profile = build_profile(name)
    wide = profile.evaluations["freeanchor-large-2x-wide-s0"]
    multi_scale = profile.evaluations["freeanchor-large-2x-wide-multiscale-s0"]
    assert multi_scale.training == wide.training
    assert multi_scale.directory(Path("r")).parent == wide.directory(Path("r")).parent
    assert (wide.num_scales, multi_scale.num_scales) == (1, 6)
    side = wide.training.inputs.short_side
    assert multi_scale.inference.short_sides == tuple(round(side * of / 800) for of in (480, 640, 800, 960, 1120, 1280))


def test_longer_schedules_are_twice_as_long_with_jitter() -> None:
    """640 to 800 and 480 to 960 of 800 in steps of 32 (authors' code), on the large backbone."""
    profile = build_profile("shapes")
    usual = profile.evaluations["freeanchor-large-s0"].training
    for name, low, high, count in (("2x", 640, 800, 6), ("2x-wide", 480, 960, 16)):
        training = profile.evaluations[f"freeanchor-large-{name}-s0"].training
        assert training.recipe.num_steps == 2 * usual.recipe.num_steps
        sides = training.recipe.augment.short_sides  # steps of 32, scaled to the profile, never beyond 1.2 of its size
        assert sides == tuple(round(160 * side / 800) for side in range(low, high + 1, 32)) and len(sides) == count
        unchanged = replace(training.recipe, num_steps=usual.recipe.num_steps, augment=usual.recipe.augment)
        assert unchanged == usual.recipe
        assert training.model == usual.model


def test_seeds_change_the_seed_and_nothing_else() -> None:
    """Run `-s1` is `-s0` with another seed; more seeds leave the first one's runs where they were."""
    one, three = build_profile("mini"), build_profile("mini", num_seeds=3)
    assert set(one.evaluations) < set(three.evaluations)
    for name in one.evaluations:
        assert one.evaluations[name] == three.evaluations[name]
        if name.replace("-s0", "-s2") not in three.evaluations:  # ablations, long schedules and rates have one seed
            assert "-2x" in name or "-rate" in name or name in {ablation.run for ablation in one.ablations}
            continue
        other = three.evaluations[name.replace("-s0", "-s2")]
        names = {"name", "training.name"}
        assert _differences(one.evaluations[name], other) == {*names, "training.recipe.seed"}


def test_the_trials_are_the_baselines_alone() -> None:
    """Network, then rate, are chosen for the baseline: each with RetinaNet, one being the registered run."""
    profile = build_profile("shapes")
    trials = [profile.evaluations[name].training for name in profile.trials]
    assert {training.detector for training in trials} == {"RetinaNet"}
    assert profile.pair[0] in profile.trials
    own = profile.evaluations[profile.pair[0]].training
    rates = [training for training in trials if training.model == own.model]
    assert [training.recipe.lr for training in rates] == [0.08, 0.16, 0.32]
    assert all(replace(training.recipe, lr=own.recipe.lr) == own.recipe for training in rates)
    networks = [training for training in trials if training.recipe.lr == own.recipe.lr]
    assert len({training.model for training in networks}) == len(networks) == 4
    assert all(replace(it.recipe, num_steps=own.recipe.num_steps) == own.recipe for it in networks)


def test_values_of_interest_have_every_seed() -> None:
    """Bags of 25 and 50 are trained with each seed on `shapes`; the other values with the first alone."""
    ablations = build_profile("shapes", num_seeds=3).ablations
    seeds = {one.value: len(one.runs) for one in ablations if one.factor.symbol == "n"}
    assert seeds == {12: 1, 25: 3, 40: 1, 50: 3, 60: 1, 100: 1}
    default = next(one for one in ablations if one.value == 50)
    assert [len(one.pairs_with(default.runs)) for one in ablations if one.factor.symbol == "n"] == [1, 3, 1, 3, 1, 1]


def test_folders_have_reports_of_their_own(tmp_path: Path) -> None:
    """Reports of two folders of photographs do not overwrite each other."""
    names = [build_profile("photos", data=write_both(tmp_path / name)).report_name for name in ("doors", "hats")]
    assert names == [Path("photos/doors"), Path("photos/hats")]
    assert build_profile("shapes").report_name == Path("shapes")


def test_photos_have_the_classes_of_their_folder(tmp_path: Path) -> None:
    """The network has an output a category of the training json."""
    profile = build_profile("photos", data=write_both(tmp_path))
    assert profile.evaluations["freeanchor-small-s0"].training.model.num_classes == 3


def test_impossible_profiles_are_refused(tmp_path: Path) -> None:
    """Unknown names, no seed, photos without a folder, a folder without data."""
    for arguments in ({"name": "shape"}, {"name": "shapes", "num_seeds": 0}, {"name": "photos"}):
        with pytest.raises(ValueError, match=r"choose one of|at least 1|DATA=DIR"):
            build_profile(**arguments)
    with pytest.raises(DataError, match=r"train\.json"):
        build_profile("photos", data=tmp_path)
