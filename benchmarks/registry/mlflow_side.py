"""MLflow's part, run as a script of another environment: a line of JSON in, a line of JSON out. See `peer`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelTag,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from benchmarks.table import in_threads

_FILLED_AT_ONCE = 5_000
_PATIENCE = 120.0


class Side:
    """MLflow on SQLite files in a directory, in this process and behind its server.

    Parameters
    ----------
    directory : Path
        For the databases.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, MlflowClient] = {}

    def version(self) -> str:
        """Return which MLflow this is."""
        return str(mlflow.__version__)

    def register(self, clients: int, count: int, place: str) -> float:
        """Register models with a version each from several threads, and return the seconds it took."""
        client = self._client(place)

        def one(number: int) -> None:
            name = f"model-{uuid.uuid4().hex}"
            client.create_registered_model(name, tags={"team": f"team-{number % 10}", "stage": "candidate"})
            client.create_model_version(
                name,
                "s3://models/line",
                tags={"owner": "ops", "rmse": "11.5", "rows": "1000"},
                description="Delays",
                await_creation_for=0,
            )

        return in_threads(one, clients, count)

    def fill(self, models: int) -> None:
        """Put models into the database of a size of its own, past the interface, which takes minutes for 10,000."""
        store = SqlAlchemyStore(self._uri(f"size-{models}"), None)
        now = int(time.time() * 1000)
        for start in range(0, models, _FILLED_AT_ONCE):
            with store.ManagedSessionMaker() as session:
                for number in range(start, min(start + _FILLED_AT_ONCE, models)):
                    name, team = f"model-{number:06d}", f"team-{number % 10}"
                    model = SqlRegisteredModel(name=name, creation_time=now, last_updated_time=now)
                    model.registered_model_tags.append(SqlRegisteredModelTag(key="team", value=team))
                    version = SqlModelVersion(
                        name=name, version=1, creation_time=now, last_updated_time=now, current_stage="None",
                        source="s3://models/line", status="READY",
                    )  # fmt: skip
                    tags = {"team": team, "rmse": f"{number % 997}", "owner": "ops"}
                    version.model_version_tags.extend(SqlModelVersionTag(key=k, value=v) for k, v in tags.items())
                    session.add(model)
                    session.add(version)

    def search(self, models: int, repeat: int) -> list[float]:
        """Search versions by two conditions, 100 results; return the seconds of each call."""
        client = self._client(f"size-{models}")
        seconds = []
        for number in range(repeat):
            began = time.perf_counter()
            found = client.search_model_versions(
                f"tags.team = 'team-{number % 10}' and tags.owner = 'ops'", max_results=100
            )
            seconds.append(time.perf_counter() - began)
            if len(found) != 100:
                raise RuntimeError(f"{len(found)} results")
        return seconds

    def get(self, models: int, repeat: int) -> list[float]:
        """Get versions by name and number; return the seconds of each call."""
        client = self._client(f"size-{models}")
        seconds = []
        for number in range(repeat):
            began = time.perf_counter()
            client.get_model_version(f"model-{number * 7919 % models:06d}", "1")
            seconds.append(time.perf_counter() - began)
        return seconds

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def _client(self, place: str) -> MlflowClient:
        if place not in self._clients:
            uri = self._serve() if place == "server" else self._uri(place)
            self._clients[place] = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return self._clients[place]

    def _uri(self, name: str) -> str:
        return f"sqlite:///{self._directory / name}.db"

    def _serve(self) -> str:
        """Start the server as MLflow's documentation says."""
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        with (self._directory / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
                    "--backend-store-uri", self._uri("server"),
                ],
                stdout=log, stderr=log, cwd=self._directory, start_new_session=True,
            )  # fmt: skip
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1):
                    return url
            except OSError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._directory / "server.log").read_text()[-2000:]) from error
                time.sleep(0.1)


def main() -> None:
    """Answer until the input ends."""
    with tempfile.TemporaryDirectory() as directory:
        side = Side(Path(directory))
        try:
            for line in sys.stdin:
                asked: dict[str, Any] = json.loads(line)
                answer = getattr(side, asked.pop("do"))(**asked)
                print(json.dumps(answer), flush=True)
        finally:
            side.close()


if __name__ == "__main__":
    main()
