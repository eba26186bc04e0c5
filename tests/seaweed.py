"""A real S3 server for tests and benchmarks: SeaweedFS in a directory of its own, on free ports of the loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from compute.config import S3, Config

BUCKET = "tests"
ACCESS_KEY = "tablework"
SECRET_KEY = "tablework-secret"
_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port", "s3.port.grpc",
)  # fmt: skip
_PATIENCE = 60.0


class SeaweedServer:
    """One process that serves S3.

    Parameters
    ----------
    directory : Path
        Its data and its log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, and wait until it takes a bucket."""
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        weed = Path(sys.executable).with_name("weed")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(weed if weed.exists() else shutil.which("weed") or "weed"),
                    "-v=0",
                    "server",
                    f"-dir={self._directory / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-filer",
                    "-s3",
                    f"-s3.config={self._directory / 's3.json'}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    "-master.telemetry=false",
                    "-master.volumeSizeLimitMB=4096",
                    "-volume.max=0",
                    "-volume.preStopSeconds=0",
                    "-master.electionTimeout=1s",
                    "-master.resumeState=false",
                    *(f"-{name}={port}" for name, port in self._ports.items()),
                ],
                stdout=log,
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
            )
        self._await_bucket()

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self.kill()

    def kill(self) -> None:
        """Kill it at once, as a power failure would."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Start it again, over the same data, on the same ports."""
        self.start()

    def client(self) -> Any:
        """Return the plainest client there is, which tries nothing twice; close it after use."""
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
        )

    def options(self, endpoint_url: str | None = None) -> S3:
        """Return how it is reached; by way of a proxy when its address is given."""
        return S3(
            endpoint_url=endpoint_url or self.endpoint_url,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
        )

    def config(self, config: Config, prefix: str, endpoint_url: str | None = None) -> Config:
        """Return the configuration with its state under a prefix of the server's bucket."""
        changes = {"uri": f"s3://{BUCKET}/{prefix}", "s3": self.options(endpoint_url)}
        return config.model_copy(update={"storage": config.storage.model_copy(update=changes)})

    def _await_bucket(self) -> None:
        client = self.client()
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
                client.delete_object(Bucket=BUCKET, Key="ready")
            except Exception as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"SeaweedFS does not start; see {self._directory / 'log'}") from error
                time.sleep(0.05)
            else:
                client.close()
                return


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on; each was free at the same moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
