"""A storage with a registered model, and a solver over it without and with Ray."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from compute import Config
from jobs import train_model
from solver import SolverService, get_solver_service

INSTANCES = Path(__file__).parent / "instances"
HARD = INSTANCES / "markshare1.mps.gz"
"""No engine proves its optimum within minutes."""

KNAPSACK = {
    "variables": {name: {"lower": 0, "upper": 1, "integer": True} for name in "abc"},
    "maximize": "8*a + 11*b + 6*c + 1",
    "subject_to": ["weight: 5*a + 7*b + 4*c <= 12"],
}


def question(**source: object) -> dict[str, Any]:
    """An optimization as the service is asked for it."""
    return {"type": "optimization", **source}


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something that is about to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def flights(rows: int, seed: int = 0) -> pd.DataFrame:
    """A table whose target is known: the delay grows with the distance, and one carrier is late."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "distance": random.integers(100, 3000, rows),
            "carrier": random.choice(["AA", "UA", "WN"], rows),
            "night": random.random(rows) < 0.3,
        }
    )
    frame["delay"] = frame["distance"] / 100 + 10.0 * (frame["carrier"] == "UA") - 2.0 * frame["night"]
    return frame


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def solving() -> set[int]:
    """The processes that solve, among all that this one has started; Ray's and others' come and go meanwhile."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = child.parent()
            if parent is not None and all("solver.optimization.forkserver" in it.cmdline() for it in (child, parent)):
                found.add(child.pid)
    return found


def labelled(rows: int) -> list[dict[str, Any]]:
    """Entities that carry their target under the name that is looked for when none is given."""
    return records(flights(rows).rename(columns={"delay": "target"}))


@pytest.fixture
def local(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration for this process alone, without Ray, to which other tests of this session may be connected."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    compute = config.compute.model_copy(update={"backend": "local", "local_workers": 1})
    return config.model_copy(update={"compute": compute})


@pytest.fixture
def solver(local: Config) -> Iterator[SolverService]:
    service = get_solver_service(local)
    yield service
    service.close()


@pytest.fixture
def model(local: Config) -> dict[str, Any]:
    """A registered regression, named ``delays``."""
    return train_model(flights(400), "delay", model_type="linear", name="delays", config=local)


@pytest.fixture
def classifier(local: Config) -> dict[str, Any]:
    """A registered classification, named ``late``."""
    frame = flights(400)
    frame["delay"] = np.where(frame["delay"] > 20, "late", "fine")
    return train_model(frame, "delay", model_type="lightgbm", name="late", config=local)


@pytest.fixture
def clock() -> Callable[[Callable[[], object]], float]:
    """Gives the median seconds of a call, once it is warm."""

    def measure(call: Callable[[], object]) -> float:
        call()
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    return measure
