"""The body of a prediction request: records or columns, as JSON; no HTTP in here.

Rows stay plain dicts: that is what a model reads fastest when they are few, and bodies are too small for many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from compute.errors import BadRequest, InvalidField

Rows = list[Any]


def read_json(body: bytes, what: str = "the body", field: str | None = None) -> Any:
    """Return what the body, or a field that holds JSON, says; or raise `BadRequest`.

    Examples
    --------
    >>> read_json(b'{"rows": []}')
    {'rows': []}
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        context = {} if field is None else {"field": field}
        raise BadRequest(f"{what} is not JSON: {error}", hint="Send JSON in UTF-8.", context=context) from None


def read_object(body: bytes) -> dict[str, Any]:
    """Return what the body says if it is a JSON object."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise InvalidField(f"the body is a JSON {_kind(value)}, not an object")
    return value


def read_rows(body: bytes) -> Rows:
    """Return the rows that a prediction is asked for.

    Examples
    --------
    >>> read_rows(b'{"rows": [{"distance": 1416, "carrier": "UA"}]}')
    [{'distance': 1416, 'carrier': 'UA'}]
    >>> read_rows(b'{"columns": {"distance": [1416, 1089]}}')
    [{'distance': 1416}, {'distance': 1089}]
    """
    value = read_object(body)
    if value.keys() == {"rows"}:
        rows = value["rows"]
        if not isinstance(rows, list):
            raise InvalidField(f"rows is a JSON {_kind(rows)}, not a list of records", context={"field": "rows"})
        return rows
    if value.keys() == {"columns"}:
        return _transpose(value["columns"])
    raise InvalidField(
        f"the body has {', '.join(repr(key[:80]) for key in list(value)[:10]) or 'no keys'}",
        hint='Send {"rows": [{"feature": value, ...}, ...]} or {"columns": {"feature": [values], ...}}.',
        context={"field": next((key[:80] for key in value if key not in ("rows", "columns")), "rows")},
    )


def matrix_of(rows: Rows) -> NDArray[np.float64]:
    """Return rows that are lists of numbers as a matrix, for a model of which no feature names are known.

    Examples
    --------
    >>> matrix_of([[1, 2.5], [3, 4]])
    array([[1. , 2.5],
           [3. , 4. ]])
    """
    try:
        if all(isinstance(row, list) for row in rows):
            matrix = np.array(rows, dtype="float64")
            if matrix.ndim == 2 and matrix.size and np.isfinite(matrix).all():
                return matrix
    except (TypeError, ValueError, OverflowError):
        pass  # said below, the same as for any other shape
    raise InvalidField(
        "this model knows no feature names, and the rows are not lists of numbers of one length",
        hint='Send {"rows": [[1.5, 2.0], ...]}, the features in the order of the training.',
        context={"field": "rows"},
    )


def _transpose(columns: object) -> Rows:
    if not isinstance(columns, dict):
        raise InvalidField(f"columns is a JSON {_kind(columns)}, not an object of lists", context={"field": "columns"})
    for name, values in columns.items():
        if not isinstance(values, list):
            raise InvalidField(
                f"column {name[:80]!r} is a JSON {_kind(values)}, not a list",
                context={"field": "columns", "feature": name[:80]},
            )
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise InvalidField(
            f"the columns are not of one length but of {', '.join(map(str, sorted(lengths)[:10]))}",
            context={"field": "columns"},
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
