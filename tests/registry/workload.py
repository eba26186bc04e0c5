"""Clients of a registry that write down what they ask for and what they are told, while others do the same.

What a client writes down is on the disk of the operating system at once, so it outlives a client that is killed.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compute.errors import ComputeError
from registry import ArtifactStore
from registry.actor import RemoteCatalog
from registry.catalog import ModelCatalog
from registry.models import Draft, new_id
from registry.records import Artifact, ModelRecord
from tests.registry.linearizability import UNKNOWN, Kind, Operation, Seen

NAMES = ("alpha", "beta", "gamma")
_NOTHING = Artifact(digest=f"sha256:{'0' * 64}", size=1)
_REFUSALS = ("model-not-found", "revision-mismatch")


class Client:
    """Asks a catalog, and writes down each call before it is made and each answer after it came.

    Parameters
    ----------
    catalog : ModelCatalog or RemoteCatalog
        What is asked.
    session : str
        See `linearizability`.
    notes : Path
        Where it is written down; one client's own.
    artifacts : ArtifactStore, optional
        Where the bytes of models go before they are registered; by default there are none.
    """

    def __init__(
        self,
        catalog: ModelCatalog | RemoteCatalog,
        session: str,
        notes: Path,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        self._catalog = catalog
        self._session = session
        self._artifacts = artifacts
        self._notes = os.open(notes, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def register(self, name: str) -> Seen | None:
        model = new_id()

        def call() -> ModelRecord:
            artifact = _NOTHING if self._artifacts is None else self._artifacts.write(os.urandom(2000))
            draft = Draft(model_id=model, name=name, model_type="t", format="onnx", artifact=artifact)
            return self._catalog.register(draft)

        return self._do("register", name, call, change=model)

    def patch(self, seen: Seen) -> Seen | None:
        change = new_id()
        updates = {"count": seen.count + 1}
        return self._do(
            "patch",
            seen.model,
            lambda: self._catalog.update(seen.model, updates, seen.revision, change),
            change=change,
            revision=seen.revision,
        )

    def delete(self, seen: Seen) -> None:
        change = new_id()
        self._do(
            "delete",
            seen.model,
            lambda: self._catalog.delete(seen.model, seen.revision, change, force=False),
            change=change,
            revision=seen.revision,
        )

    def get(self, model: str) -> Seen | None:
        return self._do("get", model, lambda: self._catalog.get(model))

    def resolve(self, name: str) -> Seen | None:
        return self._do("resolve", name, lambda: self._catalog.resolve(name))

    def _do(
        self, kind: Kind, about: str, call: Callable[[], ModelRecord | None], change: str = "", revision: int = 0
    ) -> Seen | None:
        seen, code, called = None, "", _now()
        self._note([self._session, kind, about, change, revision, called])
        try:
            record = call()
        except ComputeError as error:
            code = error.code if error.code in _REFUSALS else UNKNOWN
        else:
            if record is not None:
                count = record.metadata.get("count", 0)
                seen = Seen(record.model_id, record.version, record.revision, count)
        self._note([_now(), code, seen])
        return seen

    def _note(self, values: list[Any]) -> None:
        os.write(self._notes, json.dumps(values).encode() + b"\n")


def work(client: Client, seed: int, stop: Callable[[int], bool]) -> None:
    """Register, patch, delete and read until told to stop; all who do contend for the newest versions of a few names.

    Parameters
    ----------
    client : Client
        Who does it.
    seed : int
        Of what is done.
    stop : callable
        Is given how much was done, and says whether that is enough.
    """
    choose = random.Random(seed)
    known: list[str] = []
    rounds = 0
    while not stop(rounds):
        rounds += 1
        name = choose.choice(NAMES)
        seen = client.resolve(name)
        what = choose.random()
        if seen is None or what < 0.25:
            made = client.register(name)
            known += [made.model] if made is not None else []
        elif what < 0.75:
            client.patch(seen)
        elif what < 0.85:
            client.delete(seen)
        elif known:
            client.get(choose.choice(known))


def read_notes(notes: Iterable[Path]) -> list[Operation]:
    """Return what clients wrote down; what is left without an answer is unknown for ever."""
    history = []
    for path in notes:
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        begun = None
        for line in lines:
            if len(line) == 3:
                returned, code, seen = line
                assert begun is not None
                history.append(_operation(begun, returned, code, seen))
                begun = None
            else:
                if begun is not None:
                    history.append(_operation(begun, math.inf, UNKNOWN, None))
                begun = line
        if begun is not None:
            history.append(_operation(begun, math.inf, UNKNOWN, None))
    return history


def _operation(begun: list[Any], returned: float, code: str, seen: list[Any] | None) -> Operation:
    session, kind, about, change, revision, called = begun
    if code == UNKNOWN:  # it may still happen
        returned = math.inf
    return Operation(
        session, kind, about, change, revision, called, returned, code, None if seen is None else Seen(*seen)
    )


def _now() -> float:
    return time.clock_gettime(time.CLOCK_MONOTONIC)  # one clock for all processes of the machine
