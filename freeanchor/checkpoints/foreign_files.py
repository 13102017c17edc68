"""Reading weight files of other code bases without running anything that they hold.

torch's files go through `torch.load(weights_only=True)`; pickles of numpy arrays (detectron2, Caffe2) through an
unpickler that knows arrays and containers and nothing else. A file that wants more is refused.

    tensors = read_foreign(Path("model_final.pkl"), "detectron2")
"""

import pickle
import re
import struct
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from freeanchor.checkpoints.code_bases import CODE_BASES
from freeanchor.errors import CheckpointError

WRAPPERS = ("model", "state_dict", "blobs")  # the entry of a training state that holds the weights
BROKEN = (  # what a damaged or foreign file makes torch and pickle raise
    *(OSError, EOFError, MemoryError, pickle.UnpicklingError, struct.error, SafetensorError),
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)
PLAIN_NUMBERS = re.compile(r"[biuf][1248]")


class _Refused(pickle.UnpicklingError):
    """What a pickle wants beyond arrays and containers."""


@dataclass
class _Dtype:
    """A pickled dtype: plain numbers only, without numpy's own unpickling."""

    code: str
    order: str = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # All but the byte order is for structured types.
        self.order = {"|": "|", ">": ">"}.get(state[1], "<")

    def read(self, data: bytes | bytearray | str, shape: tuple[int, ...], *, columns_first: bool) -> np.ndarray:
        """The array that the raw `data` is; text is what Python 2 wrote for bytes."""
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        values = np.frombuffer(raw, np.dtype(self.order + self.code))
        values = values.reshape(shape, order="F" if columns_first else "C")
        return values.astype(values.dtype.newbyteorder("="))


class _Array:
    """A pickled array; its `values` come with its state."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, columns_first, data = state
        self.values = dtype.read(data, shape, columns_first=bool(columns_first))


def _dtype(code: str, *_: object) -> _Dtype:
    # The code is one such as "f4".
    if not PLAIN_NUMBERS.fullmatch(code):
        raise _Refused(f"arrays of {code!r}")
    return _Dtype(code)


def _latin1(text: str, encoding: str) -> bytes:
    # As protocol 2 writes bytes.
    if encoding != "latin1":
        raise _Refused(f"text in {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("multiarray", "_reconstruct"): lambda *_: _Array(),
    ("multiarray", "scalar"): lambda dtype, data: dtype.read(data, (), columns_first=False),
    ("numeric", "_frombuffer"): lambda data, dtype, shape, order: dtype.read(data, shape, columns_first=order == "F"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that makes numpy arrays, containers and plain values, and can call nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for one of the few names that pickled arrays need."""
        found = _KNOWN.get((re.sub(r"^numpy\._?core\.", "", module), name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    text = " ".join(str(error).split())
    wanted = re.search(r"GLOBAL:? ([\w.]+)", text)
    if isinstance(error, _Refused) or wanted:
        what = wanted.group(1) if wanted else text
        return CheckpointError(
            f"{path}: wants {what}, more than weights, and was refused; save only its state dict in its own code base"
        )
    return CheckpointError(f"{path}: not a readable weight file ({text[:120]}); it may be truncated or of another kind")


def load_untrusted(path: Path) -> Any:
    """What a .pkl, safetensors or torch file holds, arrays as tensors; never runs code from it.

    Raises CheckpointError where it cannot be read, or wants to run something.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix != ".pkl":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's remarks on damaged files, which are refused below
                return torch.load(path, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the path of the downloaded weights") from None
    except BROKEN as error:
        raise _unreadable(path, error) from None


def _as_tensor(name: str, value: object, path: Path) -> Tensor:
    values = value.values if isinstance(value, _Array) else value
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values)
    if not isinstance(values, Tensor):
        raise CheckpointError(f"{path}: holds a {type(value).__name__} at {name!r} where weights belong; remove it")
    return values


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a weight file: out of its training state, the optimiser left, without a DDP prefix."""
    content = load_untrusted(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__} instead of named weights; is it the right file?"
        )
    tensors = {str(name): _as_tensor(str(name), value, path) for name, value in content.items()}
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def read_foreign(path: Path, format: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint of `format`; raises CheckpointError where it cannot be read, or holds code.

    Only a few code bases have pickles of arrays (.pkl) beside torch's files.
    """
    if path.suffix == ".pkl" and not CODE_BASES[format].has_pickles:
        raise CheckpointError(f"{path}: is a .pkl, which {format} does not write; name its format with --from")
    return read_weights(path)
