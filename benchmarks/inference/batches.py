"""Many rows a request, V2 in binary tensors: rows a second next to the same `predict` in process."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.inference.models import FEATURES, data, read_model
from benchmarks.inference.servers import Server, measure

ROWS = 1_000
_TURNS = 5
_CLIENTS = (1, 4)


def batches(servers: dict[str, Server], file: Path, seconds: float) -> list[str]:
    """Ask each server in turn, with clients that wait for each answer."""
    matrix = data()[0][:ROWS].copy()
    predict = read_model(str(file))
    tensor = {"name": "input", "shape": [ROWS, FEATURES], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": matrix.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    asked = {
        name: dataclasses.replace(
            server,
            body=head + matrix.tobytes(),
            headers={**server.headers, "Inference-Header-Content-Length": str(len(head))},
        )
        for name, server in servers.items()
    }
    here: list[float] = []
    there: dict[tuple[str, int], list[float]] = {(name, count): [] for name in servers for count in _CLIENTS}
    for _ in range(_TURNS):
        here.append(_rate(lambda: predict(matrix), seconds))
        for name, count in there:
            there[name, count].append(measure(asked[name], count, seconds).per_second)
    base = statistics.median(here)
    lines = [f"  xgboost, {ROWS:,} rows a request in binary: rows/s; in process, one thread, {base * ROWS:,.0f}"]
    for (name, count), rates in there.items():
        rate = statistics.median(rates)
        lines.append(f"    {name:<24} {count} clients {rate * ROWS:>9,.0f}   {rate / base:.2f} of in process")
    return lines


def _rate(call: Callable[[], Any], seconds: float) -> float:
    call()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - began)
