"""``kill -9`` of whoever takes part, at random moments while many write: nothing acknowledged is lost, nothing is half.

Victims are processes with catalogs of their own, the actor (by Ray), the process that the actor lives in (by the
system), and the S3 server. SeaweedFS hands what it acknowledges to the operating system first, and so survives the
death of its process, though not of the machine; our directory flushes to the disk.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from compute import Config
from compute.errors import StorageError
from registry import ArtifactStore, ModelRegistry
from registry.actor import RemoteCatalog
from registry.catalog import PREFIX, ModelCatalog
from registry.fsck import check_store
from registry.log import Log
from registry.storage import open_store
from tests.registry.linearizability import UNKNOWN, WRITES, check
from tests.registry.workload import Client, read_notes, work
from tests.seaweed import SeaweedServer

_PROCESSES = 3
_CALLERS = 2
_PATIENCE = 120.0


def write_until_killed(config: Config, notes: Path, seed: int) -> None:
    """Work with a catalog of its own, which also writes snapshots."""
    store = open_store(config.storage.uri, config)
    while True:
        try:
            catalog = ModelCatalog(store, snapshot_every=30)
            break
        except StorageError:  # the server was killed just now
            time.sleep(0.05)
    work(Client(catalog, notes.name, notes, ArtifactStore(store)), seed, lambda _: False)


class Load:
    """Processes and callers of the actor that write to one store, and what can be killed.

    Parameters
    ----------
    config : Config
        Of the store.
    directory : Path
        For what they write down.
    server : SeaweedServer or None
        That the store is on.
    seed : int
        Of what they do.
    """

    def __init__(self, config: Config, directory: Path, server: SeaweedServer | None, seed: int) -> None:
        self.notes: list[Path] = []
        self._config = config
        self._directory = directory
        self._server = server
        self._random = random.Random(seed)
        self._forking = multiprocessing.get_context("forkserver")
        self._forking.set_forkserver_preload(["tests.registry.test_kill"])
        self._stop = threading.Event()
        self._remote = RemoteCatalog(config)
        self._processes = [self._new_process() for _ in range(_PROCESSES)]
        self._callers = [self._new_caller() for _ in range(_CALLERS)]

    def victims(self) -> dict[str, Callable[[], None]]:
        """Return the ways to kill, each of which waits for a write of the victim, then kills and replaces it."""
        ways = {"process": self._kill_process, "actor": self._kill_actor, "worker": self._kill_worker}
        return ways if self._server is None else {**ways, "server": self._kill_server}

    def end(self) -> None:
        """Kill the processes, and let the callers finish."""
        self._stop.set()
        for process, _ in self._processes:
            process.kill()
            process.join()
        for caller, _ in self._callers:
            caller.join(_PATIENCE)
            assert not caller.is_alive()

    def _kill_process(self) -> None:
        number = self._random.randrange(_PROCESSES)
        process, notes = self._processes[number]
        self._wait_for_a_write([notes])
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        self._processes[number] = self._new_process()

    def _kill_actor(self) -> None:
        import ray

        self._wait_for_a_write([notes for _, notes in self._callers])
        ray.kill(self._remote._find(), no_restart=False)

    def _kill_worker(self) -> None:
        import ray

        self._wait_for_a_write([notes for _, notes in self._callers])
        os.kill(ray.get(self._remote._find().pid.remote()), signal.SIGKILL)

    def _kill_server(self) -> None:
        assert self._server is not None
        self._wait_for_a_write(self.notes)
        self._server.kill()
        time.sleep(self._random.uniform(0, 0.5))
        self._server.restart()

    def _wait_for_a_write(self, notes: list[Path]) -> None:
        """Wait until something was acknowledged from now on, and for a random moment after that."""
        ends, deadline = {path: path.stat().st_size for path in notes}, time.monotonic() + _PATIENCE
        while not any(_acknowledged(path, end) for path, end in ends.items()):
            assert time.monotonic() < deadline, "nothing is written any more"
            time.sleep(0.01)
        time.sleep(self._random.uniform(0, 0.2))

    def _new_notes(self, kind: str) -> Path:
        self.notes.append(self._directory / f"{kind}-{len(self.notes)}")
        self.notes[-1].touch()
        return self.notes[-1]

    def _new_process(self) -> tuple[BaseProcess, Path]:
        notes = self._new_notes("process")
        process = self._forking.Process(
            target=write_until_killed, args=(self._config, notes, self._random.getrandbits(32)), daemon=True
        )
        process.start()
        return process, notes

    def _new_caller(self) -> tuple[threading.Thread, Path]:
        notes = self._new_notes("caller")
        artifacts = ArtifactStore(open_store(self._config.storage.uri, self._config))
        client = Client(self._remote, "actor", notes, artifacts)
        seed = self._random.getrandbits(32)
        caller = threading.Thread(target=work, args=(client, seed, lambda _: self._stop.is_set()), daemon=True)
        caller.start()
        return caller, notes


def _acknowledged(notes: Path, start: int) -> bool:
    """Whether a write that was begun after this many bytes was acknowledged."""
    with notes.open("rb") as file:
        file.seek(start)
        lines = [json.loads(line) for line in file if line.endswith(b"\n")]
    return any(
        len(asked) == 6 and asked[1] in WRITES and len(told) == 3 and not told[1] for asked, told in pairwise(lines)
    )


@pytest.fixture
def server(config: Config, request: pytest.FixtureRequest) -> Iterator[SeaweedServer | None]:
    """The server that the store of the configuration is on; it is up again when the test is over."""
    if not config.storage.uri.startswith("s3:"):
        yield None
        return
    server: SeaweedServer = request.getfixturevalue("s3_server")
    yield server
    if not server.running:
        server.restart()


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_killing_whoever_takes_part_loses_nothing(
    actor_registry: ModelRegistry, config: Config, server: SeaweedServer | None, tmp_path: Path, kills: int
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().getrandbits(32)))
    print(f"KILL_SEED={seed}")
    choose = random.Random(seed)
    load = Load(config, tmp_path, server, seed)
    try:
        victims = load.victims()
        order = [*victims, *(choose.choice([*victims, "process", "process"]) for _ in range(kills))][:kills]
        for victim in order:
            victims[victim]()
    finally:
        load.end()
    store = open_store(config.storage.uri, config)
    log = Log(store, PREFIX)
    events: list[dict[str, Any]] = [event for entry in log.entries() for event in log.read(entry.number)]
    history = read_notes(load.notes)
    check(history, events)
    acknowledged = [operation for operation in history if operation.kind in WRITES and not operation.code]
    assert len(acknowledged) >= kills
    assert any(operation.code == UNKNOWN for operation in history)  # they were killed in the middle of something
    held = [record.model_dump() for record in ModelCatalog(store).list()]
    assert held
    assert [record.model_dump() for record in RemoteCatalog(config).list()] == held
    report = check_store(store)
    assert not report.damaged, report.in_words()
    assert {finding.problem.partition(" (")[0] for finding in report.findings} <= {"is named by no model"}
