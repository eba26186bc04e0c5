"""One value of a table, as JSON, Python, NumPy or pandas spell it: how it is read as a number, a text or a time.

The rules, for rows and for columns alike:

- Missing: ``None``, ``NaN``, ``pandas.NA`` and ``NaT``. In the matrix it is NaN.
- ``int`` and ``float`` columns take any finite number and booleans (0 and 1). Text is refused, even ``"12"``: whether
  ``"1,5"`` is a number is not ours to guess.
- ``bool`` columns take booleans and the numbers 0 and 1.
- ``category`` columns take text, and numbers, booleans and times by their text: ``1`` and ``1.0`` are ``"1"``, ``True``
  is ``"true"``.
- ``datetime`` columns take dates, times and ISO 8601 text; without a zone they are in UTC. Numbers are refused: they do
  not say whether they are seconds.
"""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

DAY = 86_400.0
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

NUMBER = "a number"
FLAG = "true, false, 0 or 1"
TEXT = "text, a number or a boolean"
TIME = "a date or time, such as 2013-01-31 or 2013-01-31T06:00:00Z"


class BadValue(ValueError):
    """The value is not what the column takes; says what it takes. Never leaves the package: it has no row yet."""


def plain(value: Any) -> Any:
    """Return the Python value of a NumPy or pandas scalar; any other as it is.

    Examples
    --------
    >>> import numpy as np
    >>> type(plain(np.int64(3))).__name__
    'int'
    """
    module = type(value).__module__
    if module == "numpy" and hasattr(value, "item") and getattr(value, "shape", None) == ():
        item = value.item()
        # Nanoseconds do not fit into datetime, and come out as a number.
        return _pandas().Timestamp(value) if type(value).__name__ == "datetime64" and isinstance(item, int) else item
    return value


def is_missing(value: Any) -> bool:
    """Whether this stands for no value.

    Examples
    --------
    >>> is_missing(None), is_missing(float("nan")), is_missing(0), is_missing("")
    (True, True, False, False)
    """
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    name = type(value).__name__  # spares the import of pandas where none is in use
    return name in ("NAType", "NaTType") or (name == "datetime64" and str(value) == "NaT")


def as_number(value: Any) -> float:
    """Read a value of a numeric column."""
    if isinstance(value, int | float | decimal.Decimal):  # bool is an int
        try:
            return float(value)
        except OverflowError:
            pass  # an int beyond every float: refused like any other bad value
    raise BadValue(NUMBER)


def as_flag(value: Any) -> float:
    """Read a value of a boolean column."""
    if isinstance(value, int | float) and value in (0, 1):
        return float(value)
    raise BadValue(FLAG)


def as_category(value: Any) -> str:
    """Read a value of a category column as the text it is compared by.

    Examples
    --------
    >>> as_category("UA"), as_category(1), as_category(1.0), as_category(2.5), as_category(True)
    ('UA', '1', '1', '2.5', 'true')
    """
    if isinstance(value, str):
        return value if type(value) is str else str.__str__(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | decimal.Decimal) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    raise BadValue(TEXT)


def as_days(value: Any) -> float:
    """Read a value of a time column as days since 1970, UTC.

    Examples
    --------
    >>> as_days("1970-01-02T12:00:00Z"), as_days("1970-01-02T14:00:00+02:00"), as_days("1970-01-02")
    (1.5, 1.5, 1.0)
    """
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise BadValue(TIME) from None
    elif isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime.combine(value, datetime.time())
    if not isinstance(value, datetime.datetime):
        raise BadValue(TIME)
    moment = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH).total_seconds() / DAY


def _pandas() -> Any:
    import pandas as pd

    return pd
