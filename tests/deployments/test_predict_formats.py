"""Rows go in and predictions come out as JSON, CSV, Arrow or Parquet; and predictions are explained."""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, ipc

from compute import Config
from compute.errors import DataError, PayloadTooLarge
from jobs import read_body, train_model
from registry import Column, LoadedModel, Signature, get_model_registry

FRAME = pd.DataFrame(
    {
        "distance": np.where(np.arange(120) % 11 == 0, np.nan, np.arange(120) * 7.25),
        "carrier": np.where(np.arange(120) % 13 == 0, None, np.tile(["AA", "UA", "1"], 40)),
        "weekend": np.tile([True, False], 60),
        "day": pd.to_datetime("2013-01-01") + pd.to_timedelta(np.arange(120), unit="h"),
        "note": "not a feature",
    }
)
DELAY = np.arange(120) % 17 + np.tile([0.0, 30.0, 5.0], 40)
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"


@pytest.fixture(scope="module")
def trained(ray_cluster: str, served_config: Config) -> Callable[..., LoadedModel]:
    def train(target: Any, model_type: str = "xgboost") -> LoadedModel:
        result = train_model(
            FRAME.assign(y=target), "y", model_type=model_type, exclude=["note"], distribute_data=False,
            name=f"formats-{uuid.uuid4().hex[:8]}", config=served_config,
        )  # fmt: skip
        return get_model_registry(served_config).load_model(result["model_id"], threads=1)

    return train


@pytest.fixture(scope="module")
def delays(trained: Callable[..., LoadedModel]) -> LoadedModel:
    return trained(DELAY)


@pytest.fixture
def http(models_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(models_url)


def body(kind: str, frame: pd.DataFrame) -> bytes:
    if kind == "text/csv":
        return frame.to_csv(index=False).encode()
    table, sink = pa.Table.from_pandas(frame, preserve_index=False), io.BytesIO()
    if kind == PARQUET:
        pq.write_table(table, sink)
    else:
        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    return sink.getvalue()


def table(answer: httpx.Response) -> pd.DataFrame:
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "text/csv":
        return csv.read_csv(io.BytesIO(answer.content)).to_pandas()
    if kind == PARQUET:
        return pq.read_table(io.BytesIO(answer.content)).to_pandas()
    assert kind == ARROW
    return ipc.open_stream(answer.content).read_all().to_pandas()


@pytest.mark.parametrize("accept", ["text/csv", ARROW, PARQUET, "application/json", "text/html, text/csv;q=0.5"])
@pytest.mark.parametrize("kind", ["text/csv", ARROW, PARQUET])
def test_every_format_goes_in_and_comes_out(http: httpx.Client, delays: LoadedModel, kind: str, accept: str) -> None:
    answer = http.post(
        f"/{delays.record.model_id}/predict",
        content=body(kind, FRAME),
        headers={"Content-Type": kind, "Accept": accept},
    )
    assert answer.status_code == 200, answer.text
    expected = delays.predict(FRAME)
    if accept == "application/json":
        found = np.array(answer.json()["predictions"])
    else:
        assert answer.headers["x-model-id"] == delays.record.model_id
        found = table(answer)["prediction"].to_numpy()
    assert np.allclose(found, expected, rtol=1e-6)


def test_probabilities_have_a_column_for_each_class(http: httpx.Client, trained: Callable[..., LoadedModel]) -> None:
    model = trained(np.where(DELAY > 20, "late", "on time"))
    answer = http.post(
        f"/{model.record.model_id}/predict?proba=true", content=body(PARQUET, FRAME),
        headers={"Content-Type": PARQUET, "Accept": "text/csv"},
    )  # fmt: skip
    found = table(answer)
    assert list(found) == ["probability_late", "probability_on time"]
    assert np.allclose(found.to_numpy(), model.predict(FRAME, proba=True), atol=1e-6)


@pytest.mark.parametrize(("target", "kind"), [(DELAY, "xgboost"), (DELAY > 20, "lightgbm"), (DELAY // 12, "xgboost")])
def test_contributions_add_up_to_the_margin(
    http: httpx.Client, trained: Callable[..., LoadedModel], target: Any, kind: str
) -> None:
    model = trained(target.astype(int).astype(str) if target is not DELAY else target, kind)
    answer = http.post(
        f"/{model.record.model_id}/predict?explain=true",
        content=body(PARQUET, FRAME),
        headers={"Content-Type": PARQUET},
    ).json()
    assert list(answer["contributions"][0]) == ["distance", "carrier", "weekend", "day"]
    sums = [sum(row.values()) for row in answer["contributions"]]
    assert np.allclose(np.array(sums) + answer["base_values"], answer["margins"], atol=1e-4)
    if target is DELAY:
        assert np.allclose(answer["margins"], answer["predictions"], atol=1e-3)
    elif kind == "lightgbm":
        assert [margin > 0 for margin in answer["margins"]] == [label == "1" for label in answer["predictions"]]
    if kind == "lightgbm" or target is DELAY:  # the carrier decides, so it contributes most
        total = {name: sum(abs(row[name]) for row in answer["contributions"]) for name in answer["contributions"][0]}
        assert max(total, key=lambda name: total[name]) == "carrier"


def test_what_cannot_be_explained_says_so(http: httpx.Client, trained: Callable[..., LoadedModel]) -> None:
    model = trained(DELAY, "linear")
    refused = http.post(
        f"/{model.record.model_id}/predict?explain=true",
        content=body(PARQUET, FRAME),
        headers={"Content-Type": PARQUET},
    )
    assert refused.status_code == 501
    assert "cannot be explained" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "content", "status", "said"),
    [
        ("text/csv", b"", 422, "the body"),
        ("text/csv", b"distance,carrier\n1,2\n3\n", 422, "not a readable CSV"),
        ("text/csv", body("text/csv", FRAME.drop(columns="carrier")), 422, "'carrier'"),
        ("text/csv", body("text/csv", FRAME.assign(distance="far")), 422, "distance"),
        (PARQUET, b"PAR1 and not more", 422, "not a readable parquet"),
        (PARQUET, body(PARQUET, FRAME)[:500], 422, "not a readable parquet"),
        (PARQUET, body(PARQUET, FRAME.drop(columns="day")), 422, "'day'"),
        (ARROW, b"\xff" * 100, 422, "not a readable arrow"),
        (ARROW, body(ARROW, FRAME)[:300], 422, "not a readable arrow"),
        (ARROW, body(ARROW, FRAME.assign(weekend=7)), 422, "'weekend'"),
        ("application/xml", b"<rows/>", 415, "application/xml"),
    ],
)
def test_a_table_that_cannot_be_scored_says_why(
    http: httpx.Client, delays: LoadedModel, kind: str, content: bytes, status: int, said: str
) -> None:
    refused = http.post(f"/{delays.record.model_id}/predict", content=content, headers={"Content-Type": kind})
    assert refused.status_code == status, refused.text
    assert said in refused.json()["detail"]
    assert "/tmp" not in refused.text


def test_an_answer_that_cannot_be_given_is_refused_before_any_work(http: httpx.Client, delays: LoadedModel) -> None:
    path = f"/{delays.record.model_id}/predict"
    assert http.post(path, json={"rows": []}, headers={"Accept": "image/png"}).status_code == 415
    assert http.post(f"{path}?explain=true", json={"rows": []}, headers={"Accept": "text/csv"}).status_code == 422


def test_a_table_that_is_far_larger_than_its_bytes_is_refused() -> None:
    signature = Signature(columns=(Column(name="x", dtype="float"),))
    same = pa.table({"x": pa.array(np.zeros(4_000_000))})
    sink = io.BytesIO()
    pq.write_table(same, sink)
    assert len(sink.getvalue()) < 100_000
    with pytest.raises(PayloadTooLarge, match="32,000,000 bytes"):
        read_body("parquet", sink.getvalue(), signature, most_bytes=2**24)
    sink = io.BytesIO()
    with ipc.new_stream(sink, same.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(same)
    assert len(sink.getvalue()) < 100_000
    with pytest.raises(DataError, match="compressed"):
        read_body("arrow", sink.getvalue(), signature)
    sink = io.BytesIO()
    with ipc.new_stream(sink, same.schema) as writer:
        writer.write_table(same, max_chunksize=100_000)
    with pytest.raises(PayloadTooLarge):
        read_body("arrow", sink.getvalue(), signature, most_bytes=2**24)
    assert read_body("arrow", sink.getvalue(), signature).num_rows == 4_000_000


@given(st.sampled_from(["csv", "arrow", "parquet"]), st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_are_sent_they_are_read_or_refused(kind: Any, data: st.DataObject) -> None:
    signature = Signature(columns=(Column(name="distance", dtype="float"),))
    media = {"csv": "text/csv", "arrow": ARROW, "parquet": PARQUET}[kind]
    content = bytearray(body(media, FRAME[["distance"]]))
    for _ in range(data.draw(st.integers(0, 4))):  # a valid table with a few bytes changed reaches furthest
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError, PayloadTooLarge):
        read_body(kind, bytes(content[: data.draw(st.integers(0, len(content)))]), signature)
