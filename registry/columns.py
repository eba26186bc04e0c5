"""Records by the values of their fields: what a search looks at instead of 100,000 records one after another.

A comparison gives a mask of rows (`registry.column`); ``and``, ``or`` and ``not`` join masks. Columns are made when
they are first asked for, kept up to date by every change, and say exactly what `registry.fields.holds` says of each
record.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.column import Keys, ListColumn, Mask, ScalarColumn, fitting
from registry.fields import LISTS, TIMES, Path, read_field
from registry.query import Group, Negation, Node
from registry.records import ModelRecord

Rows = NDArray[np.intp]

_MAX_COLUMNS = 64


class Columns:
    """The columns of a table; a row is a record, in the order of registration.

    Parameters
    ----------
    records : mapping
        The records by their ids.
    order : mapping
        The ids of these and of deleted ones in the order of registration, with a number that grows.
    """

    def __init__(self, records: Mapping[str, ModelRecord], order: Mapping[str, int]) -> None:
        self._records = records
        self._order = order
        self._columns: OrderedDict[Path, ScalarColumn | ListColumn] = OrderedDict()
        self._ids: list[str] = []
        self._orders: NDArray[np.int64] = np.empty(0, np.int64)
        self._live: Mask = np.empty(0, np.bool_)

    def put(self, record: ModelRecord, order: int) -> None:
        """Take a record that is new, has changed, or is back."""
        if not self._ids:
            return  # nobody has asked yet
        row = self._row(order)
        if row == len(self._ids):
            self._ids.append(record.model_id)
            self._orders, self._live = fitting(self._orders, row), fitting(self._live, row)
            self._orders[row] = order
        self._live[row] = True
        for path, column in list(self._columns.items()):
            column.put(row, read_field(record, path))
            if column.wasted > 1_000 + len(self._ids):
                del self._columns[path]

    def drop(self, order: int) -> None:
        """Hide a record that was deleted."""
        if self._ids:
            self._live[self._row(order)] = False

    def forget(self) -> None:
        """Begin anew, for rows have gone for good."""
        self._columns.clear()
        self._ids.clear()

    def select(self, node: Node) -> Rows:
        """Return the rows of the records that fit, in the order of registration."""
        self._begin()
        return np.flatnonzero(self._mask(node) & self._live[: len(self._ids)])

    def numbers(self, rows: Rows) -> NDArray[np.int64]:
        """Return the numbers in the order of registration."""
        return self._orders[rows]

    def record(self, row: int) -> ModelRecord:
        """Return the record of a row."""
        return self._records[self._ids[row]]

    def keys(self, path: Path) -> tuple[Keys, Callable[[tuple[int, Any]], float]]:
        """Return a number for each row, in the order of `sort_key`, and a function from such a key to its number."""
        return self._column(path).keys(len(self._ids))

    def _begin(self) -> None:
        if not self._ids:
            self._columns.clear()
            self._ids = list(self._order)
            self._orders = np.fromiter(self._order.values(), np.int64, len(self._ids))
            self._live = np.fromiter((model_id in self._records for model_id in self._ids), np.bool_, len(self._ids))

    def _row(self, order: int) -> int:
        return int(np.searchsorted(self._orders[: len(self._ids)], order))

    def _mask(self, node: Node) -> Mask:
        if isinstance(node, Negation):
            return ~self._mask(node.item)
        if isinstance(node, Group):
            join = np.logical_and if node.operator == "and" else np.logical_or
            start = np.full(len(self._ids), node.operator == "and")
            for item in node.items:
                join(start, self._mask(item), out=start)
            return start
        return self._column(node.path).matches(node.operator, node.value, len(self._ids))

    def _column(self, path: Path) -> ScalarColumn | ListColumn:
        column = self._columns.get(path)
        if column is None:
            found = map(self._records.get, self._ids)
            values = [None if record is None else read_field(record, path) for record in found]
            column = ListColumn(values) if path[0] in LISTS else ScalarColumn(values, times=path[0] in TIMES)
            self._columns[path] = column
            if len(self._columns) > _MAX_COLUMNS:
                self._columns.popitem(last=False)
        self._columns.move_to_end(path)
        return column
