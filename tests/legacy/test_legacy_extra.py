"""The engines of the extra `legacy` train and register: run by `make test-legacy` in an environment of its own.

`xgboost-ray` and `lightgbm-ray` are no longer maintained and need `xgboost<2.1`; the rest of the project does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray

from compute import Config, load_config
from compute.errors import InvalidField, ResourcesUnavailable
from jobs import MLTasks, get_ml_tasks
from registry import get_model_registry

ENGINES = {"xgboost_ray": "xgboost", "lightgbm_ray": "lightgbm"}
ROWS = 2_000


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    default = load_config()
    storage = default.storage.model_copy(
        update={
            "uri": tmp_path_factory.mktemp("state").as_uri(),
            "cache": default.storage.cache.model_copy(update={"directory": str(tmp_path_factory.mktemp("cache"))}),
        }
    )
    return default.model_copy(update={"storage": storage})


@pytest.fixture(scope="module")
def tasks(config: Config) -> MLTasks:
    return get_ml_tasks(config)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Numbers with gaps, and categories that decide."""
    random = np.random.default_rng(0)
    kind = random.choice(["a", "b", "c"], ROWS)
    x = random.random(ROWS)
    amount = 10 * x + pd.Series(kind).map({"a": 0.0, "b": 5.0, "c": -5.0}).to_numpy()
    x[::50] = np.nan
    size = pd.cut(amount, [-np.inf, -2, 7, np.inf], labels=["small", "middle", "large"]).astype(str)
    return pd.DataFrame({"x": x, "kind": kind, "noise": random.random(ROWS), "amount": amount, "size": size})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("target", ["amount", "size", "large"])
def test_an_engine_trains_as_well_as_this_process_and_registers(
    engine: str, target: str, tasks: MLTasks, frame: pd.DataFrame, config: Config
) -> None:
    data = frame.assign(large=frame["size"] == "large")[["x", "kind", "noise", target]]
    options: dict[str, Any] = {"model_params": {"n_estimators": 20}, "seed": 1}
    trained = tasks.train_model(data, target, engine=engine, num_workers=2, name=f"{engine}-{target}", **options)
    assert trained["model_type"] == ENGINES[engine]
    assert (trained["plan"]["mode"], trained["plan"]["workers"]) == ("distributed", 2)
    assert engine in trained["plan"]["reason"]
    here = tasks.train_model(data, target, model_type=ENGINES[engine], distribute_data=False, **options)
    measure = "rmse" if target == "amount" else "log_loss"
    assert trained["metrics"][measure] == pytest.approx(here["metrics"][measure], rel=0.3)
    assert trained["metrics"][measure] < 0.5 * trained["metrics"][f"baseline_{measure}"]
    # It takes raw rows, and predicts what it was measured to.
    predicted = tasks.predict_batch(trained["model_id"], data.drop(columns=target), distributed=False)
    assert isinstance(predicted, pd.Series)
    if target == "amount":
        assert np.corrcoef(predicted, data[target])[0, 1] > 0.95
    else:
        assert (predicted.to_numpy() == data[target].to_numpy()).mean() > 0.9
    lineage = get_model_registry(config).get_model(trained["model_id"]).lineage
    assert engine.replace("_", "-") in {name.replace("_", "-") for name in lineage["software"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_trained(engine: str, tasks: MLTasks, frame: pd.DataFrame) -> None:
    with pytest.raises(InvalidField, match="dpeth"):
        tasks.train_model(frame, "amount", engine=engine, model_params={"dpeth": 3})
    with pytest.raises(ResourcesUnavailable, match="9 training workers"):
        tasks.train_model(frame, "amount", engine=engine, num_workers=9)
