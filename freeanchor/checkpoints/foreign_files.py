"""Reading weight files of other code bases without running anything that they hold.

torch's files and pickles of numpy arrays (detectron2, Caffe2) are read as inert data (`foreign_pickles.py`), and what
they declare is held against the size of the file. What training wrappers put before the names, or beside the weights,
is taken off. A file that wants more is refused.

    tensors = read_foreign(Path("model_final.pkl"), "detectron2")
"""

import math
import mmap
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from freeanchor.checkpoints.code_bases import CODE_BASES
from freeanchor.checkpoints.foreign_pickles import InertUnpickler, PickledArray, Refused, StandIn, StoredTensor
from freeanchor.checkpoints.native import check_shape, read_safetensors
from freeanchor.errors import CheckpointError, shown

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "blobs")  # a training state's entry of weights
PREFIXES = ("module", "model", "net", "network", "detector")  # of DDP, averaged models, DeepSpeed, Lightning
COMPILED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
HELPERS = ("n_averaged", "steps", "step", "initted")  # counts that averaged models keep beside their weights
MAX_NESTING = 4  # of wrappers
MOST_SHARED = 4  # times the file's size that its tensors may take: one storage may be seen under several names
ZIP_START = b"PK\x03\x04"
ZIP_HEADER = 30  # bytes in front of a member's name; the last four are the lengths of what follows
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # in front of torch's files before version 1.6
BROKEN = (  # what a damaged or foreign file makes the readers raise
    *(OSError, EOFError, MemoryError, pickle.UnpicklingError, struct.error, SafetensorError, BadZipFile),
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)


class _Pickled:
    """A file of torch.save, or a plain pickle, mapped into memory: its value, and where each storage lies."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.content = content
        self.spans: dict[str, tuple[int, int]] = {}  # by the storage's key: first byte and number of bytes
        self.storages: dict[str, bytearray] = {}  # those that were read
        self.value = self._of_archive(path) if is_zipfile(path) else self._of_stream()

    def _of_archive(self, path: Path) -> Any:
        with ZipFile(path) as bundle:
            members = {info.filename.partition("/")[2]: info for info in bundle.infolist()}
        if "constants.pkl" in members:
            raise Refused("to be run by TorchScript")
        if "data.pkl" not in members:
            raise ValueError("an archive, but not of torch")
        if "byteorder" in members and self._bytes(*self._span(members["byteorder"])) != b"little":
            raise ValueError("its numbers are big-endian")
        self.spans = {name[5:]: self._span(info) for name, info in members.items() if name.startswith("data/")}
        self.content.seek(self._span(members["data.pkl"])[0])
        return InertUnpickler(self.content).load()

    def _of_stream(self) -> Any:
        if self.content[: len(ZIP_START)] == ZIP_START:
            raise ValueError("an archive whose end is missing")
        # Before version 1.6 torch wrote pickles one after the other, and the storages behind them.
        value = InertUnpickler(self.content).load()
        if value != LEGACY_MAGIC:
            return value
        unpicklers = [InertUnpickler(self.content) for _ in ("version", "system", "value", "keys")]
        _, _, value, keys = (unpickler.load() for unpickler in unpicklers)
        for key in keys:
            (numel,) = struct.unpack("<q", self.content.read(8))
            size = numel * unpicklers[2].storages[key].dtype.itemsize
            self.spans[key] = self.content.tell(), size
            self.content.seek(size, 1)  # refuses what lies beyond the end
        return value

    def _span(self, info: ZipInfo) -> tuple[int, int]:
        # Checksums are left alone, as torch does: it can be told to write none.
        if info.compress_type != ZIP_STORED:
            raise ValueError("its members are compressed, which torch does not do")
        start = info.header_offset + ZIP_HEADER
        start += sum(struct.unpack("<HH", self.content[start - 4 : start]))
        if start + info.file_size > len(self.content):
            raise ValueError(f"its member {shown(info.filename)} lies beyond its end")
        return start, info.file_size

    def _bytes(self, start: int, size: int) -> bytes:
        return self.content[start : start + size]

    def tensor(self, name: str, stored: StoredTensor) -> Tensor:
        """The values of a tensor; raises ValueError where the file does not hold as many numbers."""
        dtype, shape, stride = stored.dtype, stored.shape, stored.stride
        if not isinstance(dtype, torch.dtype):
            raise Refused(f"numbers of another kind at {shown(name)}")
        check_shape(name, shape)
        check_shape(name, (*stride, stored.offset))
        key = stored.storage.key
        start, size = self.spans[key]
        held = size // dtype.itemsize
        last = stored.offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
        numel = math.prod(shape)
        if numel == 0:
            return torch.empty(shape, dtype=dtype)
        if max(numel, last + 1) > held:
            raise ValueError(f"{shown(name)} has {numel:,} numbers, the file holds {held:,} of them")
        if key not in self.storages:
            self.storages[key] = bytearray(self._bytes(start, size))
        values = torch.frombuffer(self.storages[key], dtype=dtype, count=held)
        return values.as_strided(shape, stride, stored.offset)


def _weights_in(content: Any) -> Mapping[Any, Any]:
    """The named weights in a training state; raises CheckpointError where there are none."""
    for _ in range(MAX_NESTING):
        inside = [content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content]
        whole = [it for it in inside if isinstance(it, StandIn)]
        content = next((it for it in inside if isinstance(it, Mapping)), whole[0] if whole else content)
    if isinstance(content, StandIn):
        whole_name = shown(type(content).name)
        raise CheckpointError(
            f"holds a whole {whole_name} instead of weights; save its state_dict() in its own code base"
        )
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"holds a {type(content).__name__} instead of named weights; is it the right file?")
    return content


def _bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the network alone, without what wrappers put before and beside them."""
    bare = {COMPILED.sub("", name): tensor for name, tensor in tensors.items()}
    weights = {name: tensor for name, tensor in bare.items() if not (name in HELPERS and tensor.numel() == 1)}
    roots = {name.partition(".")[0] if "." in name else "" for name in weights}
    if len(roots) == 1 and (root := roots.pop()) in PREFIXES:
        return _bare({name.removeprefix(f"{root}."): tensor for name, tensor in weights.items()})
    copies = {f"ema_{name.replace('.', '_')}" for name in bare}  # of mmcv's EMA hook, which swaps them when it saves
    return {name: tensor for name, tensor in bare.items() if name not in copies}


def _tensors_in(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        pickled = _Pickled(path, content)
        return {str(key): _as_tensor(str(key), value, pickled) for key, value in _weights_in(pickled.value).items()}


def _as_tensor(name: str, value: object, pickled: _Pickled) -> Tensor:
    if isinstance(value, StoredTensor):
        return pickled.tensor(name, value)
    values = value.values if isinstance(value, PickledArray) else value
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values)
    kind = type(value).name if isinstance(value, StandIn) else type(value).__name__
    raise CheckpointError(f"holds a {shown(kind)} at {shown(repr(name))} where weights belong; remove it")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a weight file, never running code from it.

    They come out of their training state, the optimiser left, without the prefixes and counts of DDP, torch.compile,
    averaged models and Lightning. Raises CheckpointError where the file cannot be read, wants to run something, or
    declares more numbers than it holds.
    """
    try:
        tensors = _tensors_in(path)
        size, taken = path.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
        if taken > MOST_SHARED * size:
            raise CheckpointError(
                f"its tensors take {taken:,} bytes, more than {MOST_SHARED} times the file's {size:,}; save each with "
                "numbers of its own (clone)"
            )
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give the path of the downloaded weights") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except BROKEN as error:
        raise _unreadable(path, error) from None
    return _bare(tensors)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, Refused):
        return CheckpointError(
            f"{path}: wants {shown(error)}, more than weights, and was refused; save only its state dict in its own "
            "code base"
        )
    reasons = {KeyError: "no pickle of weights", EOFError: "it ends early", MemoryError: "it is larger than memory"}
    reason = reasons.get(type(error)) or shown(" ".join(str(error).split()))
    return CheckpointError(f"{path}: not a readable weight file ({reason}); it may be truncated or of another kind")


def read_foreign(path: Path, format: str) -> dict[str, Tensor]:
    """The named tensors of a checkpoint of `format`; raises CheckpointError where it cannot be read, or holds code.

    Only a few code bases have pickles of arrays (.pkl) beside torch's files.
    """
    if path.suffix == ".pkl" and not CODE_BASES[format].has_pickles:
        raise CheckpointError(f"{path}: is a .pkl, which {format} does not write; name its format with --from")
    return read_weights(path)
