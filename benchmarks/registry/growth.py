"""Recovery, memory, search and get as models become more, beside MLflow on SQLite where it has the like."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.registry.peer import Peer
from benchmarks.registry.population import CONDITIONS, fill, metadata_bytes
from benchmarks.table import Row
from compute import Config
from registry import open_store
from registry.actor import ModelActor

SIZES = (1_000, 10_000, 100_000)
_RECOVERIES = 3
_CALLS = 300
_LIMITS = {"recovery": 5.0, "memory": 4_000.0, "search": 5.0}
"""Seconds, bytes and milliseconds, at the largest size."""


def with_models(config: Config, peer: Peer, *, quick: bool) -> list[Row]:
    """Measure at each size; the actor's own methods are called here without Ray, as they run in it."""
    return [row for models in (SIZES[:1] if quick else SIZES) for row in _with(models, config, peer, quick=quick)]


def _with(models: int, config: Config, peer: Peer, *, quick: bool) -> list[Row]:
    storage = config.storage.model_copy(update={"uri": f"{config.storage.uri}-{models}"})
    config = config.model_copy(update={"storage": storage})
    fill(open_store(storage.uri, config), models)
    seconds, memory = _recovered(storage.uri.removeprefix("file://"), models, 1 if quick else _RECOVERIES)
    actor = ModelActor(config)
    found = [record["model_id"] for record in json.loads(actor.search(_conditions(0), None, 100, None)[0])]
    search = _median(lambda number: actor.search(_conditions(number), None, 100, None), _CALLS)
    get = _median(lambda number: actor.get(found[number % len(found)]), _CALLS)
    peer.ask("fill", models=models)
    peer.ask("search", models=models, repeat=2)
    calls = 20 if quick else 50
    of_peer = {do: statistics.median(peer.ask(do, models=models, repeat=calls)) for do in ("search", "get")}
    limits = _LIMITS if models == max(SIZES) else {}
    size = f"{models:,} models"
    return [
        Row(f"{size}: recovery", seconds, "s", limit=limits.get("recovery")),
        Row(f"{size}: memory of one, beyond its metadata", memory, "B", limit=limits.get("memory")),
        Row(f"{size}: MLflow, two conditions, 100 results", of_peer["search"] * 1e3, "ms"),
        Row(
            f"{size}: two conditions, {len(found)} results",
            search * 1e3,
            "ms",
            search / of_peer["search"],
            limit=limits.get("search"),
        ),
        Row(f"{size}: MLflow, get by name and version", of_peer["get"] * 1e6, "us"),
        Row(f"{size}: get by id", get * 1e6, "us", get / of_peer["get"]),
    ]


def _conditions(number: int) -> str:
    return CONDITIONS.format(team=number % 10)


def _recovered(path: str, models: int, times: int) -> tuple[float, float]:
    """Return seconds, and bytes for each model beyond its metadata."""
    told = []
    for _ in range(times):
        command = [sys.executable, "-m", "benchmarks.registry.recover", path]
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2]).stdout
        told.append(json.loads(output))
        if told[-1]["models"] != models:
            raise RuntimeError(f"{told[-1]['models']} models instead of {models}")
    seconds = statistics.median(each["seconds"] for each in told)
    memory = statistics.median(each["bytes"] for each in told)
    return seconds, (memory - metadata_bytes(models)) / models


def _median(call: Callable[[int], object], times: int) -> float:
    seconds = []
    for number in range(times):
        began = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
