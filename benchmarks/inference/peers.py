"""Peers in environments of their own, each as its own documentation starts it: MLServer, BentoML, MLflow."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from benchmarks.inference.models import FEATURES
from benchmarks.inference.servers import PROJECT, Server, free_port, running

_JSON = {"Content-Type": "application/json"}


def peers(stack: contextlib.ExitStack, file: Path, row: list[float]) -> tuple[dict[str, Server], list[str]]:
    """Start those that are installed with a booster; gives them, and what to do about the others."""
    starts = {"MLServer": _mlserver, "BentoML": _bentoml, "MLflow models serve": _mlflow}
    found, left_out = {}, []
    for name, start in starts.items():
        environment = PROJECT / f".venv-{name.partition(' ')[0].lower()}"
        if (environment / ".installed").exists():
            found[name] = start(stack, environment / "bin", file, row)
        else:
            left_out.append(f"  {name} left out: `make bench-peers` installs it")
    return found, left_out


def _mlserver(stack: contextlib.ExitStack, tools: Path, file: Path, row: list[float]) -> Server:
    place, ports = file.parent / "mlserver", [free_port() for _ in range(3)]
    place.mkdir()
    http, grpc, metrics = ports
    settings = {
        "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "debug": False,
        "parallel_workers": 0,
    }  # fmt: skip
    (place / "settings.json").write_text(json.dumps(settings))
    model = {"name": "bench", "implementation": "mlserver_xgboost.XGBoostModel", "parameters": {"uri": str(file)}}
    (place / "model-settings.json").write_text(json.dumps(model))
    stack.enter_context(running([str(tools / "mlserver"), "start", str(place)]))
    tensor = {"name": "input", "shape": [1, FEATURES], "datatype": "FP32", "data": row}
    return Server(f"http://127.0.0.1:{http}/v2/models/bench/infer", json.dumps({"inputs": [tensor]}), _JSON)


def _bentoml(stack: contextlib.ExitStack, tools: Path, file: Path, row: list[float]) -> Server:
    port = free_port()
    command = [str(tools / "bentoml"), "serve", "bentoml_peer:Bench", "--host", "127.0.0.1", "--port", str(port)]
    where = ["--working-dir", str(Path(__file__).parent)]
    stack.enter_context(running([*command, *where], BENCH_MODEL=str(file), BENTOML_DO_NOT_TRACK="1"))
    return Server(f"http://127.0.0.1:{port}/predict", json.dumps({"rows": [row]}), _JSON)


def _mlflow(stack: contextlib.ExitStack, tools: Path, file: Path, row: list[float]) -> Server:
    place, port = file.parent / "mlflow", free_port()
    code = (
        "import sys, mlflow.xgboost, xgboost\n"
        "mlflow.xgboost.save_model(xgboost.Booster(model_file=sys.argv[1]), sys.argv[2])\n"
    )
    subprocess.run([str(tools / "python"), "-c", code, str(file), str(place)], check=True, capture_output=True)
    command = [str(tools / "python"), "-m", "mlflow", "models", "serve", "-m", str(place), "-h", "127.0.0.1"]
    # It looks for uvicorn on the path.
    where = f"{tools}:{os.environ['PATH']}"
    stack.enter_context(running([*command, "-p", str(port), "--env-manager", "local"], PATH=where))
    split = {"columns": [f"f{number}" for number in range(FEATURES)], "data": [row]}
    return Server(f"http://127.0.0.1:{port}/invocations", json.dumps({"dataframe_split": split}), _JSON)
