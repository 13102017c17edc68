"""Readers of files under hypothesis: any json, and spoilt copies of good files, give a result or the reader's own error."""

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fuzz_readers
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.mutations import JUNK, json_bytes, mutate_bytes, mutate_json

from bad_input.readers import CONTENT, READERS, Reader
from bad_input.traps import TRAPS
from freeanchor.errors import DataError

SHARED_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
JSON = [name for name, reader in READERS.items() if reader.value is not None]
SEEDS = st.integers(0, 2**32)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(JUNK)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
fields = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "score", "file_name", "width", "height", "name"]
)
items = st.dictionaries(
    fields, scalars | st.lists(st.floats() | st.integers(-5, 90), min_size=4, max_size=4), max_size=8
)
contents = st.dictionaries(
    st.sampled_from(["images", "annotations", "categories"]), st.lists(items, max_size=3) | values
)


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_taken(name: str, tmp_path: Path) -> None:
    """What is spoilt below is good before."""
    assert READERS[name].check(READERS[name].whole(), tmp_path)


@pytest.mark.parametrize("name", [name for name in JSON if name != "checkpoint"])
@given(value=values | contents | st.lists(items, max_size=3))
@settings(suppress_health_check=SHARED_FOLDER)
def test_any_json_is_read_or_refused(name: str, value: object, tmp_path: Path) -> None:
    """Values of every shape, and those that look like COCO's."""
    READERS[name].check(READERS[name].form(value), tmp_path)


@pytest.mark.parametrize("name", JSON)
@given(seed=SEEDS)
@settings(suppress_health_check=SHARED_FOLDER)
def test_spoilt_values_are_read_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    """A good file with junk in a few places."""
    reader = READERS[name]
    reader.check(reader.form(mutate_json(reader.value, random.Random(seed))), tmp_path)


@pytest.mark.parametrize("name", READERS)
@given(seed=SEEDS)
@settings(suppress_health_check=SHARED_FOLDER)
def test_spoilt_bytes_are_read_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    """A good file with bits flipped, stretches cut, doubled and zeroed."""
    READERS[name].check(mutate_bytes(READERS[name].whole(), random.Random(seed)), tmp_path)


# The fuzzer lays traps for every reader; here are those that take little time and memory.
LIGHT = [name for name, reader in READERS.items() if reader.trap in ("image", "xml", "marker")]


@pytest.mark.parametrize("name", LIGHT)
@given(seed=SEEDS)
@settings(suppress_health_check=SHARED_FOLDER)
def test_traps_are_read_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    """Other formats under the name, claimed sizes, nesting, entities, encodings, and what a power cut leaves."""
    reader = READERS[name]
    reader.check(TRAPS[reader.trap](reader.whole(), random.Random(seed)), tmp_path)


def _dies(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "takes memory": (lambda path: np.ones(90_000_000, dtype=np.uint8), "MemoryError: reading 2 bytes took"),
    "takes no end of memory": (lambda path: np.ones(9_000_000_000, dtype=np.uint8), "Unable to allocate"),
    "takes time": (lambda path: time.sleep(2), "TimeoutError"),
    "writes to the working folder": (lambda path: Path("MADE").touch(), "files outside the folder"),
    "writes beside its folder": (lambda path: (path.parents[1] / "x").touch(), "files outside the folder"),
    "is a bug": (lambda path: [][0], "IndexError"),
    "dies": (_dies, "the process died: SIGKILL"),
}


@pytest.mark.parametrize(("read", "said"), HARM.values(), ids=HARM)
def test_the_fuzzer_sees_what_a_reader_must_not_do(
    read: Callable[[Path], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a failed round with its file and what happened; the rounds before it are counted."""
    for inner in ("cwd", "work"):
        (tmp_path / inner).mkdir()
    good = Reader(name="good", file="a", read=lambda _: None, error=DataError, good=lambda: b"{}", trap="marker")
    bad = dataclasses.replace(good, name="bad", read=read)
    monkeypatch.setattr(fuzz_readers, "READERS", {"good": good, "bad": bad})
    monkeypatch.setattr(fuzz_readers, "SECONDS", 1)
    monkeypatch.setattr(fuzz_readers, "MEMORY", 50_000_000)
    monkeypatch.setattr(fuzz_readers, "spoilt", lambda reader, generator: b"{}")
    ends = time.monotonic() + 60
    counts, played = fuzz_readers.play([("good", 1), ("bad", 2)], tmp_path, tmp_path / "out", ends)
    assert (dict(counts), played) == ({("good", "taken"): 1, ("bad", "failed"): 1}, 2)
    assert said in (tmp_path / "out" / "bad-2" / "traceback.txt").read_text()
    assert (tmp_path / "out" / "bad-2" / "a").read_bytes() == b"{}"


@given(seed=SEEDS)
def test_mutations_change_something_and_leave_their_source(seed: int) -> None:
    """Else nothing above would be tested."""
    before, bytes_before = json_bytes(CONTENT), bytes(range(200))
    changed = [json_bytes(mutate_json(CONTENT, random.Random(seed + i))) != before for i in range(8)]
    assert any(changed) and json_bytes(CONTENT) == before
    assert any(mutate_bytes(bytes_before, random.Random(seed + i)) != bytes_before for i in range(8))
