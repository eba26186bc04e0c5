"""Servers side by side, one request a row, in turns; needs `wrk`."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.inference.batches import batches
from benchmarks.inference.flood import flood
from benchmarks.inference.many_models import many_models
from benchmarks.inference.models import FEATURES, data, local_config, write_model
from benchmarks.inference.peers import peers
from benchmarks.inference.servers import Load, Server, free_port, measure, ours, process, wait_for
from deployments.tokens import TokenStore
from registry import Column, Signature, get_model_registry, open_store

CONNECTIONS = (1, 16, 64)
TURNS = 5
SECONDS = 2.0
OURS = "ours"
PEER = "FastAPI on uvicorn"


def run(*, quick: bool = False) -> Iterator[str]:
    """Measure all servers with a booster, then with a forest and a pipeline of a scaler and a logistic regression."""
    if shutil.which("wrk") is None:
        yield "  left out: there is no `wrk` on this machine"
        return
    for kind in ("xgboost", "random_forest", "logistic_pipeline"):
        yield from _measure(kind, quick=quick)


def _measure(kind: str, *, quick: bool) -> list[str]:
    turns, seconds = (1, 1.0) if quick else (TURNS, SECONDS)
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        state, file = Path(directory, "state"), Path(directory, "model.ubj" if kind == "xgboost" else "model.joblib")
        _register(kind, state, file)
        servers, lines = _start(stack, kind, state, file)
        found: dict[str, dict[int, list[Load]]] = {name: {count: [] for count in CONNECTIONS} for name in servers}
        for server in servers.values():
            wait_for(server)
            measure(server, 16, 1.0)  # warm
        for _ in range(turns):
            for count in CONNECTIONS:
                for name, server in servers.items():
                    found[name][count].append(measure(server, count, seconds))
        lines += _table(kind, found)
        if kind == "xgboost":
            ours_alone = {name: server for name, server in servers.items() if name.startswith(OURS)}
            lines += batches(ours_alone, file, seconds)
            lines += many_models(servers[OURS], state, seconds)
            lines += flood(servers[OURS], found[OURS][64], 5 if quick else 60)
        return lines


def _register(kind: str, state: Path, file: Path) -> None:
    config = local_config(state)
    classes = None if kind == "xgboost" else (False, True)
    columns = tuple(Column(name=f"f{number}", dtype="float", nullable=True) for number in range(FEATURES))
    signature = Signature(columns=columns, task="regression" if classes is None else "binary", classes=classes)
    get_model_registry(config).register_model(write_model(kind, file), kind, name="bench", signature=signature)
    token = TokenStore(open_store(config.storage.uri, config)).create("bench", "read", None).secret
    (state / "bench-token").write_text(token, encoding="utf-8")


def _start(stack: contextlib.ExitStack, kind: str, state: Path, file: Path) -> tuple[dict[str, Server], list[str]]:
    row = data()[0][0].tolist()
    ports = [free_port() for _ in range(4)]
    plain = json.dumps({"rows": [row]})
    tensor = {"name": "input", "shape": [1, FEATURES], "datatype": "FP32", "data": row}
    asked = json.dumps({"inputs": [tensor]} if kind == "xgboost" else {
        "inputs": [tensor], "outputs": [{"name": "predict_proba"}]
    })  # fmt: skip
    json_header = {"Content-Type": "application/json"}
    token = (state / "bench-token").read_text(encoding="utf-8")
    authorized = {**json_header, "Authorization": f"Bearer {token}"}
    url = stack.enter_context(ours(state, ports[3]))
    stack.enter_context(process("benchmarks.inference.bare", str(ports[0]), COMPUTE_STORAGE__URI=str(state)))
    stack.enter_context(process("benchmarks.inference.fastapi_peer", str(file), str(ports[1])))
    stack.enter_context(process("benchmarks.inference.serve_peer", str(file), str(ports[2])))
    others, lines = peers(stack, file, row) if kind == "xgboost" else ({}, [])
    servers = {
        OURS: Server(f"{url}/models/bench/infer", asked, authorized),
        "ours, data port": Server(f"http://127.0.0.1:{ports[3]}/v2/models/bench/infer", asked, authorized),
        "ours on bare uvicorn": Server(f"http://127.0.0.1:{ports[0]}/models/bench/infer", asked, authorized),
        PEER: Server(f"http://127.0.0.1:{ports[1]}/predict", plain, json_header),
        "Ray Serve as it comes": Server(f"http://127.0.0.1:{ports[2]}/predict", plain, json_header),
    }
    return servers | others, lines


def _table(kind: str, found: dict[str, dict[int, list[Load]]]) -> list[str]:
    lines = [f"  {kind}, one row: requests/s (p50, p99 in ms) at {', '.join(map(str, CONNECTIONS))} connections"]
    for name, loads in found.items():
        cells = []
        for count in CONNECTIONS:
            rate, p50, p99 = (
                statistics.median(getattr(load, field) for load in loads[count])
                for field in ("per_second", "p50", "p99")
            )
            cells.append(f"{rate:>7,.0f} ({p50:.2f}, {p99:.2f})")
        lines.append(f"    {name:<24} {'   '.join(cells)}")
    for name in found:
        if name == OURS:
            continue
        ratios = [
            statistics.median(load.per_second for load in found[OURS][count])
            / statistics.median(load.per_second for load in found[name][count])
            for count in CONNECTIONS
        ]
        lines.append(f"    ours / {name}: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return lines
