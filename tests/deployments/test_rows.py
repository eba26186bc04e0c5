"""The body of a prediction request."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.errors import BadRequest, InvalidField
from deployments.rows import matrix_of, read_rows

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"rows": [}',
        b"\xff\xfe",
        b'{"rows": [{"x": NaN}]}',
        b'{"rows": [{"x": Infinity}]}',
        b'{"rows": "\\ud800"}',
        b"[" * 100_000,
        b'{"rows": []} x',
    ],
)
def test_what_is_not_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_rows(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"1",
        b"{}",
        b'{"row": []}',
        b'{"rows": [], "columns": {}}',
        b'{"rows": [], "proba": true}',
        b'{"rows": {}}',
        b'{"rows": null}',
        b'{"rows": "x"}',
        b'{"columns": []}',
        b'{"columns": {"x": 1}}',
        b'{"columns": {"x": [1], "y": [1, 2]}}',
    ],
)
def test_json_of_another_shape_is_an_invalid_field(body: bytes) -> None:
    with pytest.raises(InvalidField):
        read_rows(body)


@settings(deadline=None)  # the machine that tests may be busy
@given(st.lists(st.fixed_dictionaries({"x": VALUES, "é y": VALUES}), max_size=5))
def test_rows_and_columns_say_the_same(rows: list[dict[str, object]]) -> None:
    columns = {name: [row[name] for row in rows] for name in ("x", "é y")}
    assert read_rows(json.dumps({"rows": rows}).encode()) == rows
    assert read_rows(json.dumps({"columns": columns}).encode()) == rows


def test_no_rows_are_no_mistake() -> None:
    for body in (b'{"rows": []}', b'{"columns": {}}', b'{"columns": {"x": [], "y": []}}'):
        assert read_rows(body) == []


def test_a_matrix_is_taken_where_no_names_are_known() -> None:
    assert np.array_equal(matrix_of([[1, 2], [3, 4.5]]), np.array([[1, 2], [3, 4.5]]))
    for rows in ([[1], [1, 2]], [{"x": 1}], ["12"], [["a"]], [[[1]], [1]], [[10**400]], [[float("inf")]], [[]]):
        with pytest.raises(InvalidField):
            matrix_of(rows)
