"""Finding models: pages of a table of models, for queries and for plain filters.

A page is answered from the columns of the table (`registry.columns`). A cursor is a place in the order of the results,
not a number of results to skip: what is registered, changed or deleted between two pages neither repeats nor hides any
other model. One whose own place in the order changes meanwhile (its ``metrics.rmse``, when sorted by that) is found
where it is when a page gets there: it may be on two pages, or on none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_args

import numpy as np

from compute.errors import InvalidField
from registry.columns import Columns, Rows
from registry.fields import LACKING, Path, read_field, sort_key
from registry.limits import check_tags
from registry.models import ModelTable
from registry.query import Comparison, Group, parse, parse_sort
from registry.records import ModelRecord, Status

MAX_PAGE = 1_000


class SearchPage(NamedTuple):
    """Some of the models that were found, and where the next ones begin."""

    models: list[ModelRecord]
    next_cursor: str | None


class _Place(NamedTuple):
    """The last model of a page: its key in the order, and when it was registered."""

    key: tuple[int, Any]
    order: int


def search(query: str, sort: str | None, limit: int, cursor: str | None) -> Callable[[ModelTable], SearchPage]:
    """Return what a search asks of a table; see `registry.ModelRegistry.search_models`."""
    node = parse(query)
    _check_limit(limit)
    question = hashlib.sha256(f"{sort}\n{query}".encode()).hexdigest()[:16]
    after = None if cursor is None else _read_cursor(cursor, question)
    path, descending = (None, False) if sort is None else parse_sort(sort)

    def page(table: ModelTable) -> SearchPage:
        columns = table.columns
        rows = columns.select(node)
        if path is None:
            found = _newest(columns, rows, limit + 1, None if after is None else after.order)
        else:
            found = _sorted(columns, rows, path, limit + 1, after, descending=descending)
        records = [columns.record(row) for row in found[:limit].tolist()]
        if len(found) <= limit:
            return SearchPage(records, None)
        last = records[-1]
        key = (0, 0) if path is None else sort_key(read_field(last, path))
        return SearchPage(records, _make_cursor(question, _Place(key, table.order[last.model_id])))

    return page


def listing(
    model_type: str | None,
    tags: Iterable[str] | None,
    status: str | None,
    name: str | None,
    limit: int | None,
    cursor: str | None,
) -> Callable[[ModelTable], list[ModelRecord]]:
    """Return what a list asks of a table; see `registry.ModelRegistry.list_models`."""
    if status is not None and status not in get_args(Status):
        raise InvalidField(
            f"status {status!r:.100} is not allowed",
            hint=f"It is one of {', '.join(get_args(Status))}.",
            context={"field": "status"},
        )
    if limit is not None:
        _check_limit(limit)
    equal = {"model_type": model_type, "status": status, "name": name}
    wanted = [Comparison((field,), "=", value) for field, value in equal.items() if value is not None]
    wanted += [Comparison(("tags",), "contains", tag) for tag in check_tags(tags if tags is not None else ())]

    def page(table: ModelTable) -> list[ModelRecord]:
        if cursor is not None and cursor not in table.order:
            raise _bad_cursor("It is the model_id of the last model of the page before.")
        before = None if cursor is None else table.order[cursor]
        rows = _newest(table.columns, table.columns.select(Group("and", tuple(wanted))), limit, before)
        return [table.columns.record(row) for row in rows.tolist()]

    return page


def _newest(columns: Columns, rows: Rows, limit: int | None, before: int | None) -> Rows:
    """Return the rows that were registered last, the last one first."""
    if before is not None:
        rows = rows[: np.searchsorted(columns.numbers(rows), before)]
    return rows[::-1][:limit]


def _sorted(columns: Columns, rows: Rows, path: Path, limit: int, after: _Place | None, *, descending: bool) -> Rows:
    """Return the first rows after a place; those that lack the field are last, equal ones the newest first."""
    keys, find = columns.keys(path)
    rows = rows[::-1]
    keys = -keys[rows] if descending else keys[rows]
    if after is not None:
        place = -find(after.key) if descending else find(after.key)
        older = columns.numbers(rows) < after.order
        if math.isnan(place):
            later = np.isnan(keys) & older
        else:
            later = (keys > place) | np.isnan(keys) | ((keys == place) & older)
        rows, keys = rows[later], keys[later]
    if len(rows) > limit:  # to sort 100,000 for a page of 100 would take most of the time
        edge = np.partition(keys, limit - 1)[limit - 1]
        before, at = (~np.isnan(keys), np.isnan(keys)) if math.isnan(edge) else (keys < edge, keys == edge)
        first = np.flatnonzero(before)
        chosen = np.concatenate([first, np.flatnonzero(at)[: limit - len(first)]])
        rows, keys = rows[chosen], keys[chosen]
    return rows[np.argsort(keys, kind="stable")]


def _check_limit(limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise InvalidField(
            f"limit {limit!r:.100} is not allowed", hint=f"It is 1 to {MAX_PAGE}.", context={"field": "limit"}
        )


def _make_cursor(question: str, place: _Place) -> str:
    return base64.urlsafe_b64encode(json.dumps([question, *place.key, place.order]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, question: str) -> _Place:
    rule = "It is the next_cursor of a page of this very query and sort."
    try:
        asked, rank, value, order = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        key = sort_key(value) if rank != 1 else (1, float(value))
        if asked == question and key[0] == (rank if rank != LACKING else 0) and isinstance(order, int):
            return _Place((rank, 0) if rank == LACKING else key, order)
    except (ValueError, TypeError) as error:
        raise _bad_cursor(rule) from error
    raise _bad_cursor(rule)


def _bad_cursor(rule: str) -> InvalidField:
    return InvalidField("the cursor is not one of ours", hint=rule, context={"field": "cursor"})
