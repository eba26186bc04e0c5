"""Reads the values of JSON's fields, and says which one is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from solver.optimization.constraints.program import LARGEST
from solver.optimization.expressions import refuse


def whole(value: object, path: str) -> int:
    """Return a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > LARGEST:
        refuse(path, f"is {value!r:.80}, not a whole number within 2**52")
    if value != int(value):
        refuse(path, f"has {value!r:.80}, which is not whole", "Multiply all by what makes them whole.")
    return int(value)


def flag(value: object, path: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        refuse(path, f"is {value!r:.80}", "It is true or false.")
    return value


def items(value: object, path: str) -> Sequence[Any]:
    """Return a list."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        refuse(path, f"is {value!r:.80}, not a list")
    return value


def members(value: object, path: str, keys: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Return an object, which has no other keys than these."""
    if not isinstance(value, Mapping):
        refuse(path, f"is {value!r:.80}, not an object", f"It has {', '.join(keys)}." if keys else "")
    if keys is not None and (unknown := [key for key in value if key not in keys]):
        refuse(path, f"has the unknown key {str(unknown[0])[:80]!r}", f"It has {', '.join(keys)}.")
    return value


def all_members(value: object, path: str, keys: Sequence[str]) -> Mapping[str, Any]:
    """Return an object that has all of these keys."""
    given = members(value, path, keys)
    if missing := [key for key in keys if key not in given]:
        refuse(f"{path}.{missing[0]}", "is missing", f"It has {', '.join(keys)}.")
    return given
