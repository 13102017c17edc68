"""Files made to mislead a reader, by kind: each from a generator alone, so that a seed tells the file.

TRAPS["json"](good_bytes, random.Random(0))

A trap may be harmless (a byte order mark) or an attack (a header of 100 bytes that claims gigabytes): a reader takes it
or refuses it in one line, writes nothing, and needs memory in proportion to the file's own size. Pickles would leave a
file named MADE in the working folder if anybody ran them.
"""

import gzip
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image

from freeanchor.inference.onnx_detector import INPUTS, METADATA, OUTPUTS

Trap = Callable[[bytes, random.Random], bytes]
ODD_NAMES = (
    *("a\nb", "\x1b]0;title\x07\x1b[2J", "\ud800", "$\\foo{$", "<script>", "x" * 10_000, "../../MADE", "热带鱼", "", "\0"),
    *("a\u2028b", "\u202egnp.exe", "%20", "C:\\x\\y.png", "./p0.png", "e\u0301"),
)  # fmt: skip
ODD_IDS = (1.0, 1.5, -0.0, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -(2**62), 1e18, 1e300, "1", True)
BOMB = 600_000_000  # bytes that less than a thousandth of it in a gzip or zip becomes
CHUNK = 1_000_000
SWELLING = (b" ", b"[", b'{"a": [0]}, ')


@cache
def _bomb(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as file:
        for _ in range(BOMB // CHUNK):
            file.write(content * (CHUNK // len(content)))
    return buffer.getvalue()


def make_bombs() -> None:
    """Make now what takes seconds to make: processes that are forked later have it."""
    for content in SWELLING:
        _bomb(content)
    _swelling_zip()


def _swap(value: Any, generator: random.Random) -> Any:
    """A json value with some of its ids, names and boxes replaced by odd ones."""
    if isinstance(value, list):
        return [_swap(item, generator) for item in value]
    if not isinstance(value, dict):
        return value
    odd = {key: _swap(item, generator) for key, item in value.items()}
    for key in odd:
        if key.endswith("id") and generator.random() < 0.2:
            odd[key] = generator.choice(ODD_IDS)
        elif key.endswith("name") and generator.random() < 0.3:
            odd[key] = generator.choice(ODD_NAMES)
        elif key in ("width", "height") and generator.random() < 0.2:
            odd[key] = generator.choice([odd.get("height"), odd.get("width"), 2**31, 1e12, -1, 0])
        elif key == "bbox" and generator.random() < 0.2:
            odd[key] = [float(side) * generator.choice([1e-3, 1e6, 1e12, 1e200]) for side in odd[key]]
    return odd


def json_trap(good: bytes, generator: random.Random) -> bytes:
    """Encodings, compression, nesting, odd ids and names, and what is no json at all."""
    plain = gzip.decompress(good) if good[:2] == b"\x1f\x8b" else good
    text, depth = plain.decode(), generator.choice([100, 2_000, 200_000])
    makers: list[Callable[[], bytes]] = [
        lambda: text.encode(generator.choice(["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-32-be"])),
        lambda: text.encode("utf-16")[: -generator.choice([1, 2, 3])],
        lambda: gzip.compress(text.encode(generator.choice(["utf-8-sig", "utf-16"])), mtime=0),
        lambda: _bomb(generator.choice(SWELLING)),
        lambda: (
            gzip.compress(plain, mtime=0)[: generator.choice([5, 20, -8, -1])]
            + generator.choice([b"", b"x", b"\0" * 9])
        ),
        lambda: gzip.compress(gzip.compress(plain)),
        lambda: generator.choice(["[", '{"a":', '[{"a":']).encode() * depth + b"1",
        lambda: b"[" * depth + b"]" * depth,
        lambda: text.replace('"id"', generator.choice(['"id\\u0000"', '"ID"', '"id": 7, "id"'])).encode(),
        lambda: json.dumps(_swap(json.loads(text), generator)).encode(),
        lambda: json.dumps(_swap(json.loads(text), generator), ensure_ascii=False).encode("utf-8", "surrogatepass"),
        lambda: text.replace("1", generator.choice(["1e999", "-1e400", "1" * 5000, "1E+2", "NaN"]), 1).encode(),
        lambda: generator.choice([b"", b"\0" * 5000, b"\xef\xbb\xbf", b"\xff\xfe", b"null", b" \n", b"a,b\n1,2\n"]),
        lambda: "\n".join(json.dumps(item) for item in ODD_NAMES).encode(),
        lambda: pickle.dumps(json.loads(text)),
        lambda: ("é" + text).encode("cp1252"),
    ]
    return generator.choice(makers)()


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('MADE', 'w').close()",)  # what a reader that unpickles would do


class _Claims:
    """An array whose data is a number: as many zero bytes, if taken by its word."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.frombuffer, (2_000_000_000,)


def _nested(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth):
        value = (value, value)
    return value


def _state(generator: random.Random) -> dict[str, Any]:
    prefix = generator.choice(["module.", "_orig_mod.", "module._orig_mod.", "model.", "ema_", "student.", ""])
    weights = {f"{prefix}{name}": torch.ones(3, 4) for name in ("backbone.conv1.weight", "bbox_head.retina_cls.bias")}
    odd = {
        "n_averaged": torch.tensor(3),
        "stride 0": torch.zeros(1).expand(generator.choice([1_000, 1_000_000_000])),
        "overlap": torch.zeros(1000).as_strided((900, 900), (0, 1)),
        "nan": torch.full((2, 2), float("nan")),
        "sparse": torch.eye(3).to_sparse(),
        "bool": torch.ones(3, dtype=torch.bool),
        "empty": torch.zeros(0, 5),
        generator.choice(ODD_NAMES): torch.zeros(2),
    }
    return weights | dict(generator.sample(sorted(odd.items()), generator.choice([0, 1, 3])))


def _torch(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def weights_trap(_good: bytes, generator: random.Random) -> bytes:
    """Views that are larger than what lies behind them, prefixes, code in pickles, and archives that swell."""
    makers: list[Callable[[], bytes]] = [
        lambda: _torch({generator.choice(["state_dict", "model", "ema"]): _state(generator), "epoch": 3}),
        lambda: _torch(_state(generator)),
        lambda: _torch({"model": _Runs()}),
        lambda: pickle.dumps({"model": {"a": _Runs()}}),
        lambda: pickle.dumps({"model": {"a": _Claims()}}),
        lambda: pickle.dumps({"model": {_nested(generator.choice([5, 16])): np.zeros(2)}}),
        lambda: pickle.dumps({"model": {"a": np.broadcast_to(np.float32(1), (1000, 1000))}}),
        lambda: pickle.dumps({"model": {name: np.zeros(2, dtype="f4") for name in ODD_NAMES}}),
        lambda: b"\x80\x02" + b"]" * generator.choice([10, 100_000]) + b".",
        lambda: b"\x80\x04\x8e" + struct.pack("<Q", generator.choice([2**31, 2**40, 2**63])) + b"abc.",
        _swelling_zip,
    ]
    return generator.choice(makers)()


@cache
def _swelling_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in ("archive/data.pkl", "archive/data/0", "archive/version"):
            with bundle.open(name, "w") as member:
                for _ in range(BOMB // CHUNK):
                    member.write(bytes(CHUNK))
    return buffer.getvalue()


def safetensors_trap(good: bytes, generator: random.Random) -> bytes:
    """Headers that claim what the file does not hold: lengths, dimensions, offsets, depth, and names of all kinds."""
    length = struct.unpack("<Q", good[:8])[0]
    header, rest = json.loads(good[8 : 8 + length]), good[8 + length :]
    name = generator.choice([key for key in header if key != "__metadata__"])
    metadata = header["__metadata__"]
    kind = generator.randrange(8)
    if kind == 0:
        return struct.pack("<Q", generator.choice([0, 1, 2**31, 2**63, 2**64 - 1])) + good[8:]
    if kind == 1:
        shapes = ([2**31, 2**31], [0], [], [1] * 500, [2**62], [-1], [1, header[name]["shape"]])
        header[name]["shape"] = generator.choice(shapes)
    elif kind == 2:
        header[name]["data_offsets"] = generator.choice([[0, 2**40], [5, 1], [0, 0], [-1, 4], [0.0, 4.0]])
    elif kind == 3:
        header[generator.choice(ODD_NAMES)] = header.pop(name)
    elif kind == 4:
        header[name]["dtype"] = generator.choice(["F8_E4M3", "BOOL", "I8", "U64", "C64", "nonsense", ""])
    elif kind == 5:
        key = next(iter(metadata))
        metadata[key] = generator.choice(["[" * 100_000, "{" * 50, "", "null", '{"model": ' * 20_000, "\ud800"])
    elif kind == 6:
        metadata.update({odd: odd for odd in ODD_NAMES})
    else:
        for key in list(metadata):
            numbers = generator.choice(["2000000000", "-1", "1e9", "0", "1e-300"])
            metadata[key] = metadata[key].replace("64", numbers).replace("dot", "do\\u001b[2Jt")
    packed = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(packed)) + packed + rest


def _png_of(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, format="PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    return bytes(data)  # its checksum is wrong as well: Pillow says which it minds


def image_trap(good: bytes, generator: random.Random) -> bytes:
    """Other formats under the name, programs among them, and sizes that the file cannot hold."""
    makers: list[Callable[[], bytes]] = [
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(MADE) (w) file closefile\n{} loop\n",
        lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n",
        lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(50),
        lambda: b"P6\n60000 60000\n255\n" + bytes(30),
        lambda: (
            b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + good[10:]
            if good[:3] == b"GIF"
            else b"GIF89a\xff\xff\xff\xff"
        ),
        lambda: (
            b"BM" + struct.pack("<IIIIiiHHI", 60, 0, 54, 40, 2**31 - 1, generator.choice([1, -1, 30_000]), 1, 24, 0)
        ),
        lambda: _png_of(*generator.choice([(60_000, 60_000), (2**31 - 1, 1), (0, 5), (20_000, 8_000), (1, 2**31 - 1)])),
        lambda: b"II*\0" + struct.pack("<IHHHII", 8, 1, 256, 4, 2**31, 2**31) + bytes(9),
        lambda: b"\0\0\1\0\1\0" + bytes(40),
        lambda: b"",
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        lambda: good + good,
    ]
    return generator.choice(makers)()


def xml_trap(good: bytes, generator: random.Random) -> bytes:
    """Nesting, several boxes, entities, encodings and names."""
    text, depth = good.decode(), generator.choice([50, 5_000, 20_000])
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    makers: list[Callable[[], bytes]] = [
        lambda: text.replace("</object>", f"{box * generator.choice([1, 20])}</object>", 1).encode(),
        lambda: text.replace("</object>", f"<object><name>in</name>{box}</object></object>", 1).encode(),
        lambda: text.replace("</object>", f"<part><name>head</name>{box}</part></object>", 1).encode(),
        lambda: ("<annotation>" + "<object>" * depth).encode(),
        lambda: ("<a>" * depth + "</a>" * depth).encode(),
        lambda: f'<!DOCTYPE a [<!ENTITY e0 "x">{entities}]><annotation>&e12;</annotation>'.encode(),
        lambda: (
            b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><annotation><filename>&e;</filename></annotation>'
        ),
        lambda: (
            f'<?xml version="1.0" encoding="{generator.choice(["utf8", "UTF8", "latin-1", "cp1252", "x"])}"?>{text}'.encode()
        ),
        lambda: text.encode(generator.choice(["utf-16", "utf-8-sig", "utf-32", "utf-16-le"])),
        lambda: text.replace("dog", generator.choice(["a\nb", "&#10;", "&#27;", "x" * 100_000, "é", ""])).encode(
            "cp1252"
        ),
        lambda: text.replace(
            "<width>40", f"<width>{generator.choice(['30', '1e9', '99999999999', '-4', 'x', '0'])}"
        ).encode(),
        lambda: text.replace(
            "<xmin>3", f"<xmin>{generator.choice(['nan', 'inf', '1e400', '0.3', '-5', '٣', ''])}"
        ).encode(),
        lambda: generator.choice([b"", b"\0" * 400, b"<annotation/>", b"{}", b"a b c\n"]),
    ]
    return generator.choice(makers)()


def onnx_file(
    boxes: Any = ((1, 2, 9, 8),), scores: Any = (0.5,), labels: Any = (1,), known: Any = None, outputs: Any = OUTPUTS
) -> bytes:
    """A graph that finds the same in every image, with our metadata."""
    values = (np.array(boxes, dtype="f4"), np.array(scores, dtype="f4"), np.asarray(labels))
    values = tuple(it.astype("i8") if it.dtype.kind == "i" else it for it in values)
    nodes = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))
        for name, value in zip(outputs, values, strict=True)
    ]
    shapes = ([3, None, None], [])
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(INPUTS, shapes, strict=True)
    ]
    types = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in values]
    given = [
        helper.make_tensor_value_info(name, kind, list(value.shape))
        for name, kind, value in zip(outputs, types, values, strict=True)
    ]
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, given), opset_imports=opset, ir_version=8)
    default = {"detector": None, "category_ids": [2, 5], "category_names": ["dot", "box"]}
    text = json.dumps({**default, "short_side": 64, "max_long_side": 128, **(known or {})})
    helper.set_model_props(model, {METADATA: text})
    content: bytes = model.SerializeToString()
    return content


def onnx_trap(good: bytes, generator: random.Random) -> bytes:
    """Outputs of other shapes, types, values or order, metadata of all kinds, and data that lie elsewhere."""
    nan, inf = float("nan"), float("inf")
    found: list[dict[str, Any]] = [
        *({"boxes": [box]} for box in ([nan] * 4, [inf, 0, 1, 1], [9, 8, 1, 2], [1e30] * 4, [-1e9, 0, 1e9, 1], [1, 2, 3])),
        *({"boxes": boxes} for boxes in (5.0, [1, 2, 9, 8], [[[1, 2, 9, 8]]], [[1, 2, 9, 8]] * 3, np.zeros((0, 4)))),
        *({"scores": scores} for scores in ([nan], [2.0], [-0.5], 0.5, [[0.5]], [0.5, 0.4], [])),
        *({"labels": labels} for labels in ([1.0], [-1], [2], 1, [[1]], [1, 1], [2**62], np.array([True]))),
        {"boxes": [[1, 2, 9, 8]] * 2, "scores": [0.2, 0.9], "labels": [0, 1]},
        *({"known": {"category_names": [name, "b"]}} for name in ODD_NAMES),
        *({"known": {"category_ids": [number, 7]}} for number in ODD_IDS),
        *({"known": {"short_side": side}} for side in (0, -1, 2**31, 1e300, "x", None, 32_767)),
        {"known": {"category_ids": "[" * 5_000}},
        {"outputs": ("boxes", "scores", "classes")},
    ]  # fmt: skip
    if generator.random() < 0.1:
        return _with_external_data(generator.choice(["../x", "/etc/hostname", "gt.json", "p.png"]))
    return onnx_file(**generator.choice(found))


def _with_external_data(location: str) -> bytes:
    model = onnx.load_from_string(onnx_file())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["w"], [OUTPUTS[0]]))
    content: bytes = model.SerializeToString()
    return content


def marker_trap(good: bytes, generator: random.Random) -> bytes:
    """What a crash or a power cut may leave: nothing, a part, or zeros."""
    cut = generator.randrange(len(good))
    return generator.choice([b"", b"\0", b"\0" * len(good), good[:cut], good[:cut] + bytes(len(good) - cut), good * 2])


TRAPS: dict[str, Trap] = {
    "json": json_trap,
    "weights": weights_trap,
    "safetensors": safetensors_trap,
    "image": image_trap,
    "xml": xml_trap,
    "onnx": onnx_trap,
    "marker": marker_trap,
}
