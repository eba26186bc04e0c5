"""Questions against their schema: what is not one is refused, and the refusal says where and why."""

from __future__ import annotations

import datetime
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.errors import InvalidField, UriNotAllowed
from solver.execute import pack
from solver.queries import QUERY_TYPES, parse, replace_uris

ROWS = [{"x": 1}]


@pytest.mark.parametrize(
    ("query", "parameters", "field", "text"),
    [
        (None, None, "query_data", "not an object"),
        ([], None, "query_data", "not an object"),
        ({}, None, "query_data.type", "is missing"),
        ({"type": "sorcery"}, None, "query_data.type", "The types are: prediction"),
        ({"type": ["prediction"]}, None, "query_data.type", "no type of query"),
        ({"type": "prediction"}, None, "query_data.entities", "required"),
        ({"type": "prediction", "entities": []}, None, "query_data", "nothing to predict"),
        ({"type": "prediction", "entities": ""}, None, "query_data", "nothing to predict"),
        ({"type": "prediction", "entities": [[1, 2]]}, None, "query_data.entities.records.0", "dictionary"),
        ({"type": "prediction", "entities": 7}, None, "query_data.entities.records", "list"),
        ({"type": "prediction", "entities": [{"x": [1]}]}, None, "query_data.entities", "row 0, feature 'x': a list"),
        ({"type": "prediction", "entities": [{}, {"x": math.inf}]}, None, "query_data.entities", "row 1, feature 'x'"),
        ({"type": "prediction", "entities": ROWS, "model": ""}, None, "query_data.model", "at least 1 character"),
        ({"type": "prediction", "entities": ROWS, "modle": "m"}, None, "query_data.modle", "not permitted"),
        ({"type": "prediction", "entities": ROWS, "model": "m", "model_id": "i"}, None, "query_data", "one source"),
        (
            {"type": "prediction", "entities": ROWS, "model": "m", "training_data": ROWS},
            None,
            "query_data",
            "one source",
        ),
        ({"type": "prediction", "entities": ROWS, "model": "m", "target": "y"}, None, "query_data", "its own"),
        ({"type": "prediction", "entities": ROWS, "training_data": []}, None, "query_data", "nothing to learn from"),
        ({"type": "prediction", "entities": ROWS}, [], "parameters", "dictionary"),
        ({"type": "prediction", "entities": ROWS}, {"timeout": 0}, "parameters.timeout", "greater than 0"),
        ({"type": "prediction", "entities": ROWS}, {"timeout": math.inf}, "parameters.timeout", "finite"),
        ({"type": "prediction", "entities": ROWS}, {"priority": 10**9}, "parameters.priority", "less than or equal"),
        (
            {"type": "prediction", "entities": ROWS},
            {"validation_fraction": 1},
            "parameters.validation_fraction",
            "less",
        ),
        ({"type": "prediction", "entities": ROWS}, {"features": []}, "parameters.features", "at least 1"),
        ({"type": "prediction", "entities": ROWS}, {"model_tpye": "linear"}, "parameters.model_tpye", "not permitted"),
    ],
)
def test_what_is_no_question_is_refused(query: Any, parameters: Any, field: str, text: str) -> None:
    with pytest.raises(InvalidField) as refused:
        parse(query, parameters)
    assert refused.value.context["field"] == field
    assert text in str(refused.value)
    assert pickle.loads(pickle.dumps(refused.value)).context == refused.value.context


@pytest.mark.parametrize("kind", sorted(QUERY_TYPES))
def test_every_example_of_the_schema_is_a_question(kind: str) -> None:
    query_class, parameters_class = QUERY_TYPES[kind]
    examples = query_class.model_json_schema()["examples"]
    assert examples
    for example in examples:
        for parameters in [None, *parameters_class.model_json_schema()["examples"]]:
            query, options = parse(example, parameters)
            again = parse(**json.loads(json.dumps(pack(query, options))))
            assert again == (query, options)


def test_values_are_brought_to_what_json_holds_and_the_callers_rows_stay_as_they_are() -> None:
    rows = [
        {"a": np.float64(1.5), "b": np.int64(2), "c": np.bool_(True), "d": math.nan, "e": datetime.date(2013, 1, 5)}
    ]
    kept = dict(rows[0])
    query, _ = parse({"type": "prediction", "model": "m", "entities": rows, "training_data": None})
    assert query.entities == [{"a": 1.5, "b": 2, "c": True, "d": None, "e": "2013-01-05"}]
    assert [type(value) for value in query.entities[0].values()] == [float, int, bool, type(None), str]
    assert all(rows[0][key] is value for key, value in kept.items())


def test_the_seed_call_is_a_question() -> None:
    query, parameters = parse(
        {"type": "prediction", "entities": ROWS}, {"model_type": "xgboost", "distribute_data": True}
    )
    assert (query.entities, parameters.model_type, parameters.distribute_data) == (ROWS, "xgboost", True)


def test_each_uri_is_checked() -> None:
    seen: list[str] = []

    def check(uri: str) -> str:
        seen.append(uri)
        if "etc" in uri:
            raise UriNotAllowed(f"no: {uri}")
        return "checked:" + uri

    query, parameters = parse(
        {"type": "prediction", "entities": "e.csv", "training_data": "t.csv"}, {"output": "o.parquet"}
    )
    query, parameters = replace_uris(query, parameters, check)
    assert sorted(seen) == ["e.csv", "o.parquet", "t.csv"]
    assert (query.entities, query.training_data, parameters.output) == (
        "checked:e.csv",
        "checked:t.csv",
        "checked:o.parquet",
    )
    with pytest.raises(UriNotAllowed):
        replace_uris(*parse({"type": "prediction", "entities": "/etc/passwd"}), check)


VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_infinity=False) | st.text()


@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), min_size=1, max_size=5))
def test_a_question_survives_being_kept(rows: list[dict[str, Any]]) -> None:
    query, parameters = parse({"type": "prediction", "model": "m", "entities": rows})
    kept = json.dumps(pack(query, parameters), allow_nan=False)
    assert parse(**json.loads(kept)) == (query, parameters)


JSON = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
FIELDS = st.sampled_from(["type", "entities", "model", "model_id", "target", "training_data", "x"])


@given(st.dictionaries(FIELDS, JSON, max_size=5).map(lambda query: {"type": "prediction", **query}) | JSON, JSON)
def test_whatever_comes_is_a_question_or_refused(query: Any, parameters: Any) -> None:
    field = "query_data"
    try:
        assert parse(query, parameters)[0].type == "prediction"
    except InvalidField as refused:
        field = refused.context["field"]
    assert field.startswith(("query_data", "parameters"))
