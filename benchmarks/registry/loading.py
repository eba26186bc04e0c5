"""`load_model` of a 100 MB artifact on S3: on a node that never saw it, and again; a proxy counts the requests."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from compute import Config
from registry import Artifact, ArtifactStore, ModelRegistry, open_store
from registry.formats import load_native
from registry.node_cache import NodeCache
from tests.fault_proxy import proxy
from tests.seaweed import BUCKET, SeaweedServer

_WIDTH = 5_000
"""Of a square of 4-byte numbers."""
_TURNS = 7
_TARGET = 1.2
_AT_ONCE = 8
_RANGE = 8 << 20
_PREFIX = "loading"
_WARM = 10


def of_large_artifact(server: SeaweedServer, config: Config, place: Path, *, quick: bool) -> list[Row]:
    """Measure in turns, each with a model and caches of its own, so that all is cold; the first turn does not count."""
    times: dict[str, list[float]] = {}
    for turn in range(1 if quick else _TURNS + 1):
        on_s3 = _with_cache(server.config(config, _PREFIX), place / f"cache-{turn}")
        registry = ModelRegistry(on_s3)
        record = registry.get_model(registry.register_model(_network(turn), "network"))
        cache = NodeCache.of(_with_cache(on_s3, place / f"other-{turn}"))
        artifacts = ArtifactStore(open_store(on_s3.storage.uri, on_s3), cache)
        key, target = f"{_PREFIX}/{artifacts.key(record.artifact)}", place / f"plain-{turn}"
        work: dict[str, Callable[[], object]] = {
            "get": partial(_plain_get, server, key, record.artifact.size, target),
            "bytes": partial(_fetch, artifacts, record.artifact),
            "cold": partial(registry.load_model, record.model_id),
            "warm": partial(registry.load_model, record.model_id),
            "native": partial(load_native, record.format, target),
        }
        for name, call in work.items():
            began = time.perf_counter()
            call()
            times.setdefault(name, []).append(time.perf_counter() - began)
    seconds = {name: statistics.median(taken[0 if quick else 1 :]) for name, taken in times.items()}
    here, elsewhere = _requests_when_warm(server, config, place)
    by_hand = seconds["get"] + seconds["native"]
    return [
        Row("100 MB: a plain parallel GET into a file", seconds["get"] * 1e3, "ms"),
        Row("100 MB: fetched and verified", seconds["bytes"] * 1e3, "ms", seconds["bytes"] / seconds["get"], _TARGET),
        Row("100 MB: a GET, and the library reads the file", by_hand * 1e3, "ms"),
        Row("100 MB: load_model, cold, beside that", seconds["cold"] * 1e3, "ms", seconds["cold"] / by_hand, _TARGET),
        Row(
            "100 MB: load_model, cold, beside the GET alone",
            seconds["cold"] * 1e3,
            "ms",
            seconds["cold"] / seconds["get"],
            _TARGET,
        ),
        Row("100 MB: load_model, warm", seconds["warm"] * 1e3, "ms"),
        Row(f"requests for bytes in {_WARM} warm loads", here, "", limit=0),
        Row("requests for bytes from another process of the node", elsewhere, "", limit=0),
    ]


def _requests_when_warm(server: SeaweedServer, config: Config, place: Path) -> tuple[int, int]:
    """Count what asks the store for the bytes of a model that this process has, and that this node has."""
    with proxy(server.endpoint_url) as counting:
        registry = ModelRegistry(_with_cache(server.config(config, _PREFIX, counting.url), place / "cache-counted"))
        model_id = registry.register_model(_network(-1), "network")
        registry.load_model(model_id)
        counting.requests.clear()
        for _ in range(_WARM):
            registry.load_model(model_id)
        here = sum("/blobs/" in path for _, path in counting.requests)
        counting.requests.clear()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(_load, registry, model_id).result()
        elsewhere = [path for _, path in counting.requests]
    if not elsewhere:
        raise RuntimeError("the other process asked for nothing, not even for the record")
    return here, sum("/blobs/" in path for path in elsewhere)


def _load(registry: ModelRegistry, model_id: str) -> None:
    registry.load_model(model_id)


def _fetch(artifacts: ArtifactStore, artifact: Artifact) -> None:
    with artifacts.file(artifact):
        pass


def _plain_get(server: SeaweedServer, key: str, size: int, path: Path) -> None:
    """Get ranges at the same time, and write each to its place."""
    client = server.client()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)

    def get(start: int) -> None:
        wanted = f"bytes={start}-{min(start + _RANGE, size) - 1}"
        os.pwrite(descriptor, client.get_object(Bucket=BUCKET, Key=key, Range=wanted)["Body"].read(), start)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(get, range(0, size, _RANGE)))
    os.close(descriptor)
    client.close()


def _network(seed: int) -> Any:
    """Make a model of 100 MB that takes nothing to read but its bytes: one layer of an ONNX network."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(abs(seed)).standard_normal((_WIDTH, _WIDTH)).astype(np.float32) + seed
    rows = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", _WIDTH])
    sums = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("ReduceSum", ["h", "axis"], ["y"])]
    values = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "network", [rows], [sums], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _with_cache(config: Config, directory: Path) -> Config:
    cache = config.storage.cache.model_copy(update={"directory": str(directory)})
    return config.model_copy(update={"storage": config.storage.model_copy(update={"cache": cache})})
