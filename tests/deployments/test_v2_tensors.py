"""Tensors of the Open Inference Protocol survive both of their forms, and what is not one is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compute.errors import ComputeError, InvalidField
from deployments.v2_infer import read_request, write_response
from deployments.v2_tensors import DTYPES, Tensor, from_bytes, from_json, to_bytes

arrays = st.sampled_from(list(DTYPES)).flatmap(
    lambda datatype: st.tuples(
        st.just(datatype),
        hnp.arrays(
            DTYPES[datatype],
            hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
            elements={"allow_infinity": False} if datatype.startswith("FP") else None,
        ),
    )
)


@given(arrays)
def test_numbers_come_through_binary_and_json_as_they_are(case: tuple[str, Any]) -> None:
    datatype, array = case
    again = from_bytes("x", datatype, array.size, memoryview(to_bytes(datatype, array)))
    assert np.array_equal(again, array.reshape(-1), equal_nan=datatype.startswith("FP"))
    nested = json.loads(json.dumps(array.tolist()).replace("NaN", "null"))
    flat = json.loads(json.dumps(array.reshape(-1).tolist()).replace("NaN", "null"))
    for data in (nested, flat) if array.size else (flat,):
        read = from_json("x", datatype, array.shape, data)
        assert isinstance(read, np.ndarray)
        assert read.dtype == np.dtype(DTYPES[datatype])
        assert np.array_equal(read, array.reshape(-1), equal_nan=datatype.startswith("FP"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_through_binary_as_they_are(texts: list[str]) -> None:
    assert from_bytes("x", "BYTES", len(texts), memoryview(to_bytes("BYTES", texts))) == texts


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(-1, 250).map(str), st.text(max_size=5)))
def test_whatever_is_sent_is_read_or_refused(body: bytes, length: str | None) -> None:
    try:
        read_request(body, length)
    except ComputeError as error:
        assert error.status in (400, 422)  # noqa: PT017  (nothing to assert when it was read)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.one_of(st.just("x"), json_values),
            "datatype": st.one_of(st.sampled_from([*DTYPES, "BYTES"]), json_values),
            "shape": st.one_of(st.lists(st.integers(0, 3), max_size=3), json_values),
            "data": json_values,
            "parameters": json_values,
        },
    ),
    json_values,
)
def test_whatever_an_input_says_it_is_read_or_refused(entry: dict[str, Any], outputs: Any) -> None:
    try:
        request = read_request(json.dumps({"inputs": [entry], "outputs": outputs}).encode(), None)
    except ComputeError as error:
        assert error.status in (400, 422)  # noqa: PT017
    else:
        assert len(request.inputs["x" if entry["name"] == "x" else entry["name"]].values) == np.prod(entry["shape"])


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("INT8", [1], [128]), ("UINT8", [1], [-1]), ("INT64", [1], [2**63]), ("INT64", [1], [1.0]),
        ("INT64", [1], [True]), ("INT64", [1], [None]), ("BOOL", [1], [1]), ("FP32", [1], [1e39]), ("FP64", [1], ["1"]),
        ("FP64", [1], [10**400]), ("FP64", [2], [1.0]), ("FP64", [2, 2], [[1, 2], [3]]), ("FP64", [3], [1, [2, 3, 4]]),
        ("BYTES", [1], [1]), ("FP64", [1], {"0": 1}),
    ],
)  # fmt: skip
def test_what_a_datatype_does_not_take_is_refused(datatype: str, shape: list[int], data: Any) -> None:
    with pytest.raises(InvalidField, match="'x'"):
        from_json("x", datatype, shape, data)


def test_a_response_carries_binary_tensors_in_the_order_of_the_outputs() -> None:
    body = b'{"id": "7", "inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1]}], "outputs": [' + (
        b'{"name": "predict", "parameters": {"binary_data": true}}, {"name": "predict_proba"}]}'
    )
    request = read_request(body, None)
    outputs = [
        Tensor("predict", "BYTES", (1,), ["no"]),
        Tensor("predict_proba", "FP32", (1, 2), np.array([0.75, 0.25], dtype="float32")),
    ]
    answer = write_response(request, "late", "3", outputs, {"model_id": "m-1"})
    head = json.loads(answer.body[: answer.json_length])
    assert head == {
        "model_name": "late", "model_version": "3", "id": "7", "parameters": {"model_id": "m-1"},
        "outputs": [
            {"name": "predict", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
            {"name": "predict_proba", "shape": [1, 2], "datatype": "FP32", "data": [0.75, 0.25]},
        ],
    }  # fmt: skip
    assert answer.body[answer.json_length :] == b"\x02\x00\x00\x00no"
