"""The .hwpack file: one safetensors file with a JSON header.

The safetensors metadata has the single key "hwpack"; safetensors keeps several keys in no fixed order. Its value is
canonical JSON (sorted keys, no spaces):

    {"format": "hwpack", "version": 1, "sha256": ..., "input": ..., "head": ..., "layers": [...]}

`sha256` covers the header without that field and then every tensor, in the order of their names: name, dtype, shape
and bytes. Tensors are named "output_scale" and "<index of the layer>.<field>". Weights are stored once, packed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from hwgen.errors import DataError, FormatError
from hwgen.format.network import (
    Conv2d,
    Flatten,
    Input,
    IntegerNetwork,
    KWinners,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Requantise,
    SumPool2d,
)
from hwgen.format.sets import Packing, unpack

VERSION = 1
MAX_HEADER = 1 << 24
MAX_WEIGHTS = 1 << 28
MAX_SIZE = 1 << 24

Arrays = dict[str, np.ndarray]
DTYPES = {"I8": np.int8, "U16": np.uint16, "I32": np.int32, "F64": np.float64, "BOOL": np.bool_}
PACKING_FIELDS = ("set_of", "kernel_of", "row_start", "weights", "kernel_ids", "occupied")


def _integer(low: int, high: int = MAX_SIZE) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise DataError(f"must be an integer in {low} .. {high}, not {value!r}")
        return value

    return read


def _integers(low: int, least: int, most: int) -> Callable[[Any], tuple[int, ...]]:
    read_one = _integer(low)

    def read(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise DataError(f"must be a list of {least} to {most} integers, not {value!r}")
        return tuple(read_one(item) for item in value)

    return read


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise DataError(f"must be true or false, not {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"must be a string, not {value!r}")
    return value


def _scale(value: Any) -> float:
    if type(value) is not float or not math.isfinite(value) or value <= 0:
        raise DataError(f"must be a positive number with a decimal point, not {value!r}")
    return value


def _head(value: Any) -> str | None:
    if value not in (None, "softmax", "log_softmax"):
        raise DataError(f"must be null, softmax or log_softmax, not {value!r}")
    return value


SIZES, OFFSETS = _integers(1, 2, 2), _integers(0, 2, 2)
WINDOW = {"kernel": SIZES, "stride": SIZES, "padding": OFFSETS, "ceil_mode": _boolean}
INPUT = {"shape": _integers(1, 1, 3), "scale": _scale, "signed": _boolean}
# What the header holds of each kind of layer, beside its kind; tensors are stored apart.
KINDS: dict[type, tuple[str, dict[str, Callable[[Any], Any]]]] = {
    Linear: ("linear", {"shape": _integers(1, 2, 2)}),
    Conv2d: (
        "conv2d",
        {
            "shape": _integers(1, 4, 4),
            "stride": SIZES,
            "padding": OFFSETS,
            "dilation": SIZES,
            "groups": _integer(1),
        },
    ),
    Requantise: ("requantise", {"shift": _integer(0, 47), "signed": _boolean}),
    ReLU: ("relu", {}),
    MaxPool2d: ("max_pool2d", WINDOW | {"dilation": SIZES}),
    SumPool2d: ("sum_pool2d", WINDOW),
    KWinners: ("k_winners", {"k": _integer(1), "local": _boolean}),
    Flatten: ("flatten", {}),
}
KIND_OF_NAME = {name: kind for kind, (name, _) in KINDS.items()}


def kind_name(layer: Layer) -> str:
    """The name of the layer's kind in files and reports."""
    return KINDS[type(layer)][0]


def encode(network: IntegerNetwork, packings: Mapping[str, Packing]) -> bytes:
    """The file's bytes; equal networks give equal bytes."""
    header, arrays = _describe(network, packings)
    header["sha256"] = _digest(header, arrays)
    return save_tensors(arrays, {"hwpack": _canonical(header)})


def content_hash(network: IntegerNetwork, packings: Mapping[str, Packing]) -> str:
    """SHA-256, in hexadecimal, of everything the file holds."""
    return _digest(*_describe(network, packings))


def decode(data: bytes) -> tuple[IntegerNetwork, dict[str, Packing]]:
    """The inverse of `encode`.

    Raises:
        FormatError: the bytes are not an intact .hwpack of this version; says why, but not which file.
        DataError: they are intact and do not describe a network.
    """
    header = _read_header(data)
    try:
        arrays = load_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"not an intact .hwpack file ({_one_line(error)}); pack the model again") from None
    stated = header.pop("sha256", None)
    if stated != _digest(header, arrays):
        raise FormatError("corrupted: its content does not match its SHA-256; copy the file or pack the model again")
    if any(array.dtype == np.bool_ and array.view(np.uint8).max(initial=0) > 1 for array in arrays.values()):
        raise DataError("a boolean tensor holds a byte other than 0 and 1")
    return _build(header, arrays)


def _canonical(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _digest(header: Mapping[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(_canonical(header).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"\n{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(little_endian.tobytes())
    return digest.hexdigest()


def _describe(network: IntegerNetwork, packings: Mapping[str, Packing]) -> tuple[dict[str, Any], Arrays]:
    arrays: Arrays = {"output_scale": np.ascontiguousarray(network.output_scale)}
    layers = []
    for index, layer in enumerate(network.layers):
        kind, fields = KINDS[type(layer)]
        entry: dict[str, Any] = {"kind": kind, "name": layer.name}
        stored: Arrays = {}
        match layer:
            case Linear() | Conv2d():
                packing = packings[layer.name]
                stored = {field: getattr(packing, field) for field in PACKING_FIELDS} | {"bias": layer.bias}
            case Requantise():
                stored = {"multiplier": layer.multiplier}
        for field in fields:
            entry[field] = _plain(layer.weight.shape if field == "shape" else getattr(layer, field))  # type: ignore[union-attr]
        layers.append(entry)
        arrays |= {f"{index}.{field}": np.ascontiguousarray(array) for field, array in stored.items()}
    header = {
        "format": "hwpack",
        "version": VERSION,
        "input": {field: _plain(getattr(network.input, field)) for field in INPUT},
        "head": network.head,
        "layers": layers,
    }
    return header, arrays


def _plain(value: Any) -> Any:
    """Numbers as JSON writes them; numpy's own scalars are not."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _read_header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(MAX_HEADER, len(data) - 8):
        raise FormatError("truncated, or not an .hwpack file; pack the model again")
    try:
        outer = json.loads(data[8 : 8 + length])
        tensors = {name: entry["dtype"] for name, entry in outer.items() if name != "__metadata__"}
        header = json.loads(outer["__metadata__"]["hwpack"], parse_constant=_refuse_constant)
        is_ours = header["format"] == "hwpack"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise FormatError("not an .hwpack file, or its header is corrupted; pack the model again")
    if type(header.get("version")) is not int or header["version"] != VERSION:
        raise FormatError(
            f"is of version {str(header.get('version'))[:20]!r} and this hwgen reads version {VERSION};"
            " pack the model again"
        )
    unknown = sorted(name for name, dtype in tensors.items() if dtype not in DTYPES)
    if unknown:
        raise FormatError(f"tensor {_one_line(unknown[0])!r} is of a type no .hwpack holds; pack the model again")
    return header


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} in the header")


def _build(header: dict[str, Any], arrays: Arrays) -> tuple[IntegerNetwork, dict[str, Packing]]:
    entries = header.get("layers")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError("the header has no list of layers")
    unused = dict(arrays)
    layers: list[Layer] = []
    packings: dict[str, Packing] = {}
    for index, entry in enumerate(entries):
        name = entry.get("name")
        where = f"layer {name!r}" if isinstance(name, str) else f"layer number {index}"
        try:
            layers.append(_build_layer(entry, _Tensors(unused, f"{index}."), packings))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    value = Input(**_read_fields(header.get("input"), INPUT))
    scale = _Tensors(unused, "").take("output_scale", np.float64, 1)
    head = _read_fields(header, {"head": _head})["head"]
    if unused:
        raise DataError(f"tensor {_one_line(min(unused))!r} belongs to no layer")
    return IntegerNetwork(value, tuple(layers), scale, head), packings


class _Tensors:
    """The tensors whose names start with a prefix, each of which may be taken once."""

    def __init__(self, arrays: Arrays, prefix: str) -> None:
        self._arrays = arrays
        self._prefix = prefix

    def take(self, field: str, dtype: type[np.generic], dimensions: int) -> np.ndarray:
        array = self._arrays.pop(self._prefix + field, None)
        if array is None or array.dtype != dtype or array.ndim != dimensions:
            raise DataError(f"tensor {self._prefix + field!r} is missing or not {np.dtype(dtype)} of {dimensions} axes")
        return array


def _read_fields(entry: Any, fields: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise DataError("the header has no object where fields belong")
    values = {}
    for field, read in fields.items():
        if field not in entry:
            raise DataError(f"field {field!r} is missing")
        try:
            values[field] = read(entry[field])
        except DataError as error:
            raise DataError(f"field {field!r} {_one_line(error)}") from None
    return values


def _build_layer(entry: dict[str, Any], tensors: _Tensors, packings: dict[str, Packing]) -> Layer:
    kind = KIND_OF_NAME.get(entry.get("kind"))  # type: ignore[arg-type]
    if kind is None:
        raise DataError(f"kind {_one_line(repr(entry.get('kind')))} is unknown; kinds are {', '.join(KIND_OF_NAME)}")
    fields = _read_fields(entry, {"name": _text} | KINDS[kind][1])
    if kind in (Linear, Conv2d):
        shape, groups = fields.pop("shape"), fields.get("groups", 1)
        if math.prod(shape) > MAX_WEIGHTS:
            raise DataError(f"weights {shape} are more than {MAX_WEIGHTS}")
        packing = _take_packing(tensors)
        weight, mask = unpack(packing, shape, groups)
        packings[fields["name"]] = packing
        return kind(weight=weight, mask=mask, bias=tensors.take("bias", np.int32, 1), **fields)
    if kind is Requantise:
        return Requantise(multiplier=tensors.take("multiplier", np.int32, 1), **fields)
    return kind(**fields)


def _take_packing(tensors: _Tensors) -> Packing:
    return Packing(
        set_of=tensors.take("set_of", np.int32, 1),
        kernel_of=tensors.take("kernel_of", np.int32, 1),
        row_start=tensors.take("row_start", np.int32, 1),
        weights=tensors.take("weights", np.int8, 2),
        kernel_ids=tensors.take("kernel_ids", np.uint16, 2),
        occupied=tensors.take("occupied", np.bool_, 2),
    )


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:120]
