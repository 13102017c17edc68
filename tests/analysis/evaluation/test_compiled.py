"""AP by compiled loops equals numpy's: ties with recall levels, ignored rows, weights of nought, blocks of any width."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.evaluation import precision
from analysis.evaluation.curves import ClassCurve, PrecisionCurves, final_recalls, interpolated_precisions

compiled = pytest.importorskip("analysis.evaluation.compiled", reason="needs numba (the extra fast)")


def _curve(generator: np.random.Generator, num_rows: int, num_images: int, num_objects: int) -> ClassCurve:
    """Made-up rows: some right at either threshold, each with an object of its own; some do not count at the second."""
    is_right = (generator.random((2, num_rows)) < [[0.6], [0.3]]) & (np.arange(num_rows) < num_objects)
    object_images = generator.integers(num_images, size=num_objects)
    images = np.append(object_images, generator.integers(num_images, size=num_rows))[:num_rows]
    is_ignored = np.array([[False], [True]]) & ~is_right & (generator.random(num_rows) < 0.3)
    landmarks = np.flatnonzero(is_right.any(axis=0))
    return ClassCurve(
        images=images,
        landmarks=landmarks,
        right=[np.searchsorted(landmarks, np.flatnonzero(flags)) for flags in is_right],
        ignored=[np.flatnonzero(flags) for flags in is_ignored],
        object_images=object_images,
    )


@given(
    seed=st.integers(0, 2**31),
    num_rows=st.integers(0, 60),
    num_objects=st.sampled_from([1, 3, 7, 20, 50, 100]),
    width=st.sampled_from([1, 2, 63, 64]),
    largest=st.sampled_from([1, 3, 300]),
)
def test_compiled_loops_equal_numpys(seed: int, num_rows: int, num_objects: int, width: int, largest: int) -> None:
    """Both know no other source than the rows: equal to 1e-13, where objects are multiples of 20 (levels missed) too."""
    generator = np.random.default_rng(seed)
    curve = _curve(generator, num_rows, 5, num_objects)
    by_image = generator.integers(largest + 1, size=(5, width)).astype(np.int32)
    totals = np.maximum(by_image[curve.object_images].sum(axis=0, dtype=np.float64), 1.0)
    expected = interpolated_precisions(curve, by_image, totals)
    found = compiled.interpolated_precisions(curve, compiled.narrowed(by_image), totals)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    recalls = final_recalls(curve, by_image, totals)
    np.testing.assert_array_equal(compiled.final_recalls(curve, compiled.narrowed(by_image), totals), recalls)


def test_weights_become_bytes_only_where_they_fit() -> None:
    """256 and -1 do not."""
    assert compiled.narrowed(np.array([[0, 255]], np.int32)).dtype == np.uint8
    for weight in (256, -1):
        assert compiled.narrowed(np.array([[weight]], np.int32)).dtype == np.int32


def _curves(generator: np.random.Generator) -> PrecisionCurves:
    """Two classes of 40 rows and 50 objects in 12 images."""
    is_right = generator.random((2, 80)) < [[0.6], [0.3]]
    return PrecisionCurves(
        iou_thresholds=np.array([0.5, 0.75]),
        num_images=12,
        images=generator.integers(12, size=80),
        starts=np.array([0, 40, 80]),
        right=tuple(np.flatnonzero(flags) for flags in is_right),
        ignored=(np.arange(0), np.arange(0)),
        object_images=generator.integers(12, size=100),
        object_starts=np.array([0, 50, 100]),
    )


def test_much_to_do_is_done_by_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the limit on and under whole weights; the values are numpy's, and cutting the resamplings changes no bit."""
    generator = np.random.default_rng(0)
    curves = _curves(generator)
    weights = generator.integers(4, size=(150, 12)).astype(np.float64)
    calls: list[int] = []
    real = compiled.interpolated_precisions
    monkeypatch.setattr(compiled, "interpolated_precisions", lambda *given: calls.append(1) or real(*given))
    expected = precision.class_precision(curves, weights)
    assert not calls  # too little to do
    monkeypatch.setattr(precision, "_COMPILED_FROM", 1)
    found = precision.class_precision(curves, weights)
    assert len(calls) == 2 * 3  # classes, and blocks of 64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    parts = [precision.class_precision(curves, weights[rows]) for rows in (slice(0, 67), slice(67, 150))]
    np.testing.assert_array_equal(np.concatenate(parts), found)
    calls.clear()
    precision.class_precision(curves, weights + 0.5)
    assert not calls  # not whole


def test_without_numba_numpy_does_it() -> None:
    """A process that cannot import it computes the same."""
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from analysis.evaluation import precision\n"
        "precision._COMPILED_FROM = 0\n"
        "from analysis.evaluation.curves import PrecisionCurves\n"
        "one = np.arange(1)\n"
        "curves = PrecisionCurves(iou_thresholds=np.array([0.5]), num_images=2, images=one, starts=np.array([0, 1]),"
        " right=(one,), ignored=(one[:0],), object_images=np.array([0, 1]), object_starts=np.array([0, 2]))\n"
        "found = precision.average_precision(curves, np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))\n"
        "print(found.tolist()); assert 'analysis.evaluation.compiled' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == pytest.approx([51 / 101, 1.0, 0.0], abs=1e-15)
