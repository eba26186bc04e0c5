"""Tables in a question: records, their values brought to what JSON can hold, or the URI of a file."""

from __future__ import annotations

import math
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag

_PLAIN = frozenset({str, int, float, bool, type(None)})


def _scalars(entities: list[dict[str, Any]] | str) -> list[dict[str, Any]] | str:
    """Bring every value to what JSON can hold: not-a-number to null, dates to ISO 8601, NumPy scalars to Python's."""
    if isinstance(entities, str):
        return entities
    for row, entity in enumerate(entities):
        for name, value in entity.items():
            if type(value) not in _PLAIN:
                entity[name] = _plain(value, row, name)
            elif type(value) is float and not math.isfinite(value):
                entity[name] = _finite(value, row, name)
    return entities


def _plain(value: Any, row: int, name: str) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if callable(getattr(value, "item", None)):
        return _plain(value.item(), row, name)
    if isinstance(value, float):
        return _finite(value, row, name)
    if type(value) in _PLAIN:
        return value
    raise ValueError(
        f"row {row}, feature {name!r}: a {type(value).__name__} is not a string, number, true, false or null"
    )


def _finite(value: float, row: int, name: str) -> float | None:
    if math.isinf(value):
        raise ValueError(f"row {row}, feature {name!r}: the number is infinite")
    return None if math.isnan(value) else float(value)


Table = Annotated[
    Annotated[list[dict[str, Any]], Tag("records")] | Annotated[str, Tag("uri")],
    Discriminator(lambda value: "uri" if isinstance(value, str) else "records"),
    AfterValidator(_scalars),
    Field(description="Records, one object a row; or the URI of a CSV or Parquet table."),
]
