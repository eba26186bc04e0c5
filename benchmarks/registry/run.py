"""All parts one after another."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.registry import growth, handle, loading, registration
from benchmarks.registry.peer import mlflow_peer
from benchmarks.table import Row
from compute import Config, load_config
from tests.seaweed import SeaweedServer


def run(*, quick: bool = False) -> list[Row]:
    """Measure; quickly to see that it works, or in full."""
    import ray

    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        place = Path(directory)
        server = SeaweedServer(place / "seaweed")
        try:
            server.start()
            rows = loading.of_large_artifact(server, load_config(), place, quick=quick)
            with mlflow_peer() as peer:
                rows += registration.on_s3(server.config(load_config(), "registration"), server, quick=quick)
                rows += growth.with_models(_at(place / "grown"), peer, quick=quick)
                ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
                rows += registration.on_directory(_at(place / "registered"), peer, quick=quick)
                rows += handle.through_actor(_at(place / "asked"), quick=quick)
        finally:
            ray.shutdown()
            server.stop()
    return rows


def _at(place: Path) -> Config:
    config = load_config()
    return config.model_copy(update={"storage": config.storage.model_copy(update={"uri": place.as_uri()})})
