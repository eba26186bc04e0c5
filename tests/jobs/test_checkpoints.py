"""A training whose process is killed goes on by the same call, to the same model; nothing is half registered."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compute import Config
from compute.errors import Corrupt, InvalidField
from jobs import train_model
from jobs.checkpoints import Checkpoints
from registry import get_model_registry, open_store

ROOT = Path(__file__).parents[2]
_CHILD = """
import sys
from tests.jobs.test_checkpoints import configured, train
train(configured(sys.argv[1]), sys.argv[2])
"""


def configured(state: str) -> Config:
    """The configuration with its state there."""
    from compute import load_config

    default = load_config()
    return default.model_copy(update={"storage": default.storage.model_copy(update={"uri": state})})


def train(config: Config, model_type: str) -> dict[str, Any]:
    """The call that is repeated: rows are drawn at random in each round, and some rows are watched."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((20_000, 10)), columns=[f"x{i}" for i in range(10)])
    frame["y"] = frame.sum(axis=1) ** 2 + rng.normal(size=20_000)
    params = {"n_estimators": 60, "subsample": 0.5, "bagging_freq": 1, "learning_rate": 0.05}
    if model_type == "xgboost":
        del params["bagging_freq"]
    return train_model(
        frame, "y", None, model_type, params, name="delays", checkpoint_every=5, early_stopping=50, seed=3,
        distribute_data=False, config=config,
    )  # fmt: skip


@pytest.mark.parametrize("model_type", ["xgboost", pytest.param("lightgbm", marks=pytest.mark.slow)])
def test_a_killed_training_goes_on_to_the_same_model(
    model_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = (tmp_path / "state").as_uri()
    child = subprocess.Popen([sys.executable, "-c", _CHILD, state, model_type], cwd=ROOT)
    place = tmp_path / "state" / "checkpoints"
    deadline = time.monotonic() + 200
    while not [file for file in place.glob("*/*") if file.name.isdigit()]:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()

    config = configured(state)
    registry = get_model_registry(config)
    assert registry.list_models() == []
    with caplog.at_level(logging.INFO, "jobs.boosting"):
        resumed = train(config, model_type)
    assert "event=resumed" in caplog.text
    assert list(open_store(state, config).list("checkpoints/")) == []
    assert [model.version for model in registry.list_models(name="delays")] == [1]

    other = configured((tmp_path / "other").as_uri())
    at_once = train(other, model_type)
    assert resumed["metrics"] == at_once["metrics"]
    digest = registry.get_model(resumed["model_id"]).artifact.digest
    assert digest == get_model_registry(other).get_model(at_once["model_id"]).artifact.digest


def test_checkpoints_are_of_one_training_and_checked(config: Config) -> None:
    store = open_store(config.storage.uri, config)
    checkpoints = Checkpoints(store, {"seed": 1}, 10)
    assert checkpoints.newest() is None
    checkpoints.save(b"one\ntwo", 10, [0.5], higher=False)
    checkpoints.save(b"three\nfour", 20, [0.5, 0.25], higher=True)
    assert len(list(store.list("checkpoints/"))) == 1
    kept = Checkpoints(store, {"seed": 1}, 10).newest()
    assert kept is not None
    assert (kept.model, kept.rounds, kept.scores, kept.higher) == (b"three\nfour", 20, [0.5, 0.25], True)
    assert Checkpoints(store, {"seed": 2}, 10).newest() is None
    assert Checkpoints(store, {"seed": 1}, 20).newest() is None
    key = next(iter(store.list("checkpoints/")))
    store.put(key, store.get(key)[:-1])
    with pytest.raises(Corrupt, match="Remove it"):
        checkpoints.newest()
    checkpoints.remove()
    assert checkpoints.newest() is None


def test_a_failing_training_registers_nothing(config: Config) -> None:
    frame = pd.DataFrame({"x": range(40), "y": [i * 1.5 for i in range(40)]})
    with pytest.raises(InvalidField):
        train_model(frame, "y", model_params={"objective": "reg:gamma"}, checkpoint_every=2, config=config)
    assert get_model_registry(config).list_models() == []
