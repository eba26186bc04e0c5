"""Many processes and two actors write to one store at once, and all that anybody saw fits one sequence of events.

`linearizability` says what that means; the first tests see that its checker finds what is wrong.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from compute import Config
from registry import ModelRegistry
from registry.actor import ModelActor, RemoteCatalog
from registry.catalog import PREFIX, ModelCatalog
from registry.log import Log
from registry.storage import open_store
from tests.registry.linearizability import UNKNOWN, WRITES, Operation, Seen, Violation, check
from tests.registry.workload import Client, read_notes, work


def registered(model: str, version: int = 1, name: str = "n") -> dict[str, Any]:
    return {"kind": "registered", "record": {"model_id": model, "name": name, "version": version, "revision": 1}}


def updated(model: str, change: str, count: int) -> dict[str, Any]:
    fields = {"metadata": {"count": count}}
    return {"kind": "updated", "model_id": model, "name": "n", "version": 1, "change": change, "fields": fields}


def deleted(model: str, change: str) -> dict[str, Any]:
    return {"kind": "deleted", "model_id": model, "name": "n", "version": 1, "change": change}


def operation(kind: Any, about: str, when: tuple[float, float], seen: Seen | None = None, **fields: Any) -> Operation:
    facts = {"session": "a", "change": "", "revision": 0, "code": "", **fields}
    return Operation(kind=kind, about=about, called=when[0], returned=when[1], seen=seen, **facts)


FIRST, SECOND = Seen("m", 1, 1, 0), Seen("m", 1, 2, 1)
LOG = [registered("m"), updated("m", "c", 1)]
REGISTER = operation("register", "n", (1, 2), FIRST, change="m")
PATCH = operation("patch", "m", (3, 4), SECOND, change="c", revision=1)
BOTH = [REGISTER, PATCH]
RIGHT = {
    "the writes": (BOTH, LOG),
    "a read while the write is under way": ([*BOTH, operation("get", "m", (3.1, 3.9), FIRST)], LOG),
    "a read after it": ([*BOTH, operation("get", "m", (5, 6), SECOND)], LOG),
    "a read of a name": ([*BOTH, operation("resolve", "n", (5, 6), SECOND)], LOG),
    "nothing is there yet": ([*BOTH, operation("get", "m", (0, 1.5), code="model-not-found")], LOG),
    "a refusal": ([*BOTH, operation("patch", "m", (5, 6), change="d", revision=1, code="revision-mismatch")], LOG),
    "never told, and done": ([REGISTER, PATCH._replace(code=UNKNOWN, returned=float("inf"), seen=None)], LOG),
    "never told, and not done": ([REGISTER, PATCH._replace(code=UNKNOWN, seen=None)], LOG[:1]),
}
WRONG = {
    "acknowledged, and not in the log": (BOTH, LOG[:1]),
    "nobody asked for": ([REGISTER], LOG),
    "happened at 2 and again at 3": (BOTH, [*LOG, updated("m", "c", 2)]),
    "goes from version 1 to 3": (BOTH, [*LOG, registered("x", 3)]),
    "goes from version 1 to 1": (BOTH, [*LOG, registered("x", 1)]),
    "was lost": (BOTH, [*LOG, updated("m", "d", 1)]),
    "where it is not": (BOTH, [LOG[0], deleted("m", "d"), LOG[1]]),
    "answered otherwise": ([REGISTER, PATCH._replace(seen=Seen("m", 1, 2, 7))], LOG),
    "to another revision": ([REGISTER, PATCH._replace(revision=2)], LOG),
    "refused, and done": ([REGISTER, PATCH._replace(code="revision-mismatch", seen=None)], LOG),
    "right at no point from 2 on, .*get": ([*BOTH, operation("get", "m", (5, 6), FIRST)], LOG),
    "right at no point from 2 on, .*resolve": ([*BOTH, operation("resolve", "n", (5, 6), FIRST)], LOG),
    "right at no point from 1 on, .*model-not-found": (
        [*BOTH, operation("get", "m", (2.5, 2.6), code="model-not-found")],
        LOG,
    ),
    "right at no point from 2 on, .*revision-mismatch": (
        [*BOTH, operation("patch", "m", (5, 6), change="d", revision=2, code="revision-mismatch")],
        LOG,
    ),
    "at 1, though what happened at 2 had returned": (
        [REGISTER._replace(called=5, returned=6), PATCH],
        LOG,
    ),
    "right at no point from 2 on, .*3.6": (  # back in time: a later read of another session sees less
        [*BOTH, operation("get", "m", (3.1, 3.5), SECOND), operation("get", "m", (3.6, 3.7), FIRST, session="b")],
        LOG,
    ),
}


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_the_checker_lets_right_histories_pass(case: tuple[list[Operation], list[dict[str, Any]]]) -> None:
    check(*case)


@pytest.mark.parametrize("reason", WRONG)
def test_the_checker_finds_what_is_wrong(reason: str) -> None:
    with pytest.raises(Violation, match=reason):
        check(*WRONG[reason])


def test_the_checker_allows_so_much_staleness_and_no_more() -> None:
    old = operation("get", "m", (4.1, 4.2), FIRST, session="b")
    check([*BOTH, old], LOG, staleness=0.2)
    for wrong in (old._replace(called=4.3, returned=4.4), old._replace(session="a")):  # its own writes it sees at once
        with pytest.raises(Violation, match="right at no point from 2"):
            check([*BOTH, wrong], LOG, staleness=0.2)
    newer = operation("get", "m", (4.05, 4.07), SECOND, session="b")
    with pytest.raises(Violation, match="right at no point from 2"):  # and never goes back
        check([*BOTH, newer, old], LOG, staleness=0.2)


def in_a_process(config: Config, notes: Path, seed: int, rounds: int, done: Barrier) -> None:
    """Work with a catalog of its own; when all are done, write down what it holds."""
    catalog = ModelCatalog(
        open_store(config.storage.uri, config), snapshot_every=40, read_staleness=config.storage.staleness
    )
    work(Client(catalog, notes.name, notes), seed, lambda number: number == rounds)
    done.wait(800)
    time.sleep(config.storage.staleness)  # for so long, what the others wrote last may be missed
    notes.with_suffix(".state").write_text(json.dumps(state_of(catalog)))


def state_of(catalog: ModelCatalog | RemoteCatalog) -> list[Any]:
    return [record.model_dump(mode="json") for record in catalog.list()]


def through(config: Config, handle: Any) -> RemoteCatalog:
    """Return the way to one certain actor of a store; as after a split there are two."""
    catalog = RemoteCatalog(config)
    catalog._find = lambda *, renew=False: handle  # type: ignore[method-assign]
    return catalog


def with_staleness(config: Config, seconds: float) -> Config:
    return config.model_copy(update={"storage": config.storage.model_copy(update={"read_staleness": seconds})})


@pytest.mark.parametrize(
    ("staleness", "rounds"),
    [(0.0, 6), pytest.param(0.0, 300, marks=pytest.mark.slow), pytest.param(0.5, 300, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(900)
def test_eight_processes_and_two_actors_have_one_history(
    actor_registry: ModelRegistry, config: Config, tmp_path: Path, staleness: float, rounds: int
) -> None:
    import ray

    config = with_staleness(config, staleness)
    if config.storage.uri.startswith("s3:"):  # where each of ten writers loses nine races to win one
        rounds //= 2
    one = RemoteCatalog(config)._find()
    other = ray.remote(ModelActor).options(num_cpus=0, max_concurrency=8).remote(config)
    actors = {"actor-1": through(config, one), "actor-2": through(config, other)}
    forking = multiprocessing.get_context("forkserver")  # so that eight processes start in the time of one
    forking.set_forkserver_preload(["tests.registry.workload"])
    done = forking.Barrier(9)
    notes = [tmp_path / f"process-{number}" for number in range(8)]
    processes = [
        forking.Process(target=in_a_process, args=(config, path, seed, rounds, done)) for seed, path in enumerate(notes)
    ]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        for number in range(4):  # two callers to each actor
            session = f"actor-{number % 2 + 1}"
            notes.append(tmp_path / f"caller-{number}")
            client = Client(actors[session], session, notes[-1])
            pool.submit(work, client, 100 + number, lambda number: number == rounds)
    done.wait(800)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    history = read_notes(notes)
    assert UNKNOWN not in {operation.code for operation in history}
    log = Log(open_store(config.storage.uri, config), PREFIX)
    events = [event for entry in log.entries() for event in log.read(entry.number)]
    states = check(history, events, staleness)
    done_writes = [operation for operation in history if operation.kind in WRITES and not operation.code]
    assert len(states.points) == len(done_writes) > rounds
    assert any(operation.code == "revision-mismatch" for operation in history)  # they did contend
    held = [json.loads(path.with_suffix(".state").read_text()) for path in notes[:8]]
    held += [state_of(actor) for actor in actors.values()]
    held.append(state_of(ModelCatalog(open_store(config.storage.uri, config))))
    assert held[0]
    assert all(state == held[0] for state in held)
    ray.kill(other)
