"""The commands as Ray jobs, on a cluster with a dashboard of its own: submitted, followed, stopped in the middle."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import MLTasks
from registry import get_model_registry

pytestmark = pytest.mark.slow  # a cluster with a dashboard, and commands that import Ray each time

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")


@dataclass
class Jobs:
    """What a person does at a shell: `ray job ...`."""

    address: str
    variables: dict[str, str]

    def ray(self, *arguments: str) -> str:
        done = subprocess.run(
            [RAY, "job", arguments[0], "--address", self.address, *arguments[1:]],
            env=self.variables, cwd=ROOT, text=True, capture_output=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def submit(self, name: str, *entrypoint: object, wait: bool = True) -> str:
        flags = () if wait else ("--no-wait",)
        return self.ray("submit", "--submission-id", name, *flags, "--", *map(str, entrypoint))

    def until_said(self, name: str, words: str) -> None:
        end = time.monotonic() + 90
        while words not in self.ray("logs", name):
            assert time.monotonic() < end, self.ray("logs", name)


@pytest.fixture(scope="module")
def jobs(tasks: MLTasks) -> Iterator[Jobs]:
    # Not tmp_path: Ray's sockets lie below it, and their paths must stay under 107 characters.
    directory = tempfile.mkdtemp(prefix="ray-")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, dashboard = one.getsockname()[1], two.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COMPUTE_", "RAY_"))}
    variables |= {"RAY_TMPDIR": directory, "HOME": directory, "COMPUTE_STORAGE__URI": tasks.config.storage.uri}
    variables["PATH"] = f"{RAY.parent}:{variables['PATH']}"  # an activated environment
    variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    head = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
            "--dashboard-agent-listen-port=0",  # the default is one port for all clusters of a machine
        ],
        env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        there = Jobs(f"http://127.0.0.1:{dashboard}", variables)
        end = time.monotonic() + 120
        for number in itertools.count():
            try:
                there.submit(f"up-{number}", "true")  # the dashboard is up before what runs jobs is
                break
            except AssertionError:
                assert time.monotonic() < end
        yield there
    finally:
        for process in (*psutil.Process(head.pid).children(recursive=True), head):
            process.kill()
        head.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_a_submitted_command_tells_its_progress_and_ends_with_its_result(
    jobs: Jobs, flights_file: Path, tasks: MLTasks, tmp_path: Path
) -> None:
    named = ("--name", "submitted", "--features", "distance,dep_delay", "--drop-null-target")
    said = jobs.submit("one", "python", "-m", "jobs.train", "--data", flights_file, "--target", "arr_delay", *named)
    *progress, result = _lines(said)
    assert [item["step"] for item in progress if item.get("event") == "progress"]
    assert get_model_registry(tasks.config).resolve("submitted").model_id == result["model_id"]
    output = tmp_path / "scored.parquet"
    said = jobs.submit(
        "two", "python", "-m", "jobs.predict", "--model", "submitted", "--data", flights_file, "--output", output
    )
    assert _lines(said)[-1]["rows"] == pq.read_metadata(output).num_rows
    with pytest.raises(AssertionError, match="no model type 'xgb'"):
        jobs.submit(
            "three", "python", "-m", "jobs.train", "--data", flights_file, "--target", "arr_delay",
            "--model-type", "xgb",
        )  # fmt: skip
    assert "failed" in jobs.ray("status", "three")


def test_a_stopped_training_registers_nothing(jobs: Jobs, flights_file: Path, tasks: MLTasks) -> None:
    jobs.submit(
        "long", "python", "-m", "jobs.train", "--data", flights_file, "--target", "arr_delay", "--name", "stopped",
        "--features", "distance,dep_delay", "--drop-null-target", "--param", "n_estimators=1000000", wait=False,
    )  # fmt: skip
    jobs.until_said("long", '"prepare done"')
    jobs.ray("stop", "long")
    assert "was stopped" in jobs.ray("status", "long")
    registry = get_model_registry(tasks.config)
    assert registry.list_models(name="stopped") == []
    checked = subprocess.run(
        [sys.executable, "-m", "registry.fsck", "--storage", tasks.config.storage.uri],
        cwd=ROOT, text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_stopped_prediction_goes_on_where_it_was(
    jobs: Jobs, flights_file: Path, flights_table: pa.Table, tmp_path: Path
) -> None:
    jobs.submit(
        "model", "python", "-m", "jobs.train", "--data", flights_file, "--target", "arr_delay", "--name", "scorer",
        "--features", "distance,dep_delay", "--drop-null-target", "--param", "n_estimators=2000",
        "--param", "max_depth=10",
    )  # fmt: skip
    # More than can be scored while `ray job stop` starts up.
    table, output = tmp_path / "table.parquet", tmp_path / "scored"
    pq.write_table(pa.concat_tables([flights_table] * 6), table)
    asked = (
        "python", "-m", "jobs.predict", "--model", "scorer", "--data", table, "--output", f"{output}/",
        "--rows-per-part", 2000,
    )  # fmt: skip
    jobs.submit("half", *asked, wait=False)
    end = time.monotonic() + 90
    while len(list(output.glob("part-*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    jobs.ray("stop", "half")
    assert not (output / "_SUCCESS").exists()
    again = _lines(jobs.submit("again", *asked))[-1]
    assert 0 < again["resumed_parts"] < again["parts"]
    assert again["rows"] == sum(pq.read_metadata(file).num_rows for file in output.glob("part-*"))
    assert again["rows"] == 6 * flights_table.num_rows
