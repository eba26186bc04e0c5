"""The search language: what it finds, what it refuses and where, and pages that stay what they are."""

from __future__ import annotations

import datetime
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.errors import InvalidField
from registry import ModelRecord
from registry.columns import Columns
from registry.fields import holds, read_field, sort_key
from registry.query import Comparison, Group, Negation, Node, parse, parse_field
from registry.records import Artifact

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
    assert parse_field("metrics.rmse") == ("metrics", "rmse")
    for bad in ("", "x", "metrics.", "metrics.rmse desc", "version, name", "-version"):
        with pytest.raises(InvalidField):
            parse_field(bad)


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
