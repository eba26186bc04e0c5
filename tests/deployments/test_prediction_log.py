"""The prediction log: whole files that pandas and pyarrow read, bounded memory, and what a kill loses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import dataset

from compute import Config
from compute.config import PredictionLogging
from deployments.prediction_log import PredictionLog
from deployments.question import Question
from jobs import train_model
from registry import ModelRecord, ModelRegistry, open_store

FRAME = pd.DataFrame(
    {
        "distance": [200.0, 700.0, 1400.0] * 10,
        "carrier": ["AA", "UA", "B6"] * 10,
        "weekend": [True, False] * 15,
        "day": pd.date_range("2026-01-01", periods=30),
    }
)
ALL = PredictionLogging(sample=1.0, interval=3600)


@pytest.fixture
def record(config: Config) -> ModelRecord:
    target = np.where(FRAME["distance"] > 500, "late", "early")
    trained = train_model(
        FRAME.assign(y=target),
        "y",
        name="delays",
        model_params={"n_estimators": 2},
        config=config,
        distribute_data=False,
    )
    return ModelRegistry(config).get_model(trained["model_id"])


def _question(inputs: Any, rows: int, answer: dict[str, Any]) -> Question[dict[str, Any]]:
    return Question(rows, None, lambda *_: answer, lambda: inputs, lambda found: found)


def _ask(log: PredictionLog, record: ModelRecord, inputs: Any, rows: int, **outputs: Any) -> None:
    log.offer(record, _question(inputs, rows, outputs), outputs, "champion")


def _read(config: Config) -> pd.DataFrame:
    folder = Path(config.storage.uri.removeprefix("file://")) / "predictions" / "delays"
    frame = pd.read_parquet(folder)
    assert dataset.dataset(folder).to_table().num_rows == len(frame)
    return frame.reset_index(drop=True)


def test_requests_of_every_form_become_rows_of_one_table(config: Config, record: ModelRecord) -> None:
    log = PredictionLog(open_store(config.storage.uri, config), ALL)
    texts = FRAME.head(2).assign(day=["2026-01-01", "2026-01-02"])
    rows = texts.to_dict("records")
    rows[1] |= {"distance": None, "carrier": "new one", "weekend": None, "day": None}
    _ask(log, record, rows, 2, predict=["early", "late"])
    log.flush()  # a file of its own
    _ask(log, record, pa.Table.from_pandas(FRAME.head(2)), 2, predict_proba=[[0.75, 0.25], [0.5, 0.5]])
    tensors = {name: texts[name].tolist() if name in ("carrier", "day") else texts[name].to_numpy() for name in texts}
    _ask(log, record, tensors, 2, predict=["early", "late"], predict_proba=np.array([[0.75, 0.25], [0.5, 0.5]], "f4"))
    log.close()

    found = _read(config)
    assert len(found) == 6
    assert list(found.columns[:4]) == list(FRAME.columns)
    assert sorted(found["distance"].dropna()) == [200.0, 200.0, 200.0, 700.0, 700.0]
    assert found["carrier"].value_counts().to_dict() == {"AA": 3, "UA": 2, "new one": 1}
    assert found["weekend"].isna().sum() == found["day"].isna().sum() == 1
    assert found["day"].min() == pd.Timestamp("2026-01-01")
    assert found["prediction"].value_counts().to_dict() == {"early": 2, "late": 2}
    assert found["probability_early"].dropna().tolist() == [0.75, 0.5, 0.75, 0.5]
    assert set(found["_model_id"]) == {record.model_id}
    assert set(found["_version"]) == {1}
    assert set(found["_arm"]) == {"champion"}
    assert str(found["_at"].dtype) == "datetime64[us, UTC]"
    hours = {path.parent.name for path in Path(config.storage.uri.removeprefix("file://")).rglob("*.parquet")}
    assert hours <= {f"{at:%Y-%m-%d-%H}" for at in found["_at"]}


def test_a_model_without_feature_names_has_numbered_inputs(config: Config, record: ModelRecord) -> None:
    log = PredictionLog(open_store(config.storage.uri, config), ALL)
    bare = record.model_copy(update={"signature": None})
    _ask(log, bare, [[1.0, 2.0], [3.0, 4.0]], 2, predict=[1.0, 2.0])
    _ask(log, bare, {"input": np.array([[5.0, 6.0]])}, 1, predict=[3.0])
    log.close()
    found = _read(config)
    assert found[["input_0", "input_1", "prediction"]].to_numpy().tolist() == [[1, 2, 1], [3, 4, 2], [5, 6, 3]]


def test_a_feature_named_as_an_output_keeps_its_name(config: Config, record: ModelRecord) -> None:
    log = PredictionLog(open_store(config.storage.uri, config), ALL)
    assert record.signature is not None
    column = record.signature.columns[0].model_copy(update={"name": "prediction"})
    other = record.model_copy(update={"signature": record.signature.model_copy(update={"columns": (column,)})})
    _ask(log, other, [{"prediction": 7.0}], 1, predict=["early"])
    log.close()
    assert _read(config)[["prediction", "prediction_"]].to_numpy().tolist() == [[7.0, "early"]]


def test_only_what_was_asked_for_is_kept_and_no_more_than_fits(config: Config, record: ModelRecord) -> None:
    store = open_store(config.storage.uri, config)
    rows = FRAME.assign(day="2026-01-01").to_dict("records")
    for settings in (ALL.model_copy(update={"sample": 0.0}), ALL.model_copy(update={"models": ("other",)})):
        log = PredictionLog(store, settings)
        _ask(log, record, rows, 30, predict=["late"] * 30)
        log.close()
    assert not list(store.list("predictions/"))

    log = PredictionLog(store, ALL.model_copy(update={"max_rows": 70}))
    with log._writing:  # the store is slow
        for _ in range(5):
            _ask(log, record, rows, 30, predict=["late"] * 30)
        assert log._rows <= 70
    log.close()
    assert len(_read(config)) == 60

    half = PredictionLog(store, ALL.model_copy(update={"sample": 0.5}))
    for _ in range(400):
        _ask(half, record, rows[:1], 1, predict=["late"])
    half.close()
    assert 60 + 130 < len(_read(config)) < 60 + 270


def test_rows_that_cannot_be_written_take_no_others_with_them(
    config: Config, record: ModelRecord, caplog: pytest.LogCaptureFixture
) -> None:
    log = PredictionLog(open_store(config.storage.uri, config), ALL)
    _ask(log, record.model_copy(update={"model_id": "m-other"}), [{"no": 1}], 1, predict=["late"])
    _ask(log, record, FRAME.head(1).assign(day="2026-01-01").to_dict("records"), 1, predict=["late"])
    log.close()
    assert "predictions_not_written" in caplog.text
    assert len(_read(config)) == 1


def test_a_kill_leaves_only_whole_files(config: Config, record: ModelRecord, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import os, sys
            from compute import load_config
            from compute.config import PredictionLogging
            from deployments.prediction_log import PredictionLog
            from deployments.question import Question
            from registry import ModelRecord, open_store

            record = ModelRecord.model_validate_json({record.model_dump_json()!r})
            settings = PredictionLogging(sample=1, interval=1, max_rows=500)
            log = PredictionLog(open_store({config.storage.uri!r}), settings)
            rows = [{{"distance": 1.0, "carrier": "AA", "weekend": True, "day": "2026-01-01"}}] * 10
            print("ready", flush=True)
            while True:
                log.offer(record, Question(10, None, None, lambda: rows, dict), {{"predict": ["late"] * 10}})
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        folder = Path(config.storage.uri.removeprefix("file://")) / "predictions"
        while len(list(folder.rglob("*.parquet"))) < 3:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    assert len(_read(config)) >= 30
