"""A bad line between the registry and S3: requests that are dropped, done and not answered, answered wrong, or cut off.

The promises are the same as without, see `linearizability`: what was acknowledged is there, and what was not is there
wholly or not at all.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compute import Config, load_config
from compute.errors import StorageError
from registry import ArtifactStore, open_store
from registry.catalog import PREFIX, ModelCatalog
from registry.fsck import check_store
from registry.log import Log
from tests.fault_proxy import FAULTS, Fault, proxy
from tests.registry.linearizability import UNKNOWN, WRITES, check
from tests.registry.workload import Client, read_notes, work
from tests.seaweed import SeaweedServer

_SESSIONS = 4


@pytest.fixture
def config(s3_server: SeaweedServer) -> Config:
    return s3_server.config(load_config(), f"t-{uuid.uuid4().hex}")


@pytest.mark.parametrize(
    ("share", "rounds"),
    [(0.15, 8), pytest.param(0.15, 200, marks=pytest.mark.slow), pytest.param(0.4, 60, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1200)
def test_a_bad_line_loses_nothing(
    s3_server: SeaweedServer, config: Config, tmp_path: Path, share: float, rounds: int
) -> None:
    seed = int(os.environ.get("FAULT_SEED", random.SystemRandom().getrandbits(32)))
    print(f"FAULT_SEED={seed}")
    chance, lock = random.Random(seed), threading.Lock()

    def now_and_then(_method: str, _path: str) -> Fault | None:
        with lock:
            return chance.choice(FAULTS) if chance.random() < share else None

    notes = [tmp_path / f"session-{number}" for number in range(_SESSIONS)]
    with proxy(s3_server.endpoint_url, now_and_then) as line, ThreadPoolExecutor(_SESSIONS) as pool:
        behind = s3_server.config(config, config.storage.uri.rpartition("/")[2], line.url)

        def session(number: int) -> None:
            store = open_store(behind.storage.uri, behind)
            catalog = ModelCatalog(store, snapshot_every=15, read_staleness=0.0)
            client = Client(catalog, notes[number].name, notes[number], ArtifactStore(store))
            work(client, seed + number, lambda done: done == rounds)

        for future in [pool.submit(session, number) for number in range(_SESSIONS)]:
            future.result()
    time.sleep(0.5)  # what the proxy does late has landed
    store = open_store(config.storage.uri, config)
    log = Log(store, PREFIX)
    events: list[dict[str, Any]] = [event for entry in log.entries() for event in log.read(entry.number)]
    history = read_notes(notes)
    check(history, events)
    acknowledged = [operation for operation in history if operation.kind in WRITES and not operation.code]
    assert len(acknowledged) > rounds
    assert len([operation for operation in history if operation.code == UNKNOWN]) < len(history) / 2
    held = [[record.model_dump() for record in ModelCatalog(store).list()] for _ in range(2)]
    assert held[0]
    assert held[0] == held[1]
    report = check_store(store)
    assert not report.damaged, report.in_words()


def test_a_server_that_is_away_is_told_and_forgotten(s3_server: SeaweedServer, config: Config) -> None:
    """Nothing hangs while it is away, and nothing has to be started again when it is back."""
    down = threading.Event()
    with proxy(s3_server.endpoint_url, lambda _method, _path: "drop" if down.is_set() else None) as line:
        behind = s3_server.config(config, config.storage.uri.rpartition("/")[2], line.url)
        catalog = ModelCatalog(open_store(behind.storage.uri, behind), read_staleness=0.0)
        assert catalog.list() == []
        down.set()
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(catalog.list) for _ in range(8)]
        assert all(isinstance(future.exception(), StorageError) for future in asked)
        assert time.monotonic() - began < 20  # not eight times what one takes
        down.clear()
        assert catalog.list() == []
