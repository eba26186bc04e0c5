"""The body of a prediction request: records or columns, as JSON; no HTTP in here.

pandas is imported inside functions: it takes a second, and an application that only lists models does not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from compute.errors import BadRequest, ColumnMissing, InvalidField

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd

Rows = list[Any]
Columns = dict[str, list[Any]]


def read_json(body: bytes) -> Any:
    """Return what the body says, or raise `BadRequest`.

    Examples
    --------
    >>> read_json(b'{"rows": []}')
    {'rows': []}
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}", hint="Send a JSON body in UTF-8.") from None


def read_object(body: bytes) -> dict[str, Any]:
    """Return what the body says if it is a JSON object."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise InvalidField(f"the body is a JSON {_kind(value)}, not an object")
    return value


def read_rows(body: bytes) -> Rows | Columns:
    """Return the rows or the columns that a prediction is asked for.

    Examples
    --------
    >>> read_rows(b'{"rows": [{"distance": 1416, "carrier": "UA"}]}')
    [{'distance': 1416, 'carrier': 'UA'}]
    >>> read_rows(b'{"columns": {"distance": [1416, 1089]}}')
    {'distance': [1416, 1089]}
    """
    value = read_object(body)
    unknown = sorted(value.keys() - {"rows", "columns"})
    if unknown or len(value) != 1:
        raise InvalidField(
            f"the body has {', '.join(sorted(value)) or 'no keys'}",
            hint='Send {"rows": [{"feature": value, ...}, ...]} or {"columns": {"feature": [values], ...}}.',
            context={"field": unknown[0] if unknown else "rows"},
        )
    rows = value.get("rows")
    if rows is not None:
        if not isinstance(rows, list):
            raise InvalidField(f"rows is a JSON {_kind(rows)}, not a list of records", context={"field": "rows"})
        return rows
    columns = value.get("columns")
    if not isinstance(columns, dict):
        raise InvalidField(f"columns is a JSON {_kind(columns)}, not an object of lists", context={"field": "columns"})
    for name, values in columns.items():
        if not isinstance(values, list):
            raise InvalidField(
                f"column {name!r} is a JSON {_kind(values)}, not a list",
                context={"field": "columns", "feature": name},
            )
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidField("the columns are not of one length", context={"field": "columns", "lengths": lengths})
    return columns


def count(rows: Rows | Columns) -> int:
    """Return how many rows there are."""
    return len(rows) if isinstance(rows, list) else len(next(iter(rows.values()), []))


def frame_of(rows: Rows | Columns, features: Sequence[str]) -> pd.DataFrame:
    """Return the features of the rows as a table; what else a row has is left out.

    Raises
    ------
    ColumnMissing
        Naming the feature, and the row where it is missing: a value that is not there is sent as null, so a key that is
        not there is a mistake.
    """
    import pandas as pd

    if isinstance(rows, list):
        try:
            columns = {name: [row[name] for row in rows] for name in features}
        except (KeyError, TypeError, IndexError):
            raise _incomplete(rows, features) from None
    else:
        absent = [name for name in features if name not in rows]
        if absent:
            raise _missing(absent[0], None)
        columns = {name: rows[name] for name in features}
    return pd.DataFrame(columns)


def matrix_of(rows: Rows | Columns) -> np.ndarray:
    """Return rows that are lists of numbers as a matrix, for a model of which no feature names are known."""
    import numpy as np

    if isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(rows[0]) for row in rows):
        try:
            return np.asarray(rows, dtype="float64").reshape(len(rows), -1)
        except (TypeError, ValueError, OverflowError):
            pass  # said below, the same as for any other shape
    raise InvalidField(
        "this model knows no feature names, and the rows are not lists of numbers of one length",
        hint='Send {"rows": [[1.5, 2.0], ...]}, the features in the order of the training.',
        context={"field": "rows"},
    )


def _incomplete(rows: Rows, features: Sequence[str]) -> ColumnMissing | InvalidField:
    """Find the first row that is at fault: only looked for once it is known that there is one."""
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            return InvalidField(
                f"row {index} is a JSON {_kind(row)}, not an object of features",
                context={"field": "rows", "row": index},
            )
        for name in features:
            if name not in row:
                return _missing(name, index)
    return InvalidField("the rows cannot be read", context={"field": "rows"})


def _missing(feature: str, row: int | None) -> ColumnMissing:
    place = "the columns" if row is None else f"row {row}"
    context: dict[str, Any] = {"feature": feature} if row is None else {"feature": feature, "row": row}
    return ColumnMissing(
        f"{place} has no feature {feature!r}" if row is not None else f"{place} have no feature {feature!r}",
        hint="Send every feature of the model's signature; null where the value is not known.",
        context=context,
    )


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
