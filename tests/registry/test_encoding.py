"""Raw rows to a matrix: rows and tables agree, whatever the columns are, and what is wrong is named."""

from __future__ import annotations

import datetime
import decimal
import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compute.errors import ColumnInvalid, ColumnMissing, InvalidField
from registry import Column, Signature, capture_signature, encode

DTYPES = {
    "int": Column(name="x", dtype="int"),
    "float": Column(name="x", dtype="float"),
    "bool": Column(name="x", dtype="bool"),
    "category": Column(name="x", dtype="category", categories=("1", "2.5", "UA", "true", "é")),
    "datetime": Column(name="x", dtype="datetime"),
}


def one(kind: str) -> Signature:
    return Signature(columns=(DTYPES[kind],))


def outcome(table: Any, signature: Signature, dtype: Any = "float64") -> Any:
    try:
        return encode(table, signature, dtype).tolist()
    except ColumnInvalid as error:
        return {key: error.context[key] for key in ("feature", "row")}


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["UA", "é", "1", "2.5", "true", "", "nan", "12", "2013-01-31", "2013-01-31T06:00:00+02:00", "1,5"]),
    st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)),
    st.dates(datetime.date(1900, 1, 1), datetime.date(2200, 1, 1)),
    st.decimals(-(10**6), 10**6, allow_nan=True, allow_infinity=False),
    st.lists(st.integers(), max_size=2),
    st.just({"a": 1}),
    st.just(pd.NA),
    st.just(np.float32(1.5)),
    st.just(np.int64(1)),
    st.just(np.bool_(True)),
    st.just(pd.Timestamp("2020-02-03 04:05:06", tz="UTC")),
    st.just(pd.NaT),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.lists(VALUES, max_size=6))
@example("category", [True, 1, 1.0])
@example("bool", [2])
@example("float", [float("inf")])
@example("int", [10**400])
@example("datetime", [0])
def test_rows_and_columns_of_objects_agree(kind: str, values: list[Any]) -> None:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    by_column = outcome(frame, one(kind))
    by_row = outcome([{"x": value} for value in values], one(kind))
    assert repr(by_column) == repr(by_row)  # as text, for NaN


N = 5
TIMES = pd.Series(
    pd.to_datetime(["2020-01-01", None, "1969-12-31T12:00", "2100-01-01", "2020-06-01T06:30"], format="ISO8601")
)
TYPED: dict[str, pd.Series[Any]] = {
    "int64": pd.Series([1, 0, -7, 2**40, 1]),
    "uint8": pd.Series([1, 0, 255, 1, 1], dtype="uint8"),
    "float64": pd.Series([1.0, np.nan, -0.5, 2.5, 1e10]),
    "float32": pd.Series([1.0, np.nan, -0.5, 2.5, 0.0], dtype="float32"),
    "bool": pd.Series([True, False, True, True, False]),
    "Int64": pd.Series([1, None, 3, 0, 1], dtype="Int64"),
    "Float64": pd.Series([1.5, None, 3, 0, 1], dtype="Float64"),
    "boolean": pd.Series([True, None, False, True, True], dtype="boolean"),
    "str": pd.Series(["UA", None, "AA", "1", ""], dtype="str"),
    "string": pd.Series(["UA", None, "AA", "1", "true"], dtype="string"),
    "category of text": pd.Series(pd.Categorical(["UA", None, "AA", "UA", "2.5"], ["UA", "2.5", "AA", "unused"])),
    "category of integers": pd.Series(pd.Categorical([1, None, 0, 1, 1])),
    "category of floats": pd.Series(pd.Categorical([1.0, 2.5, None, 1.0, 1.0])),
    "category of booleans": pd.Series(pd.Categorical([True, False, None, True, True])),
    "datetime64[ns]": TIMES.astype("datetime64[ns]"),
    "datetime64[s]": TIMES.astype("datetime64[s]"),
    "datetime64 with a zone": TIMES.dt.tz_localize("Europe/Berlin"),
    "arrow int": pd.Series([1, None, 3, 0, 1], dtype=pd.ArrowDtype(pa.int32())),
    "arrow bool": pd.Series([True, None, False, True, True], dtype=pd.ArrowDtype(pa.bool_())),
    "arrow text": pd.Series(["UA", None, "AA", "1", "true"], dtype=pd.ArrowDtype(pa.string())),
    "arrow time": TIMES.astype(pd.ArrowDtype(pa.timestamp("us"))),
    "arrow time with a zone": TIMES.dt.tz_localize("UTC").astype(pd.ArrowDtype(pa.timestamp("us", tz="UTC"))),
    "nothing but null": pd.Series([None] * N, dtype=object),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(DTYPES))
@pytest.mark.parametrize("stored", sorted(TYPED))
def test_every_dtype_of_pandas_reads_as_its_values_do(kind: str, stored: str) -> None:
    series = TYPED[stored]
    frame = pd.DataFrame({"other": range(N), "x": series})
    rows = [{"x": value} for value in series.tolist()]
    assert repr(outcome(frame, one(kind))) == repr(outcome(rows, one(kind)))


@pytest.mark.parametrize("stored", sorted(TYPED))
def test_an_arrow_table_reads_as_the_frame_does(stored: str) -> None:
    frame = pd.DataFrame({"x": TYPED[stored], "other": range(N)})
    signature = capture_signature(frame[["x"]])
    table = pa.Table.from_pandas(frame)
    np.testing.assert_array_equal(encode(table, signature, "float64"), encode(frame, signature, "float64"))


@pytest.mark.parametrize("stored", sorted(TYPED))
def test_what_was_captured_encodes_and_survives_json(stored: str) -> None:
    frame = pd.DataFrame({"x": TYPED[stored]})
    signature = capture_signature(frame)
    assert Signature.model_validate_json(signature.model_dump_json()) == signature
    matrix = encode(frame, signature, "float64")
    assert np.isnan(matrix[:, 0]).tolist() == TYPED[stored].isna().tolist()
    assert signature.columns[0].nullable == bool(TYPED[stored].isna().any())
    only_null = pd.DataFrame({"x": [None, None]})
    assert np.isnan(encode(only_null, signature)).all()


def test_the_values_themselves() -> None:
    frame = pd.DataFrame(
        {
            "i": [1, 2],
            "f": [0.5, np.nan],
            "b": [True, False],
            "c": ["UA", "AA"],
            "t": pd.to_datetime(["1970-01-02T12:00", "1969-12-31T00:00"]),
        }
    )
    signature = capture_signature(frame)
    assert [(c.name, c.dtype, c.nullable, c.categories) for c in signature.columns] == [
        ("i", "int", False, None), ("f", "float", True, None), ("b", "bool", False, None),
        ("c", "category", False, ("AA", "UA")), ("t", "datetime", False, None),
    ]  # fmt: skip
    expected = np.array([[1, 0.5, 1, 1, 1.5], [2, np.nan, 0, 0, -1]])
    for dtype in ("float32", "float64"):
        matrix = encode(frame, signature, dtype)
        assert matrix.dtype == dtype
        assert matrix.flags.c_contiguous
        np.testing.assert_array_equal(matrix, expected.astype(dtype))
    shuffled = frame.sample(frac=1, axis=1, random_state=3).assign(extra="ignored")
    np.testing.assert_array_equal(encode(shuffled, signature, "float64"), expected)
    assert encode(frame.iloc[:0], signature).shape == (0, 5)
    assert encode([], signature).shape == (0, 5)


def test_categories_keep_the_order_of_their_dtype() -> None:
    """The codes of pandas are what a model was fitted on that was given such a column."""
    series = pd.Series(pd.Categorical(["low", "high"], categories=["low", "mid", "high"]))
    signature = capture_signature(pd.DataFrame({"x": series}))
    assert signature.columns[0].categories == ("low", "mid", "high")
    assert encode([{"x": "high"}, {"x": "unheard of"}], signature)[:, 0].tolist()[0] == 2


@pytest.mark.parametrize(
    ("kind", "value", "needed"),
    [
        ("int", "12", "a number"), ("float", "abc", "a number"), ("float", [1], "a number"), ("float", {}, "a number"),
        ("float", math.inf, "finite float32"), ("float", 1e300, "finite float32"), ("int", 10**400, "a number"),
        ("float", datetime.date(2020, 1, 1), "a number"), ("bool", 2, "true, false"), ("bool", "true", "0 or 1"),
        ("category", [1], "text, a number or a boolean"), ("category", math.inf, "text, a number"),
        ("datetime", 0, "a date or time"), ("datetime", "yesterday", "a date or time"), ("datetime", True, "a date"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_in_rows_and_in_columns(kind: str, value: Any, needed: str) -> None:
    good: Any = {"int": 1, "float": 1.0, "bool": True, "category": "UA", "datetime": "2020-01-01"}[kind]
    values = [good, None, value, value]
    for table in ([{"x": v} for v in values], pd.DataFrame({"x": pd.Series(values, dtype=object)})):
        with pytest.raises(ColumnInvalid, match=r"the feature 'x' has the value .* in row 2, where ") as caught:
            encode(table, one(kind))
        assert needed in str(caught.value)
        assert caught.value.context["feature"] == "x"
        assert caught.value.context["row"] == 2
        assert isinstance(caught.value.context["value"], str | int)


def test_a_missing_feature_is_named() -> None:
    signature = capture_signature(pd.DataFrame({"a": [1], "b": [2]}))
    for table in (
        pd.DataFrame({"a": [1], "c": [1]}),
        pa.table({"a": [1], "c": [1]}),
        [{"a": 1, "b": 2}, {"a": 1, "c": 1}],
    ):
        with pytest.raises(ColumnMissing, match="'b' is not in") as caught:
            encode(table, signature)
        assert caught.value.context["feature"] == "b"
        assert "'c'" in str(caught.value)


def test_tables_that_are_none() -> None:
    signature = one("int")
    for table in ("text", {"x": [1]}, 5, None):
        with pytest.raises(ColumnInvalid, match="cannot be read from"):
            encode(table, signature)  # type: ignore[arg-type]
    with pytest.raises(ColumnInvalid, match="row 1 is 5, not an object"):
        encode([{"x": 1}, 5], signature)  # type: ignore[list-item]
    with pytest.raises(ColumnInvalid, match="two columns named 'x'"):
        encode(pd.DataFrame([[1, 2]], columns=["x", "x"]), signature)
    with pytest.raises(InvalidField, match="float16"):
        encode([], signature, "float16")  # type: ignore[arg-type]
    repeated_elsewhere = pd.DataFrame([[1, 2, 3]], columns=["y", "y", "x"])
    assert encode(repeated_elsewhere, signature).tolist() == [[3.0]]


def test_names_that_are_no_text() -> None:
    frame = pd.DataFrame(np.arange(4).reshape(2, 2))
    signature = capture_signature(frame)
    assert signature.feature_names == ("0", "1")
    assert encode(frame, signature).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (pd.Series([1, "a", 2.5], dtype=object), "row 1 has 'a' of the type str"),
        (pd.Series([[1], [2]]), "of the type list"),
        (pd.Series(pd.to_timedelta([1, 2], unit="s")), "timedelta"),
        (pd.Series([1j, 2j]), "complex"),
        (pd.Series(pd.period_range("2020", periods=2)), "period"),
        (pd.Series([f"id{number}" for number in range(10_001)]), "10,001 distinct values"),
        (pd.cut(pd.Series([1, 2, 3]), 2), "not text, a number"),
        (pd.Series(pd.Categorical([1, "1"], categories=[1, "1"])), "two categories of the same text"),
    ],
)
def test_columns_no_model_can_take(series: pd.Series[Any], reason: str) -> None:
    with pytest.raises(ColumnInvalid, match=reason) as caught:
        capture_signature(pd.DataFrame({"x": series}))
    assert caught.value.context["feature"] == "x"


@pytest.mark.parametrize(
    ("values", "named", "task", "classes"),
    [
        ([0.5, 1.5, 0.5], None, "regression", None),
        ([0, 1, 1], None, "binary", (0, 1)),
        ([3, 1, 2], None, "multiclass", (1, 2, 3)),
        (list(range(11)), None, "regression", None),
        (list(range(11)), "multiclass", "multiclass", tuple(range(11))),
        ([0, 1, 1], "regression", "regression", None),
        (["b", "a", None], None, "binary", ("a", "b")),
        ([True, False], None, "binary", (False, True)),
        (pd.Categorical(["x", "y", "z"]), None, "multiclass", ("x", "y", "z")),
        ([0.0, 1.0, np.nan], "binary", "binary", (0, 1)),
        (None, None, "regression", None),
    ],
)
def test_the_task_and_the_classes(values: Any, named: Any, task: str, classes: Any) -> None:
    signature = capture_signature(pd.DataFrame({"x": [1, 2]}), "y", values, named)
    assert (signature.task, signature.classes, signature.target) == (task, classes, "y")
    again = Signature.model_validate_json(signature.model_dump_json())
    assert again == signature
    assert [type(label) for label in again.classes or ()] == [type(label) for label in classes or ()]


@pytest.mark.parametrize(
    ("values", "named", "reason"),
    [
        ([1, 1], "binary", "1 distinct labels"),
        (["a", "b", "c"], "binary", "3 distinct labels"),
        ([1, "a"], None, "several or of unknown types"),
        ([f"{number}" for number in range(1001)], None, "1,001 distinct labels"),
    ],
)
def test_targets_that_cannot_be_classified(values: Any, named: Any, reason: str) -> None:
    with pytest.raises(ColumnInvalid, match=reason):
        capture_signature(pd.DataFrame({"x": [1, 2]}), "y", values, named)


def test_the_target_is_no_feature() -> None:
    frame = pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})
    signature = capture_signature(frame, "y")
    assert (signature.feature_names, signature.classes) == (("x",), ("a", "b"))
    with pytest.raises(ColumnMissing, match="no feature columns"):
        capture_signature(frame[["y"]], "y")
    with pytest.raises(ColumnMissing, match="needs the target's values"):
        capture_signature(frame[["x"]], "y", task="binary")


def test_decimals_and_days_are_numbers_and_times() -> None:
    frame = pd.DataFrame({"d": [decimal.Decimal("1.5"), None], "day": [datetime.date(1970, 1, 3), None]})
    signature = capture_signature(frame)
    assert [column.dtype for column in signature.columns] == ["float", "datetime"]
    assert encode(frame, signature)[0].tolist() == [1.5, 2.0]


def test_fast_for_one_row_and_for_many() -> None:
    """Generous bounds: a machine that is busy must not fail the test, a path that is slow by its nature must."""
    count = 200_000
    source = np.random.default_rng(0)
    frame = pd.DataFrame({f"n{number}": source.random(count) for number in range(8)})
    frame["c"] = source.choice(["AA", "DL", "UA"], count)
    frame["t"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(source.integers(0, 10**6, count), unit="s")
    signature = capture_signature(frame)
    row = [{**{f"n{number}": 0.5 for number in range(8)}, "c": "UA", "t": "2020-01-01T06:00:00"}]
    encode(row, signature)
    best_row = min(_seconds(lambda: encode(row, signature)) for _ in range(200))
    best_frame = min(_seconds(lambda: encode(frame, signature)) for _ in range(3))
    assert best_row < 150e-6
    assert best_frame < 0.5


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
