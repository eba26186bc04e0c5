"""Batch scoring: any source, any batch size, bounded memory, and a file that is whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.errors import (
    ColumnInvalid,
    ColumnMissing,
    DataError,
    DataNotFound,
    InvalidField,
    ModelNotFound,
    UnsupportedFormat,
)
from jobs import MLTasks, get_ml_tasks
from tests.jobs.conftest import FLIGHT_FEATURES


@pytest.fixture(scope="module")
def scorer(tasks: MLTasks, flights: pd.DataFrame) -> MLTasks:
    """Two models of the flights: `delay` is a regression, `late` a binary classification."""
    params = {"n_estimators": 20, "max_depth": 5}
    frame = flights.head(8000)
    tasks.train_model(frame, "arr_delay", FLIGHT_FEATURES, model_params=params, name="delay")
    late = frame.assign(late=np.where(frame["arr_delay"] > 15, "late", "on time"))
    tasks.train_model(late, "late", FLIGHT_FEATURES, model_params=params, name="late")
    return tasks


@given(rows=st.integers(0, 40), batch=st.integers(1, 50), proba=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_batch_size_changes_nothing(
    scorer: MLTasks, flights: pd.DataFrame, rows: int, batch: int, proba: bool
) -> None:
    frame = flights.iloc[100 : 100 + rows].set_index("flight", append=True)
    whole: Any = scorer.predict_batch("late", frame, proba=proba)
    parts: Any = scorer.predict_batch("late", frame, batch_size=batch, proba=proba)
    assert len(whole) == rows
    assert whole.index.equals(frame.index)
    if rows:
        (pd.testing.assert_frame_equal if proba else pd.testing.assert_series_equal)(whole, parts)


def test_probabilities_come_with_the_label_they_lead_to(scorer: MLTasks, flights: pd.DataFrame) -> None:
    frame: Any = scorer.predict_batch("late", flights, proba=True)
    assert list(frame.columns) == ["prediction", "probability_late", "probability_on time"]
    np.testing.assert_allclose(frame["probability_late"] + frame["probability_on time"], 1, rtol=1e-6)
    assert (
        frame["prediction"] == np.where(frame["probability_late"] > frame["probability_on time"], "late", "on time")
    ).all()
    assert (frame["prediction"] == scorer.predict_batch("late", flights)).all()
    with pytest.raises(InvalidField, match="amounts"):
        scorer.predict_batch("delay", flights, proba=True)


def test_a_file_to_a_file_with_the_keys_carried_along(
    scorer: MLTasks, flights_file: Path, flights_table: pa.Table, tmp_path: Path
) -> None:
    output = tmp_path / "new" / "out.parquet"
    result: Any = scorer.predict_batch(
        "late", flights_file.as_uri(), output=str(output), key_columns=["carrier", "flight", "time_hour"], proba=True
    )
    written = pq.read_table(output)
    assert result["rows"] == written.num_rows == flights_table.num_rows
    assert written.column_names == result["columns"]
    assert written.column_names == [
        "carrier", "flight", "time_hour", "prediction", "probability_late", "probability_on time", "model_id",
    ]  # fmt: skip
    for key in ("carrier", "flight", "time_hour"):
        assert written.schema.field(key).type == pq.read_schema(flights_file).field(key).type
        assert written[key].to_pylist() == flights_table[key].to_pylist()
    assert set(written["model_id"].to_pylist()) == {result["model_id"]}
    expected: Any = scorer.predict_batch("late", flights_table.to_pandas(), proba=True)
    assert written["prediction"].to_pylist() == expected["prediction"].tolist()
    np.testing.assert_allclose(written["probability_late"].to_numpy(), expected["probability_late"], rtol=1e-6)
    assert [item.name for item in output.parent.iterdir()] == ["out.parquet"]


def test_keys_without_a_file_come_back_with_the_predictions(scorer: MLTasks, flights_file: Path) -> None:
    frame: Any = scorer.predict_batch("delay", str(flights_file), key_columns=["flight"])
    assert list(frame.columns) == ["flight", "prediction"]


@pytest.mark.slow
def test_parts_scored_elsewhere_are_the_same_in_the_same_order(
    scorer: MLTasks, flights_file: Path, flights: pd.DataFrame, tmp_path: Path
) -> None:
    limited = scorer.config.model_copy(
        update={"compute": scorer.config.compute.model_copy(update={"backend": "local", "local_workers": 2})}
    )
    tasks = get_ml_tasks(limited)
    one: Any = scorer.predict_batch("delay", str(flights_file), key_columns=["flight"], distributed=False)
    two: Any = tasks.predict_batch("delay", str(flights_file), key_columns=["flight"], distributed=True)
    pd.testing.assert_frame_equal(one, two)
    frame = flights.head(500)
    pd.testing.assert_series_equal(
        scorer.predict_batch("delay", frame),
        tasks.predict_batch("delay", frame, distributed=True),  # type: ignore[arg-type]
    )


def test_an_unknown_category_is_scored(scorer: MLTasks, flights: pd.DataFrame) -> None:
    strange = flights.head(5).assign(carrier=["??", None, "UA", "AA", "B6"], dest="nowhere")
    values: Any = scorer.predict_batch("delay", strange)
    assert np.isfinite(values).all()


def test_features_missing_or_of_the_wrong_type_are_named_with_the_row(
    scorer: MLTasks, flights: pd.DataFrame, flights_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ColumnMissing, match=r"no feature column 'distance'") as missing:
        scorer.predict_batch("delay", flights.drop(columns="distance"))
    assert missing.value.context["feature"] == "distance"
    values = flights["distance"].astype(object)
    values.iloc[23] = "far"
    for batch in (10, 10_000):
        with pytest.raises(ColumnInvalid, match=r"'distance' has the value 'far' in row 23,") as wrong:
            scorer.predict_batch("delay", flights.assign(distance=values), batch_size=batch)
        assert (wrong.value.context["feature"], wrong.value.context["row"]) == ("distance", 23)
    flights.assign(distance=values).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ColumnInvalid, match=r"t\.csv has the value 'far' in row 23, where a number is needed"):
        scorer.predict_batch("delay", str(tmp_path / "t.csv"), output=str(tmp_path / "o.parquet"), batch_size=10)
    # Nothing that looks finished is left.
    assert [item.name for item in tmp_path.iterdir()] == ["t.csv"]


def test_what_is_asked_for_is_checked_first(
    scorer: MLTasks, flights: pd.DataFrame, flights_file: Path, tmp_path: Path
) -> None:
    frame = flights.head(5)
    with pytest.raises(ModelNotFound):
        scorer.predict_batch("no-such-model", frame)
    with pytest.raises(DataNotFound):
        scorer.predict_batch("delay", str(tmp_path / "none.parquet"))
    with pytest.raises(UnsupportedFormat, match=r"out\.csv does not end in \.parquet"):
        scorer.predict_batch("delay", frame, output=str(tmp_path / "out.csv"))
    with pytest.raises(ColumnMissing, match="no key column 'id'"):
        scorer.predict_batch("delay", frame, key_columns=["id"])
    with pytest.raises(DataError, match="'prediction' has the name of a result"):
        scorer.predict_batch("delay", frame.assign(prediction=1), key_columns=["prediction"])
    with pytest.raises(InvalidField, match="batch_size"):
        scorer.predict_batch("delay", frame, batch_size=0)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        scorer.predict_batch("delay", frame, output=str(tmp_path / "folder.parquet"))


def test_a_crash_leaves_the_file_that_was_there(scorer: MLTasks, flights: pd.DataFrame, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    scorer.predict_batch("delay", flights.head(10), output=str(output))
    values = flights["distance"].astype(object)
    values.iloc[-1] = "far"
    with pytest.raises(ColumnInvalid):
        scorer.predict_batch("delay", flights.assign(distance=values), output=str(output), batch_size=100)
    assert pq.read_metadata(output).num_rows == 10
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_may_replace_its_input(scorer: MLTasks, flights: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    flights.head(300).to_parquet(file)
    scorer.predict_batch("delay", str(file), output=str(file), key_columns=["flight"])
    assert pq.read_table(file).column_names == ["flight", "prediction", "model_id"]


def test_scoring_a_file_takes_the_memory_of_a_few_batches(
    scorer: MLTasks, flights: pd.DataFrame, tmp_path: Path
) -> None:
    table = pa.Table.from_pandas(flights[FLIGHT_FEATURES], preserve_index=False)
    with pq.ParquetWriter(tmp_path / "big.parquet", table.schema) as writer:
        for _ in range(20):
            writer.write_table(table, row_group_size=20_000)
    before = pa.total_allocated_bytes()
    pa.default_memory_pool().release_unused()
    result: Any = scorer.predict_batch("delay", str(tmp_path / "big.parquet"), output=str(tmp_path / "out.parquet"))
    assert result["rows"] == 20 * len(flights)
    assert pa.total_allocated_bytes() - before < 2**20  # what was read was given back
    assert result["plan"]["peak_bytes"] < 64 * 2**20


def test_evaluation_names_what_it_cannot_use(scorer: MLTasks, flights: pd.DataFrame, flights_file: Path) -> None:
    with pytest.raises(ColumnInvalid, match="null in"):
        scorer.evaluate_model("delay", str(flights_file))
    found = scorer.evaluate_model("delay", str(flights_file), drop_null_target=True)
    assert found["rows"] == len(flights)
    assert found["dropped_rows"] > 0
    assert found["metrics"]["rmse"] < found["metrics"]["baseline_rmse"]
    with pytest.raises(ColumnMissing, match="no target column 'late'"):
        scorer.evaluate_model("late", flights)
    with pytest.raises(ColumnInvalid, match="amounts"):
        scorer.evaluate_model("delay", flights, target_col="carrier")
    strange = flights.assign(late=np.where(flights["arr_delay"] > 15, "late", "a third thing"))
    assert scorer.evaluate_model("late", strange)["metrics"]["accuracy"] < 0.5
