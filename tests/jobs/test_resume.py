"""A batch run that was killed goes on: no row twice, none missing, nothing half written; bad rows set apart."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.errors import ColumnInvalid, Conflict, DataError, InvalidField
from jobs import MLTasks, get_ml_tasks
from tests.jobs.conftest import FLIGHT_FEATURES
from tests.seaweed import SeaweedServer

ROOT = Path(__file__).parents[2]
KEYS = ["flight", "carrier", "time_hour"]


@pytest.fixture(scope="module")
def scorer(tasks: MLTasks, flights: pd.DataFrame) -> MLTasks:
    """One model of the flights, `delay`."""
    params = {"n_estimators": 10, "max_depth": 4}
    tasks.train_model(flights.head(4000), "arr_delay", FLIGHT_FEATURES, model_params=params, name="delay")
    return tasks


@pytest.fixture(scope="module")
def whole(scorer: MLTasks, flights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run into a directory of six parts."""
    output = tmp_path_factory.mktemp("whole") / "scored"
    result: Any = scorer.predict_batch("delay", str(flights_file), output=str(output), key_columns=KEYS,
                                       rows_per_part=5_000)  # fmt: skip
    assert (result["parts"], result["resumed_parts"], result["bad_rows"]) == (6, 0, 0)
    return output


def _again(scorer: MLTasks, flights_file: Path, output: Path, **options: Any) -> dict[str, Any]:
    result: Any = scorer.predict_batch(
        "delay", str(flights_file), output=str(output), key_columns=KEYS, rows_per_part=5_000, **options
    )
    return dict(result)


def test_a_directory_holds_all_rows_in_order(whole: Path, flights_table: pa.Table) -> None:
    files = sorted(item.name for item in whole.iterdir() if not item.name.startswith("."))
    assert files == ["_SUCCESS", "_manifest.json", *(f"part-0000{number}.parquet" for number in range(6))]
    written = pq.read_table(whole)
    for key in KEYS:
        assert written[key].to_pylist() == flights_table[key].to_pylist()
    assert json.loads((whole / "_SUCCESS").read_text())["rows"] == flights_table.num_rows


@given(left=st.sets(st.integers(0, 5)), finished=st.booleans(), one_file=st.booleans())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_parts_a_killed_run_left_the_rest_is_done(
    scorer: MLTasks, whole: Path, flights_file: Path, tmp_path: Path, left: set[int], finished: bool, one_file: bool
) -> None:
    output = tmp_path / "scored"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(whole, output)
    stamps = {}
    for number in range(6):
        part = output / f"part-0000{number}.parquet"
        if number in left:
            stamps[part] = part.stat().st_mtime_ns
        else:
            part.unlink()
    if not (finished and len(left) == 6):
        (output / "_SUCCESS").unlink()
    result = _again(scorer, flights_file, output)
    assert result["resumed_parts"] == len(left)
    assert {part: part.stat().st_mtime_ns for part in stamps} == stamps  # what was there is left alone
    assert pq.read_table(output).equals(pq.read_table(whole))


def test_only_the_same_call_goes_on(scorer: MLTasks, whole: Path, flights_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "scored"
    shutil.copytree(whole, output)
    assert _again(scorer, flights_file, output)["resumed_parts"] == 6  # complete: nothing is done
    with pytest.raises(Conflict, match="another run: other key_columns") as differs:
        scorer.predict_batch("delay", str(flights_file), output=str(output), key_columns=["flight"], rows_per_part=5000)
    assert differs.value.context["differ"] == ["key_columns"]
    replaced: Any = scorer.predict_batch("delay", str(flights_file), output=str(output), overwrite=True)
    assert (replaced["parts"], replaced["rows"]) == (1, pq.read_metadata(flights_file).num_rows)
    assert pq.read_table(output).column_names == ["prediction", "model_id"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="no run of this kind wrote, such as notes"):
            _again(scorer, flights_file, tmp_path / "mine", overwrite=overwrite)
    assert [item.name for item in (tmp_path / "mine").iterdir() if item.name[0] != "."] == ["notes.txt"]


def _command(state: Path, data: Path, output: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "jobs.predict", "--model", "delay", "--data", str(data), "--output", output,
        "--keys", ",".join(KEYS), "--rows-per-part", "5000", "--batch-size", "500", *more,
    ]  # fmt: skip


def _environment(scorer: MLTasks) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMPUTE_")}
    return {**kept, "COMPUTE_STORAGE__URI": scorer.config.storage.uri}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scored", "scored.parquet"])
@pytest.mark.parametrize("distribute", ["no", "yes"])
def test_killed_again_and_again_it_ends_with_every_row_once(
    scorer: MLTasks, flights_table: pa.Table, tmp_path: Path, name: str, distribute: str
) -> None:
    data = tmp_path / "flights.parquet"
    table = pa.concat_tables([flights_table] * 10)
    pq.write_table(table.append_column("id", pa.array(range(table.num_rows))), data, row_group_size=5_000)
    command = _command(tmp_path, data, str(tmp_path / name), "--distribute", distribute)
    command[command.index("--keys") + 1] = "id"
    draw = random.Random(7)
    parts = 0
    for _ in range(6):
        running = subprocess.Popen(
            command, cwd=ROOT, env=_environment(scorer), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        gathering = next(iter(tmp_path.glob(f"*{name}*")), tmp_path / name)
        deadline = time.monotonic() + 120
        wanted = parts + draw.randint(1, 9)
        while len(list(gathering.glob("part-*"))) < wanted and running.poll() is None and time.monotonic() < deadline:
            gathering = next(iter(tmp_path.glob(f"*{name}*")), tmp_path / name)
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        running.wait()
        parts = len(list(gathering.glob("part-*")))
    assert parts
    done = subprocess.run(command, cwd=ROOT, env=_environment(scorer), capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["resumed_parts"] >= parts
    written = pq.read_table(tmp_path / name)
    assert written["id"].to_pylist() == list(range(table.num_rows))
    assert not [item for item in tmp_path.iterdir() if "unfinished" in item.name]


def test_on_s3_a_pattern_is_read_and_a_run_goes_on(
    scorer: MLTasks, s3_server: SeaweedServer, flights_table: pa.Table, tmp_path: Path
) -> None:
    config = scorer.config.model_copy(
        update={"storage": scorer.config.storage.model_copy(update={"s3": s3_server.options()})}
    )
    tasks = get_ml_tasks(config)
    client = s3_server.client()
    for number in range(3):
        pq.write_table(flights_table.slice(number * 3000, 3000), tmp_path / "part.parquet")
        body = (tmp_path / "part.parquet").read_bytes()
        client.put_object(Bucket="tests", Key=f"batch/in/2013-0{number}.parquet", Body=body)
    client.put_object(Bucket="tests", Key="batch/in/2014-00.parquet", Body=body)

    def run(output: str) -> Any:
        return tasks.predict_batch("delay", "s3://tests/batch/in/2013-*.parquet", output=f"s3://tests/batch/{output}",
                                   key_columns=["flight"], rows_per_part=3000)  # fmt: skip

    first = run("out/")
    assert (first["rows"], first["parts"]) == (9000, 3)
    for key in ("_SUCCESS", "part-00001.parquet"):
        client.delete_object(Bucket="tests", Key=f"batch/out/{key}")
    second = run("out/")
    assert (second["rows"], second["resumed_parts"]) == (9000, 2)
    assert run("one.parquet")["rows"] == 9000
    one = pa.BufferReader(client.get_object(Bucket="tests", Key="batch/one.parquet")["Body"].read())
    assert pq.read_table(one)["flight"].to_pylist() == flights_table["flight"].to_pylist()[:9000]
    listed = [item["Key"] for item in client.list_objects_v2(Bucket="tests", Prefix="batch/")["Contents"]]
    assert not [key for key in listed if "unfinished" in key]
    client.close()


@pytest.mark.parametrize("name", ["scored", "scored.parquet"])
@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_bad_rows_are_set_apart_with_the_reason(
    scorer: MLTasks, flights: pd.DataFrame, tmp_path: Path, name: str, kind: str
) -> None:
    frame = flights.head(3000)
    values = frame["distance"].astype(float if kind == "parquet" else object)
    bad = [7, 1500, 2999]
    values.iloc[bad] = np.inf if kind == "parquet" else "far"
    frame = frame.assign(distance=values, row=range(len(frame)))
    data: Any = frame
    if kind != "frame":
        data = str(tmp_path / f"in.{kind}")
        frame.to_csv(data, index=False) if kind == "csv" else frame.to_parquet(data, row_group_size=1000)
    options: dict[str, Any] = {"output": str(tmp_path / name), "key_columns": ["row"], "batch_size": 400}
    with pytest.raises(ColumnInvalid, match="'distance'"):
        scorer.predict_batch("delay", data, rows_per_part=1000, **options)
    result: Any = scorer.predict_batch("delay", data, rows_per_part=1000, bad_rows="divert", **options)
    assert (result["rows"], result["bad_rows"]) == (2997, 3)
    assert pq.read_table(tmp_path / name)["row"].to_pylist() == [row for row in range(3000) if row not in bad]
    rejects = pq.read_table(result["bad_rows_output"]).to_pylist()
    assert [item["row"] for item in rejects] == bad
    assert all("distance" in item["reason"] for item in rejects)
    assert all(json.loads(item["data"])["row"] == row for item, row in zip(rejects, bad, strict=True))
    good: Any = scorer.predict_batch("delay", flights.head(3000).drop(index=bad))
    written = pq.read_table(tmp_path / name)["prediction"].to_numpy()
    np.testing.assert_allclose(written, good.to_numpy(), rtol=1e-6)


def test_lines_of_csv_that_are_cut_short_are_set_apart(scorer: MLTasks, flights: pd.DataFrame, tmp_path: Path) -> None:
    lines = flights.head(50).to_csv(index=False).splitlines()
    lines[11] = lines[11][:20]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match="not a readable CSV"):
        scorer.predict_batch("delay", str(tmp_path / "in.csv"), output=str(tmp_path / "out.parquet"))
    result: Any = scorer.predict_batch(
        "delay", str(tmp_path / "in.csv"), output=str(tmp_path / "out.parquet"), bad_rows="divert"
    )
    assert (result["rows"], result["bad_rows"]) == (49, 1)
    reason = pq.read_table(tmp_path / "out.bad_rows.parquet")["reason"][0].as_py()
    assert "line 12 has" in reason


def test_no_rows_are_written_as_a_file_with_columns(scorer: MLTasks, flights: pd.DataFrame, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        empty = flights.head(0)
        data = tmp_path / f"in.{kind}"
        empty.to_csv(data, index=False) if kind == "csv" else empty.to_parquet(data)
        result: Any = scorer.predict_batch(
            "delay", str(data), output=str(tmp_path / "out.parquet"), key_columns=["flight"]
        )
        assert result["rows"] == 0
        assert pq.read_schema(tmp_path / "out.parquet").names == ["flight", "prediction", "model_id"]


def test_options_of_files_need_an_output(scorer: MLTasks, flights: pd.DataFrame) -> None:
    for options in ({"bad_rows": "divert"}, {"overwrite": True}):
        with pytest.raises(InvalidField, match="there is no output"):
            scorer.predict_batch("delay", flights, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidField, match='It is "raise" or "divert"'):
        scorer.predict_batch("delay", flights, bad_rows="drop")  # type: ignore[arg-type]
