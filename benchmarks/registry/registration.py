"""Registrations a second: a new model and its version, with metadata and tags; each is on the store when answered."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.registry.peer import Peer
from benchmarks.registry.population import draft
from benchmarks.table import Row, in_threads, in_turns
from compute import Config
from registry.actor import RemoteCatalog
from registry.catalog import ModelCatalog
from tests.seaweed import BUCKET, SeaweedServer

CLIENTS = (1, 8, 32)
_TURNS = 5
_TARGET_MLFLOW = 10.0
_TARGET_PUTS = 3.0


def on_directory(config: Config, peer: Peer, *, quick: bool) -> list[Row]:
    """Beside MLflow on SQLite: both in the process of the clients, and both behind their server."""
    pairs = {
        "in process": ("local", ModelCatalog.of(config), 60, 1_000),
        "behind a server": ("server", RemoteCatalog(config), 24, 400),
    }
    rows = []
    for where, (place, catalog, of_mlflow, ours) in pairs.items():
        for clients in CLIENTS:
            theirs = of_mlflow + 2 * clients
            rates = _rates(
                {
                    "mlflow": (theirs, partial(peer.ask, "register", clients=clients, count=theirs, place=place)),
                    "ours": (ours, partial(in_threads, partial(_register, catalog), clients, ours)),
                },
                1 if quick else _TURNS,
            )
            rows += [
                Row(f"MLflow on SQLite, {where}, {clients} clients", rates["mlflow"], "models/s"),
                Row(
                    f"a directory, {where}, {clients} clients",
                    rates["ours"],
                    "models/s",
                    rates["ours"] / rates["mlflow"],
                    _TARGET_MLFLOW if clients == max(CLIENTS) else None,
                ),
            ]
    return rows


def on_s3(config: Config, server: SeaweedServer, *, quick: bool) -> list[Row]:
    """Beside PUTs one after another, by the plainest client, of as many bytes as a journal's entry of one model has."""
    client = server.client()
    catalog = ModelCatalog.of(config)
    body = draft(0).model_dump_json().encode()
    count = 300

    def put_all() -> None:
        for _ in range(count):
            client.put_object(Bucket=BUCKET, Key=f"plain/{uuid.uuid4().hex}", Body=body)

    work: dict[str, tuple[int, Callable[[], object]]] = {"puts": (count, put_all)}
    for clients in CLIENTS:
        models = 50 * clients
        work[f"{clients} clients"] = (models, partial(in_threads, partial(_register, catalog), clients, models))
    rates = _rates(work, 1 if quick else _TURNS)
    client.close()
    return [
        Row("S3: PUTs one after another", rates["puts"], "puts/s"),
        *(
            Row(
                f"S3, in process, {clients} clients",
                rates[f"{clients} clients"],
                "models/s",
                rates[f"{clients} clients"] / rates["puts"],
                _TARGET_PUTS if clients == max(CLIENTS) else None,
            )
            for clients in CLIENTS
        ),
    ]


def _register(catalog: ModelCatalog | RemoteCatalog, number: int) -> None:
    catalog.register(draft(number, uuid.uuid4().hex))


def _rates(work: Mapping[str, tuple[int, Callable[[], object]]], turns: int) -> dict[str, float]:
    seconds = in_turns({name: call for name, (_, call) in work.items()}, turns)
    return {name: count / seconds[name] for name, (count, _) in work.items()}
