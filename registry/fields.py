"""The fields of a record that can be asked for, and what comparing their values means."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from operator import ge, gt, le, lt
from typing import Any

from pydantic import BaseModel

from registry.records import ModelRecord

Path = tuple[str, ...]
"""A field, and names of values within it: ``("metrics", "rmse")``."""

TEXTS = ("model_id", "name", "model_type", "format", "status")
NUMBERS = ("version", "revision")
TIMES = ("created_at", "updated_at")
LISTS = ("tags", "aliases")
OBJECTS = ("metadata", "metrics", "lineage", "artifact", "signature")
FIELDS = (*TEXTS, *NUMBERS, *TIMES, *LISTS, *OBJECTS)

LACKING = 3
"""The rank that `sort_key` gives to a value that is not there or has no order."""

ORDERINGS: dict[str, Callable[[Any, Any], Any]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


def read_field(record: ModelRecord, path: Path) -> Any:
    """Return the value at a path, None when the record has none."""
    value: Any = getattr(record, path[0])
    for name in path[1:]:
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, BaseModel):
            value = getattr(value, name, None) if name in type(value).model_fields else None
        else:
            return None
    return value


def holds(operator: str, value: Any) -> Callable[[Any], bool]:
    """Return a function that tells whether a comparison with the value holds.

    Examples
    --------
    >>> holds("in", (1, 2))(2.0), holds("<", 3)("2"), holds("=", 1)(True), holds("!=", 1)(None)
    (True, False, False, True)
    """
    if operator == "=":
        return lambda found: _equal(found, value)
    if operator == "!=":
        return lambda found: not _equal(found, value)
    if operator == "in":
        return lambda found: any(_equal(found, item) for item in value)
    if operator == "contains":
        return lambda found: (
            any(_equal(item, value) for item in found)
            if isinstance(found, list | tuple)
            else isinstance(found, str) and isinstance(value, str) and value in found
        )
    compare, kind = ORDERINGS[operator], _kind(value)
    return lambda found: kind is not None and _kind(found) == kind and compare(found, value)


def sort_key(value: Any) -> tuple[int, Any]:
    """Return what values of any kinds are ordered by: numbers, then times, then text; the rest last.

    Examples
    --------
    >>> sorted(["b", None, 2, 1.5, True], key=sort_key)
    [True, 1.5, 2, 'b', None]
    """
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, datetime):
        return 1, value.timestamp()
    if isinstance(value, str):
        return 2, value
    return LACKING, 0


def _kind(value: Any) -> str | None:
    if isinstance(value, bool) or value is None:
        return None  # they have no order
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def _equal(found: Any, value: Any) -> bool:
    if isinstance(found, bool) or isinstance(value, bool):
        return found is value
    return bool(found == value)
