"""The values of one field of all records: as numbers, or as codes of the values that occur.

A comparison is made once for each value that occurs, or with all numbers at once.
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.fields import LACKING, ORDERINGS, holds, sort_key

Mask = NDArray[np.bool_]
Keys = NDArray[np.float64]

_EXACT = 2**53
"""Whole numbers up to here are themselves as floats."""


class ScalarColumn:
    """The values of a field: numbers as such, all others by a code.

    Parameters
    ----------
    values : sequence
        One for each row.
    times : bool
        Whether they are times, which are held as their seconds.

    Examples
    --------
    >>> column = ScalarColumn([3, None, "x", True, 4.5], times=False)
    >>> column.matches("<", 4, 5).tolist()
    [True, False, False, False, False]
    >>> column.matches("!=", "x", 5).tolist()
    [True, True, False, True, True]
    """

    def __init__(self, values: Sequence[Any], *, times: bool) -> None:
        self._times = times
        self._values: list[Any] = [None]
        """By code; 0 stands for a number."""
        self._codes_of: dict[Hashable, int] = {}
        encoded = [self._encode(value) for value in values]
        self._codes = np.array([code for code, _ in encoded], np.int32)
        self._numbers = np.array([number for _, number in encoded], np.float64)
        self._first_values = len(self._values)
        self._sorted: tuple[int, list[tuple[int, Any]], Keys] | None = None

    @property
    def wasted(self) -> int:
        """How many values came since it was made; the ones they replaced are still held."""
        return len(self._values) - self._first_values

    def put(self, row: int, value: Any) -> None:
        """Set the value of a row, at most the one after the last."""
        self._codes, self._numbers = fitting(self._codes, row), fitting(self._numbers, row)
        self._codes[row], self._numbers[row] = self._encode(value)

    def matches(self, operator: str, value: Any, count: int) -> Mask:
        """Return for each row whether the comparison holds."""
        if operator in ("=", "!=", "in"):
            equal = self._among(value if operator == "in" else (value,), count)
            return ~equal if operator == "!=" else equal
        test = holds(operator, value)
        fitting = np.fromiter(map(test, self._values), np.bool_, len(self._values))
        fitting[0] = False
        mask: Mask = fitting[self._codes[:count]]
        if operator in ORDERINGS and (bound := self._bound(value)) is not None:
            mask |= ORDERINGS[operator](self._numbers[:count], bound)
        return mask

    def keys(self, count: int) -> tuple[Keys, Callable[[tuple[int, Any]], float]]:
        """See `Columns.keys`; what has no order is NaN."""
        codes, numbers = self._codes[:count], self._numbers[:count]
        known, places = self._order()
        if not known:
            return numbers, lambda key: math.nan if key[0] == LACKING else float(key[1])
        rank = 1 if self._times else 0
        own = np.unique(numbers[codes == 0])
        if len(own):
            known = sorted({*known, *((rank, number) for number in own.tolist())})
            place = {key: number for number, key in enumerate(known)}
            places = np.array([place.get(sort_key(value), math.nan) for value in self._values])
        keys: Keys = places[codes]
        if len(own):
            of_own = np.array([place[rank, number] for number in own.tolist()], np.float64)
            keys[codes == 0] = of_own[np.searchsorted(own, numbers[codes == 0])]

        def find(key: tuple[int, Any]) -> float:
            if key[0] == LACKING:
                return math.nan
            at = bisect_left(known, key)
            return float(at) if at < len(known) and known[at] == key else at - 0.5

        return keys, find

    def _order(self) -> tuple[list[tuple[int, Any]], Keys]:
        """Return the keys of the values with a code in order, and the place of each code in it."""
        if self._sorted is None or self._sorted[0] != len(self._values):
            keyed = [sort_key(value) for value in self._values]
            known = sorted({key for key in keyed if key[0] != LACKING})
            place = {key: float(number) for number, key in enumerate(known)}
            places = np.array([place.get(key, math.nan) for key in keyed])
            self._sorted = (len(self._values), known, places)
        return self._sorted[1:]

    def _among(self, values: Sequence[Any], count: int) -> Mask:
        numbers = [number for value in values if (number := self._number(value)) is not None]
        fitting = np.zeros(len(self._values), np.bool_)
        fitting[[code for value in values if (code := self._codes_of.get(_key(value))) is not None]] = True
        mask: Mask = fitting[self._codes[:count]]
        if numbers:
            mask |= np.isin(self._numbers[:count], numbers)
        return mask

    def _encode(self, value: Any) -> tuple[int, float]:
        number = self._number(value)
        if number is not None:
            return 0, number
        key = _key(value)
        code = self._codes_of.get(key)
        if code is None:
            code = self._codes_of[key] = len(self._values)
            self._values.append(value)
        return code, math.nan

    def _number(self, value: Any) -> float | None:
        if self._times:
            return value.timestamp() if isinstance(value, datetime) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not -_EXACT <= value <= _EXACT:
            return None
        return float(value)

    def _bound(self, value: Any) -> float | None:
        number = self._number(value)
        if number is not None or self._times or isinstance(value, bool) or not isinstance(value, int | float):
            return number
        return math.inf if value > 0 else -math.inf  # beyond all numbers that are held as such


class ListColumn:
    """The lists of a field: for each element the rows that hold it.

    Examples
    --------
    >>> column = ListColumn([("a", "b"), ("b",), ()])
    >>> column.put(2, ("a",))
    >>> column.matches("contains", "a", 3).tolist()
    [True, False, True]
    """

    wasted = 0

    def __init__(self, values: Sequence[Sequence[str] | None]) -> None:
        self._rows: dict[str, array[int]] = {}
        self._held: list[Sequence[str]] = []
        for row, value in enumerate(values):
            self.put(row, value or ())

    def put(self, row: int, value: Sequence[str]) -> None:
        """Set the list of a row, at most the one after the last."""
        if row == len(self._held):
            self._held.append(())
        for item in set(self._held[row]).difference(value):
            rows = self._rows[item]
            del rows[bisect_left(rows, row)]
            if not rows:
                del self._rows[item]
        for item in set(value).difference(self._held[row]):
            rows = self._rows.setdefault(item, array("q"))
            if rows and rows[-1] > row:
                insort(rows, row)
            else:
                rows.append(row)
        self._held[row] = value

    def matches(self, operator: str, value: Any, count: int) -> Mask:  # noqa: ARG002  (the only one there is)
        """Return for each row whether its list contains the value: no other operator takes lists."""
        mask = np.zeros(count, np.bool_)
        mask[np.array(self._rows.get(value, ()), np.intp)] = True
        return mask

    def keys(self, count: int) -> tuple[Keys, Callable[[tuple[int, Any]], float]]:
        """See `Columns.keys`: lists have no order."""
        return np.full(count, math.nan), lambda _: math.nan


def fitting(values: NDArray[Any], row: int) -> NDArray[Any]:
    """Return the array, or one of twice the length when it has no such row yet."""
    return values if row < len(values) else np.concatenate([values, np.zeros(len(values) + 16, values.dtype)])


def _key(value: Any) -> Hashable:
    """Return what stands for a value among others: equal for those that a query takes for equal."""
    if isinstance(value, bool):
        return bool, value
    try:
        hash(value)
    except TypeError:
        return list, json.dumps(value, sort_keys=True, default=str)
    return value  # type: ignore[no-any-return]
