"""Pickles as inert data: containers, arrays and tensors come out, of anything else a stand-in that can do nothing.

Nothing that a pickle names is imported or called. Objects of classes that are not known here, such as the options of a
training script, become stand-ins; a pickle that wants to call a function is refused. Tensors stay descriptions until
`foreign_files.py` asks for their values. No pickle makes memory be taken that its own bytes do not fill.

    content = InertUnpickler(io.BytesIO(data)).load()
"""

import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from freeanchor.checkpoints.native import Shape, check_shape
from freeanchor.errors import shown

PLAIN_NUMBERS = re.compile(r"[biuf][1248]")
SCALARS = (str, bytes, int, float, type(None))  # and truth values: what a key may be


class Refused(pickle.UnpicklingError):
    """What a pickle wants beyond data."""


class Named(dict[Any, Any]):
    """An OrderedDict of the pickle."""


@dataclass(frozen=True)
class Storage:
    """A row of numbers that lies elsewhere in the file, under `key`."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as torch's files describe it: a view on a storage, not yet read nor checked."""

    storage: Storage
    offset: int
    shape: Shape
    stride: Shape
    dtype: torch.dtype


@dataclass
class PickledDtype:
    """A pickled dtype: plain numbers only, without numpy's own unpickling."""

    code: str
    order: str = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # All but the byte order is for structured types.
        self.order = {"|": "|", ">": ">"}.get(state[1], "<")

    def read(self, data: object, shape: Shape, *, columns_first: bool) -> np.ndarray:
        """The array that the raw `data` is; text is what Python 2 wrote for bytes."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(raw, bytes | bytearray):  # bytes(n) would be n zeros
            raise Refused(f"an array made of a {type(data).__name__}")
        check_shape("an array", shape)
        values = np.frombuffer(raw, np.dtype(self.order + self.code))
        values = values.reshape(shape, order="F" if columns_first else "C")
        return values.astype(values.dtype.newbyteorder("="))


class PickledArray:
    """A pickled array; its `values` come with its state."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, columns_first, data = state
        self.values = dtype.read(data, shape, columns_first=bool(columns_first))


class _Uncallable(type):
    """The type of stand-ins for classes and functions: objects may be made of them, and nothing else done."""

    name: str
    is_harmless: bool  # of what plain objects are pickled with: called, it gives a stand-in too

    def __call__(cls, *_: object, **__: object) -> Any:
        if not cls.is_harmless:
            raise Refused(cls.name)
        return StandIn.__new__(cls)  # type: ignore[arg-type]  # every class of this type is a stand-in


class StandIn(metaclass=_Uncallable):
    """An object of a class that is not known here: it takes its state and items, and keeps nothing."""

    name = "object"
    is_harmless = False

    def __new__(cls, *_: object, **__: object) -> "StandIn":
        """An object, whatever it was made of."""
        return object.__new__(cls)

    def append(self, _: object) -> None:
        """Nothing, as for all that follow."""

    extend = add = append

    def __setitem__(self, _: object, __: object) -> None:
        """Nothing."""


def _stand_in(name: str, *, is_harmless: bool = False) -> type[StandIn]:
    kind: Any = _Uncallable("StandIn", (StandIn,), {"name": name, "is_harmless": is_harmless})
    return kind  # type: ignore[no-any-return]


def _attribute(owner: object, name: str) -> type[StandIn]:
    # Older protocols have methods as attributes of classes.
    return _stand_in(f"{getattr(owner, 'name', 'object')}.{name}")


def _dtype(code: str, *_: object) -> PickledDtype:
    # The code is one such as "f4".
    if not PLAIN_NUMBERS.fullmatch(code):
        raise Refused(f"arrays of {shown(repr(code))}")
    return PickledDtype(code)


def _latin1(text: str, encoding: str) -> bytes:
    # As protocol 2 writes bytes.
    if encoding != "latin1":
        raise Refused(f"text in {shown(repr(encoding))}")
    return text.encode("latin1")


def _named(items: Iterable[tuple[object, object]] = ()) -> Named:
    pairs = [(key, value) for key, value in items]
    _check_keys([key for key, _ in pairs])
    return Named(pairs)


def _tensor(storage: Storage, offset: int, shape: Shape, stride: Shape, *_: object) -> StoredTensor:
    return StoredTensor(storage, offset, shape, stride, storage.dtype)


def _typed_tensor(storage: Storage, offset: int, shape: Shape, stride: Shape, *rest: Any) -> StoredTensor:
    return StoredTensor(storage, offset, shape, stride, rest[2])


_DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "Double": torch.float64,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "Untyped": torch.uint8,
}
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _named,
    ("_codecs", "encode"): _latin1,
    ("builtins", "getattr"): _attribute,
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _dtype,
    ("multiarray", "_reconstruct"): lambda *_: PickledArray(),
    ("multiarray", "scalar"): lambda dtype, data: dtype.read(data, (), columns_first=False),
    ("numeric", "_frombuffer"): lambda data, dtype, shape, order: dtype.read(data, shape, columns_first=order == "F"),
    ("torch", "Size"): lambda sides=(): tuple(sides),
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda function, _, arguments, __: function(*arguments),
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in _DTYPES.values()},
    **{("torch", f"{name}Storage"): dtype for name, dtype in _DTYPES.items()},
}
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.cuda": "torch", "torch.storage": "torch"}
_HARMLESS = re.compile(  # what plain objects are made with
    r"builtins\.(set|frozenset|slice|complex|bytearray|range)|copyreg\._reconstructor|collections\.\w+|"
    r"argparse\.Namespace|pathlib\.\w*Path|pathlib\._local\.\w*Path|datetime\.\w+|functools\.partial|torch\.device|"
    r"torch\.serialization\._get_layout|numpy\.dtypes\.\w+|numpy\.random\.\w+\.\w+"
)


def _check_keys(keys: Iterable[object]) -> None:
    # Hashing a tuple of tuples of tuples can take for ever.
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, (*SCALARS, StandIn, _Uncallable)) for part in parts):
            raise Refused(f"a {type(key).__name__} as a key")


class InertUnpickler(pickle._Unpickler):  # Python's own in Python: the one in C hashes and allocates what it is told
    """An unpickler that makes plain values, containers, arrays, descriptions of tensors, and stand-ins."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, *, encoding: str = "latin1") -> None:
        super().__init__(file, encoding=encoding)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name: never what it names."""
        home = _OLD_MODULES.get(module, re.sub(r"^numpy\._?core\.", "", module))
        known = _KNOWN.get((home, name))
        if known is not None:
            return known
        return _stand_in(f"{module}.{name}", is_harmless=_HARMLESS.fullmatch(f"{home}.{name}") is not None)

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a tensor of torch's file looks at."""
        if not isinstance(pid, tuple) or pid[0] != "storage":
            raise ValueError("refers to what is not in it")
        _, dtype, key, _, numel, *view = pid
        if any(view):
            raise Refused("views on storages, as torch wrote them before version 0.4")
        storage = Storage(str(key), dtype, int(numel))
        self.storages.setdefault(storage.key, storage)
        return storage

    def _set_item(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]

    def _set_items(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()  # type: ignore[misc]

    def _dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()  # type: ignore[misc]

    def _add_items(self) -> None:
        _check_keys(self.stack)
        super().load_additems()  # type: ignore[misc]

    def _frozenset(self) -> None:
        _check_keys(self.stack)
        super().load_frozenset()  # type: ignore[misc]

    def _bytearray(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, PickledArray | PickledDtype):
            target.__setstate__(state)
        elif not isinstance(target, Named | StandIn):
            raise Refused(f"a state for a {type(target).__name__}")

    dispatch.update(
        {
            pickle.SETITEM[0]: _set_item,
            pickle.SETITEMS[0]: _set_items,
            pickle.DICT[0]: _dict,
            pickle.ADDITEMS[0]: _add_items,
            pickle.FROZENSET[0]: _frozenset,
            pickle.BYTEARRAY8[0]: _bytearray,
            pickle.BUILD[0]: _build,
        }
    )
