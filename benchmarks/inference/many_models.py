"""A thousand models, of which fifty are hot: what requests to these take next to those to a single model."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np

from benchmarks.inference.load import offer, p99
from benchmarks.inference.models import FEATURES, local_config
from benchmarks.inference.servers import Server
from registry import Column, Signature, get_model_registry

MODELS, HOT = 1_000, 50
_SHARE = 0.9
_RATE = 200.0


def many_models(server: Server, state: Path, seconds: float) -> list[str]:
    """Register them, load the hot ones, and ask by Zipf's law: nine in ten requests are for the hot, the rest load."""
    import xgboost

    registry = get_model_registry(local_config(state))
    columns = tuple(Column(name=f"f{number}", dtype="float", nullable=True) for number in range(FEATURES))
    signature = Signature(columns=columns, task="regression", classes=None)
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(200, FEATURES)).astype("float32")
    for number in range(MODELS):
        table = xgboost.DMatrix(matrix, label=matrix[:, number % FEATURES], feature_names=list(signature.feature_names))
        model = xgboost.train({"max_depth": 3, "seed": number, "nthread": 1}, table, 10)
        registry.register_model(model, "xgboost", name=f"many-{number}", signature=signature)
    for number in range(HOT):
        url = server.url.replace("bench", f"many-{number}")
        httpx.post(url, content=server.body, headers=server.headers, timeout=60).raise_for_status()
    weights = 1 / np.arange(1, MODELS + 1)
    weights[:HOT] *= _SHARE / weights[:HOT].sum()
    weights[HOT:] *= (1 - _SHARE) / weights[HOT:].sum()
    chosen = rng.choice(MODELS, size=100_000, p=weights / weights.sum())
    base = server.url.split("/", 3)[3]

    alone = p99(offer(server, _RATE, 5 * seconds).answered.values())
    many = offer(server, _RATE, 5 * seconds, lambda number: "/" + base.replace("bench", f"many-{chosen[number]}"))
    hot = p99(took for number, took in many.answered.items() if chosen[number] < HOT)
    cold = p99(took for number, took in many.answered.items() if chosen[number] >= HOT)
    return [
        f"  {MODELS:,} models at {_RATE:.0f} requests/s, p99: one model alone {alone:.2f} ms; the {HOT} hot ones "
        f"{hot:.2f} ms ({hot / alone:.2f}); the others, which are loaded meanwhile, {cold:.2f} ms; failed {many.failed}"
    ]
