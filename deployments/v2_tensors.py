"""Tensors of the Open Inference Protocol V2, in JSON and in binary; no HTTP and no models in here.

The binary form is the protocol's extension ``binary_tensor_data``: little-endian, row-major, without padding; an
element of BYTES is its length in four bytes, and itself.
https://github.com/kserve/open-inference-protocol, and Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compute.errors import InvalidField

Values = NDArray[Any] | Sequence[str | None]

DTYPES: dict[str, str] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""NumPy's names of the datatypes that are numbers; BYTES is the only other one."""

_WANTED: dict[str, tuple[str, set[type]]] = {
    "b": ("true or false", {bool}),
    "f": ("numbers or null", {float, int, type(None)}),
}
_LARGEST = {name: float(np.finfo(code).max) for name, code in DTYPES.items() if code[1] == "f"}
_FEW = 1024
"""Elements up to which Python looks for the largest faster than NumPy begins to."""
_INTEGERS: tuple[str, set[type]] = ("whole numbers", {int})


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array. ``values`` is flat: an array of the datatype, or a list of texts (None where one is missing)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values


def check_header(name: object, datatype: object, shape: object) -> int:
    """Refuse what is not a name, a datatype and a shape; return the number of elements.

    Examples
    --------
    >>> check_header("x", "FP32", [2, 3])
    6
    """
    if not isinstance(name, str) or not name:
        raise InvalidField(f"a tensor is named {name!r:.80}", hint="Give each input a name.", context={"field": "name"})
    if not isinstance(datatype, str) or (datatype not in DTYPES and datatype != "BYTES"):
        raise _refusal(name, f"has the datatype {datatype!r:.80}", f"There are {', '.join(DTYPES)}, BYTES.")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise _refusal(name, f"has the shape {shape!r:.80}", "A shape is a list of sizes, such as [1] or [10, 4].")
    return math.prod(shape)


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Values:
    """Return the elements of a tensor that was sent as JSON, nested by its shape or flat.

    Examples
    --------
    >>> from_json("x", "FP32", [2, 2], [[1, 2.5], [None, 4]])
    array([1. , 2.5, nan, 4. ], dtype=float32)
    >>> from_json("carrier", "BYTES", [2], ["UA", None])
    ['UA', None]
    """
    if not isinstance(data, list):
        raise _refusal(name, "has no list as its data", "Send a JSON array, row by row.")
    flat = _flatten(name, data, shape)
    if len(flat) != math.prod(shape):
        raise _refusal(
            name, f"has {len(flat)} elements, and the shape {list(shape)} means {math.prod(shape)}", "Send them all."
        )
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        if not kinds <= {str, type(None)}:
            raise _refusal(
                name, "has elements that are no text", "BYTES are JSON strings, or null where one is missing."
            )
        return flat
    dtype = np.dtype(DTYPES[datatype])
    wanted, allowed = _WANTED.get(dtype.kind, _INTEGERS)
    if not kinds <= allowed:
        raise _refusal(name, f"has elements that are not {wanted}", f"That is what {datatype} takes.")
    if dtype.kind in "iu" and flat:
        bounds = np.iinfo(dtype)
        if min(flat) < bounds.min or max(flat) > bounds.max:
            raise _refusal(name, f"has elements beyond {datatype}", f"It takes {bounds.min} to {bounds.max}.")
    if dtype.kind == "f" and 0 < len(flat) <= _FEW and type(None) not in kinds:
        largest = _LARGEST[datatype]
        if -largest <= min(flat) and max(flat) <= largest:
            return np.array(flat, dtype=dtype)
    try:
        with np.errstate(over="ignore"):
            values = np.array(flat, dtype=dtype)
    except OverflowError:
        values = np.array([math.inf])
    if dtype.kind == "f" and np.isinf(values).any():
        raise _refusal(name, f"has elements beyond {datatype}", "Send smaller numbers, or a larger datatype.")
    return values


def from_bytes(name: str, datatype: str, count: int, raw: memoryview) -> Values:
    r"""Return the elements of a tensor that was sent in binary; an array is a view of the body, not a copy.

    Examples
    --------
    >>> from_bytes("x", "INT16", 2, memoryview(bytes([1, 0, 2, 0])))
    array([1, 2], dtype=int16)
    >>> from_bytes("carrier", "BYTES", 1, memoryview(b"\x02\x00\x00\x00UA"))
    ['UA']
    """
    if datatype == "BYTES":
        return _read_texts(name, count, raw)
    dtype = np.dtype(DTYPES[datatype])
    if len(raw) != count * dtype.itemsize:
        raise _refusal(
            name,
            f"has {len(raw)} bytes, and {count} elements of {datatype} take {count * dtype.itemsize}",
            "See binary_data_size.",
        )
    if datatype == "BOOL":
        flags = np.frombuffer(raw, dtype="u1")
        if (flags > 1).any():
            raise _refusal(name, "has elements that are neither 0 nor 1", "That is what BOOL takes.")
        return flags.view("|b1")
    return np.frombuffer(raw, dtype=dtype)


def to_bytes(datatype: str, values: Values) -> bytes:
    r"""Return the elements in binary.

    Examples
    --------
    >>> to_bytes("BYTES", ["UA"]), to_bytes("INT16", np.array([1, 2]))
    (b'\x02\x00\x00\x00UA', b'\x01\x00\x02\x00')
    """
    if datatype == "BYTES":
        texts = (str(value).encode() for value in values)
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.ascontiguousarray(values, dtype=DTYPES[datatype]).tobytes()


def _flatten(name: str, data: list[Any], shape: Sequence[int]) -> list[Any]:
    """Return the elements in one list; nested lists must be nested as the shape says."""
    if not data or not isinstance(data[0], list):
        return data
    for depth, width in enumerate(shape[1:], 1):
        if len(data) != math.prod(shape[:depth]) or not all(
            isinstance(item, list) and len(item) == width for item in data
        ):
            raise _refusal(
                name, f"is not nested as its shape {list(shape)} says", "Nest the lists so, or send one list."
            )
        data = [value for item in data for value in item]
    return data


def _read_texts(name: str, count: int, raw: memoryview) -> list[str | None]:
    texts: list[str | None] = []
    place = 0
    while place + 4 <= len(raw) and len(texts) <= count:
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4 + length
        if place > len(raw):
            break
        try:
            texts.append(str(raw[place - length : place], "utf-8"))
        except UnicodeDecodeError:
            raise _refusal(name, f"is not UTF-8 in element {len(texts)}", "Texts are UTF-8.") from None
    if len(texts) != count or place != len(raw):
        raise _refusal(
            name,
            f"does not hold {count} elements in its {len(raw)} bytes",
            "Each is its length in four little-endian bytes, and its bytes.",
        )
    return texts


def _refusal(name: str, problem: str, hint: str) -> InvalidField:
    return InvalidField(f"the tensor {name[:80]!r} {problem}", hint=hint, context={"tensor": name[:80]})
