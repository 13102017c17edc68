"""Kinds of error: tidecv's own numbers, an oracle in plain loops, and what weights of the images mean."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from oracles.detection_sets import detection_sets, only_images
from oracles.error_types import errors_of

from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.errors import MAIN, SPECIAL, error_metrics, type_errors
from analysis.evaluation.matching import Subset

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
SHARED = Path(__file__).resolve().parents[4] / "shared"
TIDE_NAMES = dict(zip(MAIN, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))
TIDE_NAMES |= dict(zip(SPECIAL, ("FalsePos", "FalseNeg"), strict=True))


def values_of(typed) -> dict[str, float]:
    """Every metric of the data set as it is."""
    metrics = error_metrics(typed)
    return dict(zip(metrics.names, metrics(np.ones((1, len(typed.ground_truth.image_ids))))[0], strict=True))


@pytest.mark.skipif(
    not (SHARED / "golden").is_dir(), reason="the project's reference files are not beside the checkout"
)
def test_tidecv_says_the_same() -> None:
    """tidecv 1.0.1 on a third party's detections: its counts, and its dAP within 0.05 points."""
    expected = json.loads((GOLDEN / "tide_expected.json").read_text())
    truth = read_ground_truth(SHARED / "data/coco-photos/val.json")
    found = read_detections(SHARED / "golden/tide_detections.json.gz", truth)
    values = values_of(type_errors(truth, found, convention="tide"))
    assert 100 * values["ap_50"] == pytest.approx(expected["ap_50"], abs=1e-9)
    daps = expected["dap"]["main"] | expected["dap"]["special"]
    for name, theirs in TIDE_NAMES.items():
        assert 100 * values[f"dap_{name}"] == pytest.approx(daps[theirs], abs=0.05)
        if name in MAIN:
            assert values[f"num_{name}"] == expected["counts"][theirs]


def _agrees(sets, convention: str, inside=None) -> None:
    truth, detections = sets
    subset = None if inside is None else Subset(objects=inside, detections=np.ones(len(detections), bool))
    values = values_of(type_errors(truth, detections, convention=convention, subset=subset))
    expected = errors_of(truth, detections, convention=convention, inside=inside)
    np.testing.assert_allclose(values["ap_50"], expected.ap, atol=1e-12)
    for name in (*MAIN, *SPECIAL):
        assert values[f"num_{name}"] == expected.num[name]
        np.testing.assert_allclose(values[f"dap_{name}"], expected.dap[name], atol=1e-12, err_msg=name)


@pytest.mark.parametrize("convention", ["coco", "tide"])
@given(sets=detection_sets())
@settings(max_examples=8)
def test_the_loops_say_the_same(sets, convention: str) -> None:
    """Counts and dAP of worlds with crowds, ties and now and then more than 100 detections."""
    _agrees(sets, convention)


@given(sets=detection_sets())
@settings(max_examples=8)
def test_subsets_of_objects_say_the_same(sets) -> None:
    """Every second object: the others' errors keep their kind, and their fix leaves nothing right or wrong."""
    _agrees(sets, "coco", np.arange(len(sets[0].boxes)) % 2 == 0)


@pytest.mark.slow
@given(sets=detection_sets())
@settings(max_examples=300)
def test_the_loops_say_the_same_of_300_worlds(sets) -> None:
    """The same at length, under both conventions and for a subset."""
    _agrees(sets, "coco")
    _agrees(sets, "tide")
    _agrees(sets, "coco", np.arange(len(sets[0].boxes)) % 2 == 0)


@pytest.mark.parametrize("convention", ["coco", "tide"])
@given(sets=detection_sets(distinct_scores=True))
@settings(max_examples=10)
def test_weights_are_copies_of_images(sets, convention: str) -> None:
    """An image of weight 2 counts as two images, one of weight 0 as none."""
    truth, detections = sets
    weights = np.arange(len(truth.image_ids)) % 3
    metrics = error_metrics(type_errors(truth, detections, convention=convention))
    weighted = metrics(weights[None].astype(float))[0]
    copies = only_images(truth, detections, np.repeat(truth.image_ids, weights))
    if len(copies[0].image_ids):
        repeated = values_of(type_errors(*copies, convention=convention))
        np.testing.assert_allclose(weighted, list(repeated.values()), atol=1e-12)
