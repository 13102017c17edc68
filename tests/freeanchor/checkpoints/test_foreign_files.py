"""Foreign weight files: tensors come out, training states are unwrapped, and nothing that a file brings is ever run."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from freeanchor.checkpoints.foreign_files import read_foreign
from freeanchor.errors import CheckpointError

ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.array([1.5, -2.5], dtype=">f4"),
    "half": np.array([0.5], dtype=np.float16),
    "count": np.array(7, dtype=np.int64),
    "truth": np.array([True, False]),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), dtype=np.float32),
}


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def _write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def _refusal(path: Path, format: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_foreign(path, format)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_arrays_come_out_as_tensors(protocol: int, tmp_path: Path) -> None:
    """Any layout, byte order, number and protocol; training leftovers beside the weights are dropped."""
    content = {"model": ARRAYS, "__author__": "someone", "matching_heuristics": True}
    if protocol == 2:
        content["model"] = {name: array for name, array in ARRAYS.items() if array.size}  # empty bytes have no literal
    tensors = read_foreign(_write(tmp_path / "m.pkl", content, protocol), "detectron2")
    assert tensors.keys() == content["model"].keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), ARRAYS[name])
        assert tensor.shape == ARRAYS[name].shape


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its arrays keep their numbers as text, in numpy's old module."""
    rows = b"\x00\x00\x80?\x00\x00 \xc1"  # 1 and -10 in little-endian float32
    content = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + rows + b"tbs."
    )
    path = tmp_path / "old.pkl"
    path.write_bytes(content)
    assert read_foreign(path, "detectron2")["w"].tolist() == [1.0, -10.0]


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_training_states_are_unwrapped(wrapper: str | None, tmp_path: Path) -> None:
    """The weights come out alone, without the prefix that training on many GPUs puts before them."""
    weights = OrderedDict({"module.a": torch.ones(2), "module.b.c": torch.zeros(3)})
    torch.save({wrapper: weights, "optimizer": {"lr": 0.1}, "iteration": 5} if wrapper else weights, tmp_path / "m.pth")
    assert list(read_foreign(tmp_path / "m.pth", "authors")) == ["a", "b.c"]


def test_only_a_prefix_that_all_share_is_dropped(tmp_path: Path) -> None:
    """A module that happens to be called so keeps its name."""
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "m.pth")
    assert list(read_foreign(tmp_path / "m.pth", "mmdetection")) == ["module.a", "b"]


@pytest.mark.parametrize(("suffix", "format"), [("pkl", "detectron2"), ("pth", "authors"), ("pth", "detectron2")])
@pytest.mark.parametrize("place", ["beside", "among"])
def test_a_pickle_that_wants_more_is_refused_and_not_run(suffix: str, format: str, place: str, tmp_path: Path) -> None:
    """A file that would call something is refused with what it wants, and the call never happens."""
    trap = Payload(tmp_path / "ran")
    content = {"model": {"a": torch.ones(1) if suffix == "pth" else np.ones(1)}, "hook": trap}
    if place == "among":
        content["model"]["b"] = trap
    path = tmp_path / f"m.{suffix}"
    if suffix == "pth":
        torch.save(content, path)
    else:
        _write(path, content)
    assert "was refused" in _refusal(path, format)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "ran").exists()  # the trap works: whoever unpickles it blindly runs it


@pytest.mark.parametrize("array", [np.array([{}], dtype=object), np.zeros(2, dtype=[("a", "f4")]), np.array(["text"])])
def test_arrays_of_anything_but_numbers_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    """Objects, records and text are no weights."""
    assert "was refused" in _refusal(_write(tmp_path / "m.pkl", {"a": array}), "detectron2")


def test_a_hostile_codec_is_refused(tmp_path: Path) -> None:
    """The function that old pickles make bytes with takes their one codec only."""
    path = tmp_path / "m.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVzip\ntR.")
    assert "text in 'zip'" in _refusal(path, "detectron2")


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_damaged_files_are_refused(suffix: str, tmp_path: Path) -> None:
    """Truncated at any length, empty, not there, or no pickle at all: one line each."""
    path = tmp_path / f"m.{suffix}"
    if suffix == "pkl":
        whole = pickle.dumps({"model": ARRAYS})
    else:
        torch.save({"model": {"a": torch.ones(100)}}, path)
        whole = path.read_bytes()
    for length in (0, 1, 2, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "not a readable weight file" in _refusal(path, "detectron2")
    for content in (b"<!DOCTYPE html>", b"\x80\x04K\x01.", b"\x80\x04]."):
        path.write_bytes(content)
        _refusal(path, "detectron2")
    path.unlink()
    assert "no such file" in _refusal(path, "detectron2")


def test_contents_that_are_no_weights_are_named(tmp_path: Path) -> None:
    """A list, an empty file, text among tensors, and a .pkl where the format has none."""
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds a list instead of named weights" in _refusal(tmp_path / "list.pth", "authors")
    torch.save({}, tmp_path / "empty.pth")
    assert "instead of named weights" in _refusal(tmp_path / "empty.pth", "authors")
    torch.save({"a": torch.ones(1), "note": "text"}, tmp_path / "text.pth")
    assert "holds a str at 'note'" in _refusal(tmp_path / "text.pth", "torchvision")
    assert "which mmdetection does not write" in _refusal(_write(tmp_path / "m.pkl", ARRAYS), "mmdetection")
