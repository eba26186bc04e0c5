"""Over Ray Client, as the documented ``ray://host:10001``: a driver that is not part of the cluster."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

_DRIVER = """
import faulthandler, sys, time
faulthandler.dump_traceback_later(100, exit=True)
import numpy as np
from compute import distributed_apply, get_compute_manager, load_config
from compute.config import Cluster, ComputeSection
from compute.errors import NotSerializable, TaskTimeout, WorkerLost
from tests.conformance import work
from pathlib import Path

address, folder = sys.argv[1], Path(sys.argv[2])
host, port = address.removeprefix("ray://").split(":")
config = load_config().model_copy(update={
    "compute": ComputeSection(backend="ray", ray_address=address),
    "clusters": (Cluster(name="primary", host=host, port=int(port), type="ray"),),
})
manager = get_compute_manager(config=config)
# By name it is the same connection: the port is found to be Ray Client's.
named = get_compute_manager("primary", config)
assert named.get_result(named.submit_task(abs, -4), timeout=60) == 4
named.shutdown()
task_ids = [manager.submit_task(pow, n, 2) for n in range(30)]
assert manager.gather_results(task_ids, timeout=60) == [n * n for n in range(30)]
try:
    manager.get_result(manager.submit_task(work.raise_precise))
except work.Precise as error:
    assert error.detail == {"row": 3}
handle = manager.put(np.arange(300_000))
assert manager.get_result(manager.submit_task(lambda a: int(a[7]), handle)) == 7
assert manager.get_result(manager.submit_task(lambda: np.ones(500_000))).sum() == 500_000
assert distributed_apply(len, np.ones(1000), 300, manager=manager) == [300, 300, 300, 100]
try:
    manager.get_result(manager.submit_task(time.sleep, 60, timeout=0.5), timeout=20)
except TaskTimeout:
    print("timed out")
try:
    manager.get_result(manager.submit_task(work.hold_the_interpreter, timeout=0.5), timeout=20)
except TaskTimeout:
    print("killed")
task_id = manager.submit_task(work.begin_and_sleep, folder / "begun", 60)
work.wait_for(folder / "begun")
while manager.get_task_status(task_id).state != "RUNNING":
    time.sleep(0.05)
assert manager.cancel_task(task_id)
print("cancelled")
assert manager.get_result(manager.submit_task(work.die_once, folder / "runs"), timeout=60) == "second"
print("retried")
manager.shutdown()
print("done")
"""


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def client_address(tmp_path: Path) -> Iterator[str]:
    """A cluster as `ray start` makes it, with a server for Ray Client."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, client_port = one.getsockname()[1], other.getsockname()[1]
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Short: the paths of sockets are limited.
    log = (tmp_path / "cluster.log").open("w")
    cluster = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"),
            *(f"--port={port}", f"--ray-client-server-port={client_port}", f"--temp-dir={home}"),
            *("--include-dashboard=false", "--disable-usage-stats", "--dashboard-agent-listen-port=0"),
        ],
        stdout=log,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        until = time.monotonic() + 60
        while not accepts(client_port):
            assert time.monotonic() < until, (tmp_path / "cluster.log").read_text()
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{client_port}"
    finally:
        for child in psutil.Process(cluster.pid).children(recursive=True):
            child.kill()
        cluster.kill()
        cluster.wait(timeout=20)
        log.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_the_promises_hold_over_ray_client(client_address: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, client_address, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout.split("\n") == ["timed out", "killed", "cancelled", "retried", "done", ""], done.stderr[-5000:]
