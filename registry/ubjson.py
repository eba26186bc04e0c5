"""A reader of Universal Binary JSON (ubjson.org, draft 12), as XGBoost writes it, to look before a file is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
_LENGTHS = (b"i", b"U", b"I", b"l", b"L")
_CONSTANTS = {b"T": True, b"F": False, b"Z": None}
_MAX_DEPTH = 64


def read_ubjson(data: bytes) -> Any:
    """Return the value: dicts, lists, text, numbers; arrays of one type as NumPy arrays.

    Raises
    ------
    ValueError
        When the bytes are not one whole value.

    Examples
    --------
    >>> read_ubjson(b"{L" + bytes([0] * 7 + [1]) + b"a[$i#i" + bytes([2, 5, 6]) + b"}")
    {'a': array([5, 6], dtype=int8)}
    """
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if reader.position != len(data):
        raise ValueError(f"{len(data) - reader.position} bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise ValueError(f"the file ends within a value of {count} bytes at {self.position}")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def value(self, marker: bytes, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError(f"values nest more than {_MAX_DEPTH} deep")
        if marker in _NUMBERS:
            return self._numbers(marker, 1)[0].item()
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker == b"S":
            return self._text(self.take(1))
        if marker == b"[":
            return self._array(depth)
        if marker == b"{":
            return self._object(depth)
        raise ValueError(f"{marker!r} at {self.position - 1} marks no value")

    def _array(self, depth: int) -> Any:
        marker = self.take(1)
        kind = None
        if marker == b"$":
            kind, marker = self.take(1), self.take(1)
            if marker != b"#":
                raise ValueError(f"an array with a type and no length at {self.position}")
        if marker == b"#":
            count = self._length(self.take(1))
            if kind in _NUMBERS:
                return self._numbers(kind, count)
            return [self.value(kind or self.take(1), depth + 1) for _ in range(count)]
        items = []
        while marker != b"]":
            items.append(self.value(marker, depth + 1))
            marker = self.take(1)
        return items

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (marker := self.take(1)) != b"}":
            name = self._text(marker)
            if name in found:
                raise ValueError(f"an object has {name[:50]!r} twice")
            found[name] = self.value(self.take(1), depth + 1)
        return found

    def _text(self, marker: bytes) -> str:
        return self.take(self._length(marker)).decode()

    def _length(self, marker: bytes) -> int:
        if marker not in _LENGTHS:
            raise ValueError(f"{marker!r} at {self.position - 1} marks no length")
        return int(self._numbers(marker, 1)[0])

    def _numbers(self, marker: bytes, count: int) -> Any:
        dtype = np.dtype(_NUMBERS[marker])
        return np.frombuffer(self.take(dtype.itemsize * count), dtype).astype(dtype.newbyteorder("="))
