"""The entry points as a shell sees them: exit codes, one line for an error, the result as the last line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def _run(module: str, *arguments: object, state: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMPUTE_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"jobs.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "COMPUTE_STORAGE__URI": state.as_uri()},
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def _result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_train_predict_evaluate(flights_file: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    trained = _run(
        "train", "--data", flights_file, "--target", "arr_delay", "--exclude", "dep_time,arr_time,air_time",
        "--model-type", "lightgbm", "--param", "num_leaves=15", "--param", "n_estimators=20", "--drop-null-target",
        "--param", "boosting=gbdt", "--name", "delays", "--tag", "demo", "--tag", "night", "--seed", "7",
        "--distribute", "auto", "--description", "arrival delay", state=state,
    )  # fmt: skip
    result = _result(trained)
    assert result["metrics"]["rmse"] < result["metrics"]["baseline_rmse"]
    assert (result["name"], result["version"], result["plan"]["mode"]) == ("delays", 1, "single")
    assert "plan=single" in trained.stderr
    assert "Traceback" not in trained.stderr
    output = tmp_path / "out.parquet"
    options = {
        "model": "nobody",
        "data": str(flights_file),
        "output": str(output),
        "keys": ["flight"],
        "batch_size": 2000,
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(options))
    done = _run("predict", "--config", tmp_path / "job.yaml", "--model", "delays", state=state)  # the latter wins
    scored = _result(done)
    said = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [item["step"] for item in said] == ["score", "score", "write"]
    assert (said[1]["event"], said[1]["done"], said[1]["total"]) == ("progress", scored["rows"], scored["rows"])
    assert scored["rows"] == pq.read_metadata(output).num_rows
    assert pq.read_schema(output).names == ["flight", "prediction", "model_id"]
    measuring = ("--model", "delays:1", "--data", flights_file, "--drop-null-target", "--quiet")
    measured = _run("evaluate", *measuring, state=state)
    assert _result(measured)["metrics"]["rmse"] < result["metrics"]["baseline_rmse"]
    assert measured.stderr == ""


MISTAKES = [
    ("train", ["--data", "none.parquet", "--target", "y"], "nothing lies at none.parquet"),
    ("train", ["--data", "{empty}", "--target", "y"], "empty.csv is empty"),
    ("train", ["--data", "{header}", "--target", "y"], "no rows"),
    ("train", ["--data", "{flights}", "--target", "arr_dely"], "(did you mean 'arr_delay'?)"),
    ("train", ["--data", "{flights}", "--target", "arr_delay"], "--drop-null-target"),
    ("train", ["--data", "{flights}", "--target", "arr_delay", "--model-type", "xgb"], "no model type 'xgb'"),
    ("train", ["--data", "{flights}", "--target", "arr_delay", "--param", "eat=1"], "no parameter 'eat'"),
    ("tune", ["--data", "{flights}", "--target", "arr_delay", "--space", "{{"], "not JSON"),
    ("tune", ["--data", "{flights}", "--target", "arr_delay", "--space", "none.json"], "no file 'none.json'"),
    ("predict", ["--config", "{flights}"], "cannot read the options"),
    ("compare", ["--model", "none", "--model", "other", "--data", "{flights}"], "none"),
    ("predict", ["--model", "none", "--data", "{flights}", "--output", "o.parquet"], "none"),
    ("evaluate", ["--model", "none", "--data", "{flights}"], "none"),
]


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_code_2(flights_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "header.csv").write_text("x,y\n")
    places = {"flights": flights_file, "empty": tmp_path / "empty.csv", "header": tmp_path / "header.csv"}

    def check(mistake: tuple[str, list[str], str]) -> None:
        module, arguments, words = mistake
        asked = ["--quiet", *(item.format(**places) for item in arguments)]
        done = _run(module, *asked, state=tmp_path / "state", check=False)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ")
        assert words in lines[0]

    with ThreadPoolExecutor(2) as side_by_side:  # most of their time is imports
        list(side_by_side.map(check, MISTAKES))


@pytest.mark.parametrize("module", ["train", "tune", "predict", "evaluate", "compare", "drift", "datasets"])
def test_help_has_an_example_and_costs_nothing(module: str, tmp_path: Path) -> None:
    done = _run(module, "--help", state=tmp_path)
    assert f"python -m jobs.{module}" in done.stdout.partition("example:")[2]
    heavy = {"ray", "numpy", "pandas", "sklearn", "xgboost", "pyarrow"}
    code = f"import sys, jobs.{module}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "[]"


def test_a_wrong_option_is_explained_by_its_usage(tmp_path: Path) -> None:
    done = _run("train", "--data", "x.csv", "--target", "y", "--param", "depth", state=tmp_path, check=False)
    assert done.returncode == 2
    assert "'depth' is not KEY=VALUE" in done.stderr


def test_ray_is_not_imported_when_it_is_not_asked_for(flights_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from jobs import train_model; "
        f"train_model({str(flights_file)!r}, 'arr_delay', ['distance'], 'linear', drop_null_target=True); "
        "print('ray' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMPUTE_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60,
        env={**environment, "COMPUTE_STORAGE__URI": (tmp_path / "state").as_uri()},
    )  # fmt: skip
    assert done.stdout.strip() == "False"
