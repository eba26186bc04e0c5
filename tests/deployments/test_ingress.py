"""The environment in which Ray's HAProxy runs: each cluster of a machine has ports and files of its own."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from compute.errors import ResourcesUnavailable
from deployments import ingress


def test_a_cluster_gets_no_ports_of_one_that_runs(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(ingress.ingress_variables(tmp_path / name))
    assert all(int(each["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"]) < 32_768 for each in found)
    first = int(found[0]["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"])
    taken = socket.create_server(("127.0.0.1", first), reuse_port=True)  # as a replica of Serve does
    with taken:
        for number in range(200):
            (tmp_path / str(number)).mkdir()
            again = ingress.ingress_variables(tmp_path / str(number))
            assert int(again["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]) != first
    assert found[0]["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] != found[1]["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"]


def test_where_no_range_is_free_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ingress._free_range()
    monkeypatch.setattr(ingress, "_REPLICAS", 12_000)  # all that are looked at
    with (
        socket.create_server(("127.0.0.1", first), reuse_port=True),
        pytest.raises(ResourcesUnavailable, match="in a row are free"),
    ):
        ingress._free_range()


def test_a_shell_takes_the_variables_as_they_are(tmp_path: Path) -> None:
    python = shlex.quote(sys.executable)
    shown = 'printf "%s\\n" "$RAY_SERVE_HAPROXY_BALANCE_ALGORITHM" "$RAY_SERVE_HAPROXY_BINARY_PATH"'
    command = f'eval "$({python} -m deployments.ingress)" && {shown}'
    found = []
    for _ in range(2):
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        run = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
        balance, binary = run.stdout.removesuffix("\n").rsplit("\n", 1)
        assert balance == ingress.BALANCE
        assert os.access(binary, os.X_OK)
        assert Path(binary).parent.stat().st_mode & 0o077 == 0
        found.append(binary)
    assert len(set(found)) == 2


def test_who_comes_before_any_application_is_there_is_told_to_wait(tmp_path: Path) -> None:
    variables = ingress.ingress_variables(tmp_path)
    config = tmp_path / "haproxy.cfg"
    missing = "backend default_backend\n    http-request return status 404 content-type text/plain string 'none'\n"
    for backends, status in (("", "503"), ("backend http-index\n", "404")):
        config.write_text(missing + backends)
        # What Serve takes for HAProxy: `-v` has it do nothing, after the configuration was changed.
        subprocess.run([variables["RAY_SERVE_HAPROXY_BINARY_PATH"], "-v", "-f", str(config)], check=True)
        assert f"http-request return status {status} " in config.read_text()
