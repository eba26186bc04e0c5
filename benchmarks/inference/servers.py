"""Servers to measure: each a process of its own on a port of the loopback, stopped with all that it started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import yaml

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """Where a model answers, and what one request to it looks like."""

    url: str
    body: str | bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Load:
    """What `wrk` measured."""

    per_second: float
    p50: float
    """In milliseconds."""
    p99: float
    """In milliseconds."""


def measure(server: Server, connections: int, seconds: float) -> Load:
    """Ask a server as fast as it answers; refuse figures of a run with errors in it."""
    said = wrk(server, connections, seconds)
    if "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"{server.url}: {said}")
    parts = {share: _milliseconds(*value) for share, *value in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", said)}
    return Load(rate_of(said), parts["50"], parts["99"])


def wrk(server: Server, connections: int, seconds: float, pause: float = 0) -> str:
    """Return what `wrk` says; each of its connections waits so many seconds before it asks again."""
    body = server.body if isinstance(server.body, bytes) else server.body.encode()
    lines = ['wrk.method = "POST"', 'wrk.body = "' + "".join(f"\\{byte:03d}" for byte in body) + '"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in server.headers.items()]
    if pause:
        lines.append(f"function delay() return {round(pause * 1000)} end")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        # A peer that takes seconds for a request is measured, too.
        options = ["-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "--latency", "-s", script.name]
        command = ["wrk", *options, server.url]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rate_of(said: str) -> float:
    """Return how many requests a second `wrk` made."""
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found is not None
    return float(found[1])


def _milliseconds(number: str, unit: str) -> float:
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def process(module: str, *arguments: str, **variables: str) -> contextlib.AbstractContextManager[None]:
    """Run a module of ours, and end it with everything that it started."""
    return running([sys.executable, "-m", module, *arguments], **variables)


@contextlib.contextmanager
def running(command: list[str], **variables: str) -> Iterator[None]:
    """Run a command, and end it with everything that it started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    started = subprocess.Popen(
        command, cwd=PROJECT, env=environment | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        family = [*psutil.Process(started.pid).children(recursive=True), psutil.Process(started.pid)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=10)


@contextlib.contextmanager
def ours(state: Path, data_port: int) -> Iterator[str]:
    """Serve the inference application as `make run` does, and on a data port; gives its address."""
    # A short path: Ray's sockets lie below it.
    place = Path(tempfile.mkdtemp(prefix="bench-"))
    config = yaml.safe_load((PROJECT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["applications"] = [each for each in config["applications"] if each["name"] == "inference"]
    config["applications"][0]["args"]["data_port"] = data_port
    (place / "serve_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    variables = {
        **os.environ, "COMPUTE_STORAGE__URI": str(state), "HTTP_PORT": str(port), "DASHBOARD_PORT": str(free_port()),
        "RAY_TMPDIR": str(place), "HOME": str(place),
    }  # fmt: skip
    command = [sys.executable, "-m", "deployments.local"]
    try:
        subprocess.run([*command, "up"], cwd=place, env=variables, check=True, stdout=subprocess.DEVNULL)
        yield f"http://127.0.0.1:{port}/v2"
    finally:
        subprocess.run([*command, "down"], cwd=place, env=variables, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(place, ignore_errors=True)


def wait_for(server: Server, patience: float = 120) -> None:
    """Return when the server answers as it should."""
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(server.url, content=server.body, headers=server.headers, timeout=60).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{server.url} does not answer")
        time.sleep(0.2)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
