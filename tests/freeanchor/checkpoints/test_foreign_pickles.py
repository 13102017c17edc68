"""What training scripts keep beside weights is passed over, and what a pickle declares is held against its file."""

import argparse
import collections
import io
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from freeanchor.checkpoints.foreign_files import read_weights
from freeanchor.errors import CheckpointError

Content = dict[str, Any]


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and line.isprintable() and len(line) < len(str(path)) + 400
    return line


KINDS = {
    "float": torch.arange(6.0).reshape(2, 3),
    "double": torch.ones(2, dtype=torch.float64),
    "half": torch.tensor([0.5], dtype=torch.float16),
    "bfloat16": torch.tensor([1.5, 2.5], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "byte": torch.tensor([1, 255], dtype=torch.uint8),
    "truth": torch.tensor([True, False]),
    "turned": torch.arange(12.0).reshape(3, 4).t(),
    "a part": torch.arange(100.0)[10:20:3],
    "nothing": torch.zeros(0, 5),
    "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "parameter": nn.Parameter(torch.ones(3)),
}


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before 1.6"])
def test_torchs_files_are_read_as_torch_reads_them(is_archive: bool, tmp_path: Path) -> None:
    """Every type, view and layout, in today's form and in that of older versions; tied weights stay equal."""
    state = {**KINDS, "tied": KINDS["float"], "row": KINDS["float"][1]}
    torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=is_archive)
    expected = torch.load(tmp_path / "m.pth", weights_only=True)
    found = read_weights(tmp_path / "m.pth")
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


class Buffer:
    """What mmengine's Runner keeps of its logs: an array, and its own methods by name."""

    def __init__(self) -> None:
        self.values = np.arange(5.0)
        self.methods = {"mean": Buffer.mean}

    def mean(self) -> float:
        """The mean."""
        return float(self.values.mean())


class Deque(collections.UserList[Any]):
    """A container of somebody's own."""


@pytest.fixture
def foreign_module() -> Iterator[None]:
    """Classes that are there when a file is written, and gone when it is read."""
    module = types.ModuleType("somebody.training.logs")
    for kind in (Buffer, Deque):
        kind.__module__ = module.__name__
        setattr(module, kind.__name__, kind)
    sys.modules["somebody"] = sys.modules["somebody.training"] = types.ModuleType("somebody")
    sys.modules[module.__name__] = module
    yield
    for name in ("somebody", "somebody.training", "somebody.training.logs"):
        sys.modules.pop(name, None)


def _beside() -> dict[str, Any]:
    return {
        "argparse": argparse.Namespace(lr=0.01, device="cuda", parts=[1, 2]),
        "a history": Buffer(),
        "a container": Deque([1, 2]),
        "numpy": {"scalar": np.float64(0.5), "array": np.arange(3), "state": np.random.RandomState(0).get_state()},
        "a path": Path("runs/one"),
        "sets": {1, 2},
        "frozen": frozenset({"a"}),
        "a deque": collections.deque([1.0], maxlen=3),
        "a default": collections.defaultdict(list, a=[1]),
        "a device": torch.device("cpu"),
        "a size": torch.Size([2, 3]),
        "a type": torch.float32,
        "nested": {"keys": {("a", 1): 2}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"params": [0]}]},
    }


@pytest.mark.usefixtures("foreign_module")
@pytest.mark.parametrize("name", _beside())
@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before 1.6"])
def test_what_training_scripts_keep_beside_weights_is_passed_over(name: str, is_archive: bool, tmp_path: Path) -> None:
    """By stand-ins that hold nothing: the modules need not be there."""
    content = {"message_hub": {"logs": [_beside()[name]]}, "state_dict": {"a.weight": torch.ones(2)}, "epoch": 3}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=is_archive)
    for module in ("somebody", "somebody.training", "somebody.training.logs"):
        sys.modules.pop(module, None)
    assert read_weights(tmp_path / "m.pth")["a.weight"].tolist() == [1, 1]


@pytest.mark.usefixtures("foreign_module")
def test_foreign_objects_in_the_place_of_weights_are_named(tmp_path: Path) -> None:
    """A whole model, and an object among the weights: by the name of their class."""
    torch.save({"model": Buffer()}, tmp_path / "whole.pth")
    assert "holds a whole somebody.training.logs.Buffer instead of weights; save its state_dict" in _refusal(
        tmp_path / "whole.pth"
    )
    torch.save({"a": torch.ones(1), "log\n": Buffer()}, tmp_path / "among.pth")
    assert r"holds a somebody.training.logs.Buffer at 'log\n' where" in _refusal(tmp_path / "among.pth")


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


PLAIN = _network().state_dict()
WRAPPED: dict[str, Callable[[], Content]] = {
    "compiled": lambda: {f"_orig_mod.{name}": it for name, it in PLAIN.items()},
    "compiled and distributed": lambda: {f"_orig_mod.module.{name}": it for name, it in PLAIN.items()},
    "distributed and compiled": lambda: {f"module._orig_mod.{name}": it for name, it in PLAIN.items()},
    "a compiled part": lambda: {name.replace("0.", "0._orig_mod."): it for name, it in PLAIN.items()},
    "averaged": lambda: {"n_averaged": torch.tensor(7), **{f"module.{name}": it for name, it in PLAIN.items()}},
    "averaged by torch": lambda: AveragedModel(_network()).state_dict(),
    "averaged by mmengine": lambda: {"steps": torch.tensor(7), **{f"module.{name}": it for name, it in PLAIN.items()}},
    "Lightning": lambda: {
        "state_dict": {f"model.{name}": it for name, it in PLAIN.items()},
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning, compiled": lambda: {"state_dict": {f"net._orig_mod.{name}": it for name, it in PLAIN.items()}},
    "DeepSpeed": lambda: {"module": {f"module.{name}": it for name, it in PLAIN.items()}, "ds_version": "0.1"},
    "two wrappers": lambda: {"model": {"state_dict": PLAIN}},
    "an average beside": lambda: {"model": PLAIN, "model_ema": {f"module.{name}": it for name, it in PLAIN.items()}},
    "sharded": lambda: {f"_fsdp_wrapped_module.{name}": it for name, it in PLAIN.items()},
    "mmcv's EMA hook": lambda: {**PLAIN, **{f"ema_{name.replace('.', '_')}": it for name, it in PLAIN.items()}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off(name: str, tmp_path: Path) -> None:
    """Prefixes, entries and counts that training wrappers put around the weights."""
    torch.save(WRAPPED[name](), tmp_path / "m.pth")
    found = read_weights(tmp_path / "m.pth")
    assert found.keys() == PLAIN.keys()
    assert name == "averaged by torch" or all(torch.equal(found[key], tensor) for key, tensor in PLAIN.items())


@pytest.mark.parametrize("name", ["ema_head", "n_averaged", "steps", "module.a.b"])
def test_what_only_looks_like_a_wrapper_stays(name: str, tmp_path: Path) -> None:
    """A network's own tensors of such names, where the others share no prefix."""
    torch.save({**PLAIN, name: torch.tensor(1.0)}, tmp_path / "m.pth")
    assert read_weights(tmp_path / "m.pth").keys() == PLAIN.keys() | {name}


def _expanded() -> Content:
    return {"a": torch.ones(1).expand(2**15, 2**15)}


def _broadcast_rows() -> Content:
    return {"a": torch.ones(1000).expand(10**6, 1000)}


def _windows() -> Content:
    return {"a": torch.ones(10**4).as_strided((5000, 5000), (1, 1))}


def _aliases() -> Content:
    one = torch.ones(10**5)
    return {f"layer.{number}": one for number in range(1000)}


@pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "before 1.6"])
@pytest.mark.parametrize("content", [_expanded, _broadcast_rows, _windows, _aliases])
def test_tensors_larger_than_their_file_are_refused(
    content: Callable[[], Content], is_archive: bool, tmp_path: Path
) -> None:
    """Strides of 0, overlapping rows, one storage under a thousand names: in a line with the numbers, at no cost."""
    torch.save(content(), tmp_path / "m.pth", _use_new_zipfile_serialization=is_archive)
    tracemalloc.start()
    try:
        assert any(words in _refusal(tmp_path / "m.pth") for words in ("numbers, the file holds", "more than 4 times"))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def _storage(numel: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A file of torch whose pickle says this of a storage of four numbers."""

    class Claim:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Claimed(), offset, shape, stride, False, {})

    class Claimed:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: object) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(item, Claimed) else None

    stream, whole = io.BytesIO(), io.BytesIO()
    Pickler(stream, protocol=2).dump({"a": Claim()})
    with zipfile.ZipFile(whole, "w") as bundle:
        bundle.writestr("m/data.pkl", stream.getvalue())
        bundle.writestr("m/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return whole.getvalue()


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2,), (4,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((2, 2), (1,), 0),
        ((2**31,), (1,), 0),
        ((1,) * 9, (1,) * 9, 0),
        ((0, 2**62), (1, 1), 0),
        ((2,), (2**40,), 0),
    ],
)
def test_views_beyond_their_storage_are_refused(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    """Nothing is read outside of the file, whatever number of values the pickle says that there are."""
    path = tmp_path / "m.pth"
    path.write_bytes(_storage(10**9, shape, stride, offset))
    assert "not a readable weight file" in _refusal(path)
    path.write_bytes(_storage(10**9, (4,), (1,)))
    assert read_weights(path)["a"].tolist() == [1, 2, 3, 4]


def _packed(content: bytes) -> bytes:
    """The same archive, its members compressed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in source.namelist():
            bundle.writestr(name, source.read(name))
    return whole.getvalue()


def _array_of(number: int) -> bytes:
    """A pickled numpy array whose raw data are a whole number."""
    head = b"\x80\x02}X\x01\x00\x00\x00wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    head += b"(K\x01J" + struct.pack("<i", number // 4) + b"\x85cnumpy\ndtype\nX\x02\x00\x00\x00f4\x89\x88\x87R"
    return (
        head
        + b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89J"
        + struct.pack("<i", number)
        + b"tbs."
    )


def _key_of_tuples(depth: int) -> bytes:
    """A dict whose key is a tuple of twice the tuple of twice the tuple …"""
    return b"\x80\x02}K\x01" + b"2\x86" * depth + b"K\x00s."


SWELLING = {
    "an array made of a number": _array_of(2_000_000_000),
    "a key of nested tuples": _key_of_tuples(40),
    "a set of nested tuples": b"\x80\x04\x8f(K\x01" + b"2\x86" * 40 + b"\x90.",
    "a frozen set of nested tuples": b"\x80\x04(K\x01" + b"2\x86" * 40 + b"\x91.",
    "items of nested tuples": b"\x80\x02}(K\x01" + b"2\x86" * 40 + b"K\x00u.",
    "a dict of nested tuples": b"\x80\x02(K\x01" + b"2\x86" * 40 + b"K\x00d.",
    "an OrderedDict of them": b"\x80\x02ccollections\nOrderedDict\n]K\x01" + b"2\x86" * 40 + b"K\x00\x86a\x85R.",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray that is not there": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
    "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"x.",
    "a bytearray of a size": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "a far place in the memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "a state for a function": b"\x80\x02c_codecs\nencode\nN}X\x04\x00\x00\x00nameK\x01s\x86b.",
    "a state for a class": b"\x80\x02cnumpy\nndarray\nN}X\x04\x00\x00\x00nameK\x01s\x86b.",
    "nests": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
}


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
@pytest.mark.parametrize("name", SWELLING)
def test_pickles_that_swell_are_refused(name: str, suffix: str, tmp_path: Path) -> None:
    """By declared sizes that the file does not hold, or by a hash without end: at once, and at no cost."""
    path = tmp_path / f"m.{suffix}"
    path.write_bytes(SWELLING[name])
    tracemalloc.start()
    try:
        _refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_archives_that_torch_does_not_write_are_refused(tmp_path: Path) -> None:
    """Compressed members, which may swell; members beyond the end; another program's archive; TorchScript."""
    path = tmp_path / "m.pth"
    torch.save({"a": torch.zeros(10**6)}, path)
    good = path.read_bytes()
    path.write_bytes(_packed(good))
    assert "its members are compressed" in _refusal(path)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("m/readme", b"")
    assert "not of torch" in _refusal(path)
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("m/data.pkl", b"")
        bundle.writestr("m/constants.pkl", b"")
    assert "TorchScript" in _refusal(path)


@pytest.mark.parametrize(
    "call", [b"cposix\nsystem\n", b"cbuiltins\neval\n", b"csubprocess\nPopen\n", b"ctorch.hub\nload\n"]
)
def test_calls_are_refused_by_name(call: bytes, tmp_path: Path) -> None:
    """Whatever is called, beside the weights too."""
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x80\x02}X\x01\x00\x00\x00a" + call + b"X\x04\x00\x00\x00true\x85Rs.")
    name = call[1:-1].decode().replace("\n", ".")
    assert f"wants {name}, more than weights, and was refused" in _refusal(path)


def test_a_safetensors_file_is_unwrapped_too(tmp_path: Path) -> None:
    """Its names may have the same prefixes."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {f"_orig_mod.{name}": tensor for name, tensor in PLAIN.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    assert read_weights(tmp_path / "m.safetensors").keys() == PLAIN.keys()
