"""Models of Dask DataFrames: trained and scored where the partitions are, kept and used as any other."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dask_bridge
import jobs
from compute import Config
from compute.config import ComputeSection
from compute.errors import ColumnMissing, DataError, InvalidField
from dask_bridge import get_ml_tasks
from registry import get_model_registry

ROWS = 4_000


def flights() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "distance": random.uniform(100, 3000, ROWS),
            "month": random.integers(1, 13, ROWS),
            "carrier": random.choice(["AA", "UA", "DL", "B6"], ROWS),
            "wind": np.where(random.random(ROWS) < 0.1, np.nan, random.normal(10, 3, ROWS)),
        }
    )
    late = table["distance"] / 100 + table["wind"].fillna(0) + 20 * (table["carrier"] == "UA")
    return table.assign(delay=late + random.normal(0, 1, ROWS), late=np.where(late > 30, "late", "in time"))


def dask_frame(table: pd.DataFrame) -> Any:
    import dask.dataframe

    frame = dask.dataframe.from_pandas(table, npartitions=4)
    # With an empty partition among them.
    return dask.dataframe.concat([frame, frame.partitions[[0]].query("distance < 0")])


def on(config: Config, address: str | None) -> Config:
    return config.model_copy(update={"compute": ComputeSection(backend="dask", dask_address=address)})


def check(config: Config, model_type: str, target: str, **params: Any) -> None:
    """Train on a Dask frame; score and measure there and in this process, with the same outcome."""
    table = flights()
    frame = dask_frame(table)
    tasks = get_ml_tasks(config)
    other = "late" if target == "delay" else "delay"
    trained = tasks.train_model(
        frame, target, model_type=model_type, model_params=params, name=f"{model_type}-{target}", exclude=[other]
    )
    assert trained["plan"]["mode"] == "distributed"
    assert trained["rows"] == ROWS
    assert 0.15 < trained["validation_rows"] / ROWS < 0.25
    assert trained["features"] == ["distance", "month", "carrier", "wind"]
    key = "rmse" if target == "delay" else "log_loss"
    assert trained["metrics"][key] < 0.3 * trained["metrics"][f"baseline_{key}"]

    raw = table.drop(columns=[target, other])
    here = jobs.predict_batch(trained["model_id"], raw, config=config)
    lazy = tasks.predict_batch(trained["model_id"], frame.drop(columns=[target, other]))
    assert lazy.npartitions == frame.npartitions
    assert lazy.name == "prediction"
    there = lazy.compute()
    assert there.dtype == lazy.dtype
    assert there.index.equals(here.index)
    if target == "late":
        assert there.tolist() == here.tolist()
        here = jobs.predict_batch(trained["model_id"], raw, proba=True, config=config)
        lazy = tasks.predict_batch(trained["model_id"], frame, proba=True, key_columns=["month"])
        there = lazy.compute()
        assert there.columns.tolist() == ["month", "prediction", "probability_in time", "probability_late"]
        assert there["month"].tolist() == table["month"].tolist()
        here, there = here["probability_late"], there["probability_late"]
    np.testing.assert_allclose(there.to_numpy(), here.to_numpy(), rtol=1e-6, atol=1e-6)

    whole = jobs.evaluate_model(trained["model_id"], table, config=config)
    parts = tasks.evaluate_model(trained["model_id"], frame)
    assert (parts["rows"], parts["dropped_rows"]) == (ROWS, 0)
    assert parts["metrics"] == pytest.approx(whole["metrics"], rel=1e-6)


def test_the_signatures_are_those_of_jobs() -> None:
    for name in ("train_model", "predict_batch", "evaluate_model"):
        ours = inspect.signature(getattr(dask_bridge.MLTasks, name)).parameters
        assert list(ours.values()) == list(inspect.signature(getattr(jobs.MLTasks, name)).parameters.values())


def test_xgboost_on_a_dask_cluster(config: Config, dask_processes: str) -> None:
    check(on(config, dask_processes), "xgboost", "delay", max_depth=4, n_estimators=40)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("target", ["delay", "late"])
def test_models_on_a_dask_cluster(config: Config, dask_processes: str, model_type: str, target: str) -> None:
    check(on(config, dask_processes), model_type, target, max_leaves=15, n_estimators=60)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_models_on_dask_on_ray(config: Config, ray_cluster: str, model_type: str) -> None:
    check(on(config, None), model_type, "delay", n_estimators=40)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["xgboost", pytest.param("lightgbm", marks=pytest.mark.slow)])
def test_weights_groups_and_early_stopping_on_a_dask_cluster(
    config: Config, dask_processes: str, model_type: str
) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"x": random.random(ROWS), "shop": random.integers(0, 200, ROWS), "w": 1.0})
    table["y"] = 10 * table["x"] + random.normal(0, 1, ROWS)
    table.loc[::2, ["y", "w"]] = (-50.0, 0.0)
    tasks = get_ml_tasks(on(config, dask_processes))
    import dask.dataframe

    options: dict[str, Any] = {"early_stopping": 5} if model_type == "xgboost" else {}
    many = {"n_estimators": 300 if options else 30, "max_depth": 3}
    trained = tasks.train_model(
        dask.dataframe.from_pandas(table, npartitions=4), "y", ["x"], model_type, many,
        group_col="shop", weight_col="w", **options,
    )  # fmt: skip
    assert trained["plan"]["mode"] == "distributed"
    assert 0.1 < trained["validation_rows"] / ROWS < 0.3
    model: Any = get_model_registry(config).load_model(trained["model_id"])
    if options:
        assert model.model.num_boosted_rounds() < 100
    low, high = model.predict(pd.DataFrame({"x": [0.1, 0.9]}))
    assert (low, high) == (pytest.approx(1.0, abs=1.0), pytest.approx(9.0, abs=1.0))


def test_a_model_of_one_node_has_the_frame_brought_here(config: Config, dask_processes: str) -> None:
    tasks = get_ml_tasks(on(config, dask_processes))
    trained = tasks.train_model(dask_frame(flights()), "delay", model_type="linear", exclude=["late"])
    assert trained["plan"]["mode"] == "single"
    assert trained["rows"] == ROWS


def test_what_is_wrong_is_said_before_anything_is_computed(config: Config, dask_processes: str) -> None:
    tasks = get_ml_tasks(on(config, dask_processes))
    frame = dask_frame(flights())
    with pytest.raises(ColumnMissing, match="did you mean 'delay'"):
        tasks.train_model(frame, "delai")
    with pytest.raises(DataError, match="a cluster, and none was named"):
        jobs.train_model(frame, "delay", config=config)
    model_id = tasks.train_model(flights().head(100), "delay", model_type="linear")["model_id"]
    with pytest.raises(InvalidField, match="lazy"):
        tasks.predict_batch(model_id, frame, output="out.parquet")
    with pytest.raises(ColumnMissing, match="wind"):
        tasks.predict_batch(model_id, frame.drop(columns="wind"))
