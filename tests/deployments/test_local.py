"""`make run` and `make stop`, for real: a cluster of its own in a directory of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from compute.errors import ConfigurationError, ResourcesUnavailable
from deployments import preflight
from deployments.local import RUN_MARK

PROJECT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_taken_port_is_named_with_its_owner_and_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourcesUnavailable, match=rf"port {port} .*make run HTTP_PORT={port + 1}") as caught:
            preflight.check_ports({"HTTP_PORT": port})
    assert f"process {os.getpid()}" in str(caught.value)


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "8000 "])
def test_what_is_not_a_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", text)
    with pytest.raises(ConfigurationError, match="HTTP_PORT"):
        preflight.port("HTTP_PORT", 8000)


def test_short_memory_and_a_full_disk_are_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preflight.check_memory()
    preflight.check_disk(tmp_path / "not" / "made" / "yet")
    monkeypatch.setattr(preflight, "MINIMUM_MEMORY", 2**60)
    with pytest.raises(ResourcesUnavailable, match=r"\d GiB of memory is free.* needs \d+ GiB"):
        preflight.check_memory()
    monkeypatch.setattr(preflight, "MINIMUM_DISK", 2**60)
    with pytest.raises(ResourcesUnavailable, match=rf"MiB of disk is free at {tmp_path}"):
        preflight.check_disk(tmp_path / "not" / "made" / "yet")


@dataclass
class Place:
    """A directory in which `make run` would be typed, with a Ray of its own."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.directory, env=self.variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, module: str, *arguments: str) -> str:
        process = self.start(module, *arguments)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        return output

    def marked(self) -> list[psutil.Process]:
        mark = json.loads((self.directory / ".run" / "cluster.json").read_text())["mark"]
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(RUN_MARK) == mark:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    # Not tmp_path: Ray's sockets lie below it, and their paths must stay under 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="run-"))
    shutil.copy(PROJECT / "serve_config.yaml", directory)
    variables = {
        **os.environ,
        "HOME": str(directory),
        "RAY_TMPDIR": str(directory),
        "HTTP_PORT": str(free_port()),
        "DASHBOARD_PORT": str(free_port()),
    }
    place = Place(directory, variables)
    try:
        yield place
    finally:
        place.run("deployments.local", "down")
        shutil.rmtree(directory)


@pytest.mark.timeout(600)
def test_the_main_job_runs_after_an_interruption_and_again_in_seconds(place: Place) -> None:
    interrupted = place.start("deployments.local", "up")
    time.sleep(5)
    interrupted.send_signal(signal.SIGINT)
    assert "make run" in interrupted.communicate(timeout=60)[0]
    assert interrupted.returncode == 130

    place.run("deployments.local", "up")
    first = place.run("deployments.demo")
    assert "always answering the mean" in first
    assert "SUCCEEDED" in first
    assert (place.directory / ".run" / "token").stat().st_mode & 0o777 == 0o600

    started = time.monotonic()
    again = place.run("deployments.local", "up") + place.run("deployments.demo")
    assert "is registered" in again
    assert "train XGBoost" not in again
    assert time.monotonic() - started < 30

    http = f"http://127.0.0.1:{place.variables['HTTP_PORT']}"
    assert httpx.get(f"{http}/models/").status_code == 401
    token = (place.directory / ".run" / "token").read_text().strip()
    body = httpx.get(f"{http}/models/", headers={"Authorization": f"Bearer {token}"}).json()
    assert [model["name"] for model in body["models"]] == ["flights-arrival-delay"]

    inputs = [{"name": "input", "shape": [1, 1], "datatype": "FP64", "data": [1]}]
    asked = httpx.post(
        f"{http}/v2/models/flights-arrival-delay/infer",
        json={"inputs": inputs},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert "error" in asked.json()  # it takes other features, and says so
    listening = {
        each.laddr.ip for process in place.marked() if process.name() == "haproxy"
        for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN
    }  # fmt: skip
    assert listening == {"127.0.0.1"}

    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    marked = place.marked()
    assert len(marked) > 5
    assert "Stopped" in place.run("deployments.local", "down")
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in marked)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert "Nothing of ours" in place.run("deployments.local", "down")
