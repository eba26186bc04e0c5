"""The search language: what it finds, what it refuses and where, and pages that stay what they are."""

from __future__ import annotations

import datetime
import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from compute.errors import InvalidField
from registry import ModelRecord
from registry.columns import Columns
from registry.fields import LACKING, holds, read_field, sort_key
from registry.models import ModelTable
from registry.query import Comparison, Group, Negation, Node, parse, parse_sort
from registry.records import Artifact
from registry.search import search

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)


def record(**fields: Any) -> ModelRecord:
    base: dict[str, Any] = {
        "model_id": "m-1",
        "name": "delays",
        "version": 3,
        "aliases": ("champion",),
        "model_type": "xgboost",
        "format": "xgboost-ubj",
        "artifact": Artifact(digest="sha256:" + "0" * 64, size=1000),
        "metadata": {"owner": "ops", "depth": 6, "deep": {"er": [1, 2]}, "flag": True, "none": None, "and": "x"},
        "tags": ("fraud", "équipe 7"),
        "metrics": {"rmse": 11.5, "precision@10": 0.9, "baseline": {"rmse": 17.0}},
        "created_at": NOW,
        "updated_at": NOW,
    }
    return ModelRecord(**{**base, **fields})


def fits(node: Node, record: ModelRecord) -> bool:
    """What the language means, one record at a time."""
    if isinstance(node, Negation):
        return not fits(node.item, record)
    if isinstance(node, Group):
        return (all if node.operator == "and" else any)(fits(item, record) for item in node.items)
    return holds(node.operator, node.value)(read_field(record, node.path))


def found(query: str) -> bool:
    """Whether a search finds the one record there is."""
    return bool(len(Columns({"m-1": record()}, {"m-1": 1}).select(parse(query))))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "  ",
        'model_type = "xgboost"',
        "model_type = 'xgboost' and metrics.rmse < 12",
        'tags contains "fraud"',
        'model_type = "x" or version = 3',
        'not tags contains "old"',
        "version >= 3 AND version <= 3",
        "created_at > 2026-01-01",
        "created_at = 2026-06-01T12:00:00Z",
        "created_at < 2026-06-01T15:00:00+02:00",
        "created_at >= 2026-06-01T12:00:00",
        'metrics."precision@10" = 0.9',
        "metrics.baseline.rmse > 1.69e1",
        "metrics.nothing = null",
        "metrics.nothing != 3",
        "not metrics.nothing < 3",
        "not metrics.nothing >= 3",
        'metadata.owner in ("dev", "ops")',
        "version in (1, 2, 3)",
        "metadata.flag = true",
        "metadata.flag != 1",
        "metadata.none = null",
        'name contains "lay"',
        'aliases contains "champion"',
        "artifact.size = 1000",
        'status = "active" and (version = 1 or (version = 3))',
        "signature.task = null",
        'metadata."and" = "x"',
        r'tags contains "\u00e9quipe 7"',
        "tags contains 'équipe 7'",
        "metadata.deep.er contains 2",
        'not (status = "archived" or not version = 3)',
        "not not version = 3",
        'version = 1 or version = 2 and name = "x" or version = 3',
        "metadata.depth > 5 and not metadata.owner > 5",
        "updated_at != 2025-01-01",
        'metadata.owner >= "o"',
        "version = 3.0",
    ],
)
def test_queries_that_fit(query: str) -> None:
    assert found(query)
    assert fits(parse(query), record())


@pytest.mark.parametrize(
    "query",
    [
        'model_type = "XGBOOST"',
        "metrics.rmse < 11.5",
        'tags contains "frau"',
        "version != 3",
        "metrics.nothing < 3",
        "metrics.nothing > 3",
        "metadata.flag = 1",
        "metadata.depth = true",
        'metadata.depth = "6"',
        'metadata.depth < "7"',
        "metadata.owner.x = 1",
        "created_at > 2026-06-01T12:00:00Z",
        'name contains "z"',
        "metadata.deep contains 1",
        "metadata.none < 1",
        "metrics.rmse contains 1",
        'version = 1 and name = "delays" or version = 2',
        "metadata.flag < 2",
        "metadata.deep.er = 1",
    ],
)
def test_queries_that_do_not(query: str) -> None:
    assert not found(query)
    assert not fits(parse(query), record())


@pytest.mark.parametrize(
    ("query", "position", "expected"),
    [
        ("version", 7, "=, !=,"),
        ("version =", 9, "a value"),
        ("version = and", 10, "a value"),
        ("= 3", 0, "a field"),
        ("verson = 3", 0, "one of the fields"),
        ("version = 3 version = 4", 12, '"and", "or"'),
        ("(version = 3", 12, '")"'),
        ("version = 3)", 11, '"and", "or"'),
        ("name = delays", 7, "text goes in quotes"),
        ('name = "delays', 7, "closing quote"),
        ("version = 3 and", 15, "a field"),
        ("version = 3 or or", 15, "a field"),
        ("not", 3, "a field"),
        ("version ~ 3", 8, "a field, an operator"),
        ('tags = "x"', 0, '"contains" after tags'),
        ("tags contains 3", 0, "text to compare"),
        ('version = "3"', 0, "a number to compare"),
        ("version = true", 0, "a number"),
        ("metadata.x < null", 0, "a number, a text or a date after <"),
        ("metadata.x >= true", 0, "a number, a text or a date after >="),
        ("created_at > 5", 0, "a date"),
        ("created_at > 2026-13-01", 13, "a date such as"),
        ("metrics < 3", 0, "a value in metrics"),
        ("name.x = 3", 5, "an operator"),
        ("metrics. = 3", 9, "the name of a value"),
        ("version in 3", 11, '"("'),
        ("version in (3", 13, '"," or ")"'),
        ("version in ()", 12, "a value"),
        (r'name = "\x"', 7, "escapes"),
        ("version like 3", 8, "=, !="),
        ("version == 3", 9, "a value"),
        ("__class__ = 3", 0, "one of the fields"),
        (";", 0, "a field"),
        ("model_type = 3", 0, "text"),
        ("é = 3", 0, "one of the fields"),
        ("version = 3 &", 12, "a field, an operator"),
        ("metadata.a.b. = 1", 14, "the name"),
        ("version contains 3, 4", 18, '"and"'),
    ],
)
def test_queries_that_are_wrong_say_where(query: str, position: int, expected: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse(query)
    assert caught.value.context["position"] == position, str(caught.value)
    assert expected in caught.value.context["expected"]
    assert f"position {position}" in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "(" * 1000 + "version = 3" + ")" * 1000,
        "not " * 900 + "version = 3",
        "x" * 4001,
        "version = " + "9" * 3990,
        5,
        None,
    ],
)
def test_queries_have_limits(query: Any) -> None:
    if isinstance(query, str) and query.startswith("version"):
        assert not found(query)
        return
    with pytest.raises(InvalidField):
        parse(query)


PIECES = [*"ven()=<>!.\"'\\ ,13", "version", " and ", " or ", "not ", "tags", "contains", "2026-01-01", "metrics."]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_text_is_read_or_refused(query: str) -> None:
    try:
        node = parse(query)
    except InvalidField as error:
        assert 0 <= error.context["position"] <= len(query)  # noqa: PT017  (either outcome is right)
        return
    assert found(query) == fits(node, record())


COMPARISONS = st.builds(
    Comparison,
    st.sampled_from([("version",), ("metrics", "rmse"), ("metadata", "owner"), ("metadata", "a b\"'\\.c")]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.integers(-100, 100) | st.floats(allow_nan=False, allow_infinity=False),
)
NODES = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(Negation, inner)
        | st.builds(Group, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


def write(node: Any) -> str:
    if isinstance(node, Negation):
        return f"not ({write(node.item)})"
    if isinstance(node, Group):
        return f"({f' {node.operator} '.join(write(item) for item in node.items)})"
    head, *rest = node.path
    return f"{'.'.join([head, *(json.dumps(part) for part in rest)])} {node.operator} {node.value!r}"


@given(NODES)
def test_what_is_written_is_read_back(node: Any) -> None:
    assert parse(write(node)) == node


def test_fields_to_sort_by() -> None:
    assert parse_sort("metrics.rmse") == (("metrics", "rmse"), False)
    assert parse_sort("-version") == (("version",), True)
    for bad in ("", "-", "x", "metrics", "metrics.", "metrics.rmse desc", "version, name", "--version", 3):
        with pytest.raises(InvalidField, match=r"^sort is ") as refused:
            parse_sort(bad)  # type: ignore[arg-type]
        assert refused.value.context["field"] == "sort"


@given(
    st.lists(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.datetimes(timezones=st.just(datetime.UTC))
        | st.lists(st.integers())
    )
)
def test_any_values_have_an_order(values: list[Any]) -> None:
    keys = [sort_key(value) for value in sorted(values, key=sort_key)]
    assert all(first <= second for first, second in itertools.pairwise(keys))


# The columns of a table against the language itself, one record at a time, whatever happened to the table before.

VALUES = st.sampled_from([None, True, False, 0, 1, 1.0, -2.5, 2**60, 2**60 + 1, 1e300, "x", "y", "", "xy", [1], ["x"]])
CONDITIONS = st.one_of(
    st.builds(
        Comparison,
        st.sampled_from([("metadata", "a"), ("metadata", "b"), ("metadata", "a", "b"), ("lineage", "a")]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "contains"]),
        VALUES.filter(lambda value: not isinstance(value, list)),
    ),
    st.builds(
        Comparison,
        st.just(("metadata", "a")),
        st.just("in"),
        st.lists(VALUES.filter(lambda value: not isinstance(value, list)), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        Comparison,
        st.sampled_from([("metrics", "rmse"), ("version",), ("revision",), ("metrics", "group", "rmse")]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.sampled_from([0, 1, 2, 1.5, -1, 10**30, -(10**400)]),
    ),
    st.builds(
        Comparison,
        st.sampled_from([("created_at",), ("updated_at",)]),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.integers(0, 6).map(lambda hours: NOW + datetime.timedelta(hours=hours)),
    ),
    st.builds(
        Comparison,
        st.sampled_from([("name",), ("model_type",), ("status",), ("model_id",)]),
        st.sampled_from(["=", "!=", "<", "contains"]),
        st.sampled_from(["a", "b", "active", "archived", "m-1", "t"]),
    ),
    st.builds(Comparison, st.sampled_from([("tags",), ("aliases",)]), st.just("contains"), st.sampled_from(["x", "y"])),
)
QUERIES = st.recursive(
    CONDITIONS,
    lambda inner: (
        st.builds(Negation, inner)
        | st.builds(Group, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=5,
)
SORTS = st.sampled_from(
    ["metrics.rmse", "-metrics.rmse", "metadata.a", "-metadata.a", "name", "-name", "-created_at", "updated_at", "tags"]
)


class Columned(RuleBasedStateMachine):
    """A table, whose columns are asked for at any time between its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ModelTable()
        self.count = 0

    def now(self) -> str:
        self.count += 1
        return (NOW + datetime.timedelta(minutes=30 * self.count)).isoformat()

    @rule(
        name=st.sampled_from(["a", "b"]),
        tags=st.sets(st.sampled_from(["x", "y"])),
        rmse=st.none() | st.sampled_from([0.0, 1.0, 1.5, 2.0]),
        a=VALUES,
    )
    def register(self, name: str, tags: set[str], rmse: float | None, a: Any) -> None:
        known = self.table.names.get(name)
        at = datetime.datetime.fromisoformat(self.now())
        metrics = {} if rmse is None else {"rmse": rmse, "group": {"rmse": rmse}}
        model = record(
            model_id=f"m-{self.count}", name=name, version=1 if known is None else known.newest + 1, aliases=(),
            tags=tuple(sorted(tags)), metrics=metrics, metadata={"a": a}, lineage={"a": a}, created_at=at,
            updated_at=at,
        )  # fmt: skip
        self.table.apply(
            {"kind": "registered", "record": model.model_dump(mode="json"), "key": None, "fingerprint": None}
        )

    def change(self, kind: str, model_id: str, **fields: Any) -> None:
        at = self.now()
        self.table.apply({"kind": kind, "model_id": model_id, "at": at, "change": at, **fields})

    @precondition(lambda self: self.table.records)
    @rule(data=st.data(), a=VALUES, tags=st.lists(st.sampled_from(["x", "y", "z"]), unique=True))
    def update(self, data: st.DataObject, a: Any, tags: list[str]) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.table.records)))
        self.change("updated", model_id, fields={"metadata": {"a": a, "b": a}, "tags": tags})

    @precondition(lambda self: self.table.records)
    @rule(data=st.data(), alias=st.sampled_from(["x", "y"]))
    def point(self, data: st.DataObject, alias: str) -> None:
        model = self.table.records[data.draw(st.sampled_from(sorted(self.table.records)))]
        self.change("aliased", model.model_id, name=model.name, alias=alias, version=model.version)

    @precondition(lambda self: self.table.records)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.change("deleted", data.draw(st.sampled_from(sorted(self.table.records))))

    @precondition(lambda self: self.table.deleted)
    @rule(data=st.data(), purge=st.booleans())
    def restore_or_purge(self, data: st.DataObject, purge: bool) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.table.deleted)))
        if purge:
            self.table.apply({"kind": "purged", "model_id": model_id, "key": None})
        else:
            self.change("restored", model_id)

    def expected(self, node: Node) -> list[ModelRecord]:
        """Those that fit, the one registered last first."""
        fitting = [model for model in self.table.records.values() if fits(node, model)]
        return sorted(fitting, key=lambda model: -self.table.order[model.model_id])

    @rule(node=QUERIES)
    def select(self, node: Node) -> None:
        columns = self.table.columns
        found = [columns.record(row) for row in columns.select(node).tolist()]
        assert found == self.expected(node)[::-1]

    @rule(node=QUERIES)
    def decide(self, node: Node) -> None:
        """A fork takes changes without those of the table being disturbed, and nothing that is asked for in it."""
        fork = self.table.fork()
        for model_id in list(fork.records)[:2]:
            fork.apply({"kind": "deleted", "model_id": model_id, "at": NOW.isoformat(), "change": "c"})
        self.select(node)

    @rule(sort=st.none() | SORTS, limit=st.integers(1, 3), status=st.sampled_from(["", 'name = "a"']))
    def page(self, sort: str | None, limit: int, status: str) -> None:
        ordered = self.expected(parse(status))
        if sort is not None:
            path, _ = parse_sort(sort)
            keyed = [(sort_key(read_field(model, path)), model) for model in ordered]
            present = [pair for pair in keyed if pair[0][0] != LACKING]
            present.sort(key=lambda pair: pair[0], reverse=sort.startswith("-"))
            ordered = [pair[1] for pair in present] + [pair[1] for pair in keyed if pair[0][0] == LACKING]
        found: list[ModelRecord] = []
        cursor = None
        while True:
            page = search(status, sort, limit, cursor)(self.table)
            found.extend(page.models)
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.models) == limit
        assert found == ordered

    @rule(
        writer=st.randoms(use_true_random=False), sort=st.sampled_from([None, "metrics.rmse", "-name", "-created_at"])
    )
    def page_while_writes_go_on(self, writer: random.Random, sort: str | None) -> None:
        """Models whose place in the order does not change are found once, in order, and none that fits is left out."""
        before, found, cursor = set(self.table.records), list[ModelRecord](), None
        while True:
            page = search("", sort, 2, cursor)(self.table)
            found.extend(page.models)
            cursor = page.next_cursor
            if cursor is None:
                break
            if self.count % 3 == 0:
                self.register(writer.choice("ab"), {"x"}, writer.choice([None, 0.0, 1.0, 2.0]), 1)
            elif self.table.records:
                model_id = writer.choice(sorted(self.table.records))
                if self.count % 3 == 1:
                    self.change("deleted", model_id)
                else:
                    self.change("updated", model_id, fields={"metadata": {"a": 2}})
        ids = [model.model_id for model in found]
        assert len(ids) == len(set(ids))
        assert before & set(self.table.records) <= set(ids)
        numbers = [self.table.order.get(model_id, 0) for model_id in ids]
        if sort in (None, "-created_at"):
            assert numbers == sorted(numbers, reverse=True)


Columned.TestCase.settings = settings(max_examples=300, stateful_step_count=20, deadline=None)
TestColumns = Columned.TestCase


def test_a_query_has_at_most_64_comparisons() -> None:
    assert parse(" or ".join(["version = 1"] * 64))
    with pytest.raises(InvalidField, match="no more than 64 comparisons"):
        parse(" or ".join(["version = 1"] * 65))


def test_columns_do_not_grow_with_values_that_were_replaced() -> None:
    model = record(metadata={"note": "0"})
    columns = Columns({"m-1": model}, {"m-1": 1})
    node = parse('metadata.note = "0"')
    assert len(columns.select(node)) == 1
    made = columns._columns["metadata", "note"]
    for number in range(1, 3_000):
        columns.put(record(metadata={"note": str(number)}), 1)
    assert columns._columns.get(("metadata", "note")) is not made
    for number in range(200):
        columns.select(parse(f"metadata.x{number} = 1"))
    assert len(columns._columns) <= 64


class Counted(dict[str, ModelRecord]):
    """Counts how often a record is looked at."""

    looks = 0

    def __getitem__(self, key: str) -> ModelRecord:
        self.looks += 1
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)


def test_a_search_looks_at_no_record_but_those_it_returns() -> None:
    table = ModelTable()
    table.records = records = Counted()
    table.columns = Columns(records, table.order)
    for number in range(2_000):
        model = record(model_id=f"m-{number}", name=f"n{number % 7}", metrics={"rmse": number / 100}, aliases=())
        table._add(model, number + 1)
    query = 'name = "n3" and metrics.rmse < 1.5 and metadata.owner = "ops" and not tags contains "x"'
    for sort in (None, "metrics.rmse", "-name"):
        first = search(query, sort, 10, None)(table)  # makes the columns
        records.looks = 0
        assert search(query, sort, 10, None)(table) == first
        assert records.looks == 10
        records.looks = 0
        rest = search(query, sort, 100, first.next_cursor)(table)
        assert len(rest.models) == 11
        assert records.looks == 11
