"""Delays of the flights over two workers: `train_model` next to Dask, `xgboost-ray` and Ray Train by hand.

Each is whole: from a Parquet file to the error on held-out rows and a model that is kept; every cluster is up and warm.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.jobs.train import DEPTH, FEATURES, NAMED, ROUNDS, TARGET, TURNS, XGBOOST, write
from benchmarks.table import Row, in_turns
from compute import Config, load_config
from jobs import train_model

WORKERS = 2
DASK, RAY_TRAIN, AS_IT_CHOOSES, AHEAD = 1.1, 1.1, 0.1, 1.0
PROJECT = Path(__file__).parents[2]
LIGHTGBM: dict[str, Any] = {"max_depth": DEPTH, "objective": "regression", "verbosity": -1}


def run(*, quick: bool = False) -> Iterator[Row | str]:
    """Measure in turns; Ray Train, which takes minutes and leaves nothing warm, last and once."""
    turns = 1 if quick else TURNS
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = load_config()
        storage = config.storage.model_copy(update={"uri": (folder / "state").as_uri()})
        config = config.model_copy(update={"storage": storage})
        every = 20 if quick else 1
        flights = write(folder, every, 1)
        with ray_cluster(WORKERS), _dask() as client:
            for name in ("xgboost", "lightgbm"):
                yield from _on_dask(name, flights, folder, config, client, turns)
            yield from _on_xgboost_ray(flights, config, turns)
            for times in () if quick else (1, 10, 100):
                yield from _growth(write(folder, 10, times), times, folder, config, client)
        # Ray Train has two workers, and reads with what is left.
        with ray_cluster(WORKERS + 2):
            yield from _on_ray_train(flights, folder, config)


@contextlib.contextmanager
def ray_cluster(cpus: int) -> Iterator[None]:
    """Start a cluster of this process, and end it."""
    import ray

    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _dask() -> Iterator[Any]:
    import distributed

    make: Any = distributed.LocalCluster
    with (
        make(n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        distributed.Client(cluster.scheduler_address) as client,
    ):
        yield client


def _ours(file: Path, config: Config, model_type: str, **options: Any) -> dict[str, Any]:
    params = {"n_estimators": ROUNDS, "max_depth": DEPTH}
    return train_model(str(file), TARGET, FEATURES, model_type, params, config=config, **options)


def _over_dask(client: Any, file: Path, folder: Path, model_type: str) -> float:
    """Read, split, fit, measure and save, as the libraries' documentation shows it."""
    import dask.dataframe as dd

    read: Any = dd.read_parquet
    frame = read(file, split_row_groups=1).categorize(NAMED)
    training, held = client.persist(frame.random_split([0.8, 0.2], random_state=0))
    if model_type == "xgboost":
        from xgboost import dask as xgboost_dask

        data = xgboost_dask.DaskQuantileDMatrix(client, training[FEATURES], training[TARGET], enable_categorical=True)
        booster = xgboost_dask.train(client, XGBOOST, data, num_boost_round=ROUNDS)["booster"]
        predicted = xgboost_dask.inplace_predict(client, booster, held[FEATURES])
        booster.save_model(folder / "dask.ubj")
    else:
        import lightgbm

        model = lightgbm.DaskLGBMRegressor(n_estimators=ROUNDS, client=client, **LIGHTGBM)
        model.fit(training[FEATURES], training[TARGET])
        predicted = model.predict(held[FEATURES])
        model.booster_.save_model(folder / "dask.txt")
    return float(np.sqrt(np.mean((predicted.compute() - held[TARGET].compute()) ** 2)))


def _on_dask(name: str, file: Path, folder: Path, config: Config, client: Any, turns: int) -> list[Row]:
    work: dict[str, Callable[[], object]] = {
        "dask": lambda: _over_dask(client, file, folder, name),
        "ours": lambda: _ours(file, config, name, distribute_data=True, num_workers=WORKERS),
    }
    seconds = in_turns(work, turns)
    ratio = seconds["ours"] / seconds["dask"]
    return [
        Row(f"{name}.dask, {WORKERS} workers", seconds["dask"], "s"),
        Row(f"train_model, {name}, {WORKERS} warm workers", seconds["ours"], "s", ratio, DASK),
    ]


def _growth(file: Path, times: int, folder: Path, config: Config, client: Any) -> list[Row]:
    work: dict[str, Callable[[], object]] = {
        "xgboost.dask": lambda: _over_dask(client, file, folder, "xgboost"),
        "train_model, warm workers": lambda: _ours(file, config, "xgboost", distribute_data=True, num_workers=WORKERS),
    }
    seconds = in_turns(work, 1)
    return [Row(f"{times} x one of 10 flights: {name}", value, "s") for name, value in seconds.items()]


def _on_xgboost_ray(file: Path, config: Config, turns: int) -> Iterator[Row | str]:
    """Measure the library in its own environment, with a cluster of its own, and ours right after it."""
    python = PROJECT / ".venv-legacy" / "bin" / "python"
    if not python.exists():
        yield "  xgboost-ray left out: `make test-legacy` installs it"
        return
    command = [str(python), "-m", "benchmarks.jobs.xgboost_ray_peer", str(file), str(turns)]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    peer = statistics.median(json.loads(done.stdout.splitlines()[-1])["seconds"])
    work = {"ours": lambda: _ours(file, config, "xgboost", distribute_data=True, num_workers=WORKERS)}
    ours = in_turns(work, turns)["ours"]
    yield Row(f"xgboost-ray, {WORKERS} workers", peer, "s")
    yield Row(f"train_model, xgboost, {WORKERS} warm workers", ours, "s", ours / peer, AHEAD)


def _train_by_hand(settings: dict[str, Any]) -> None:
    """Train as in Ray's own example of XGBoostTrainer."""
    import ray.train
    import xgboost
    from ray.train.xgboost import RayTrainReportCallback

    frame = ray.train.get_dataset_shard("train").materialize().to_pandas()
    held = ray.train.get_dataset_shard("validation").materialize().to_pandas()
    for name, values in settings["categories"].items():
        frame[name], held[name] = (pd.Categorical(part[name], values) for part in (frame, held))
    data = xgboost.DMatrix(frame[FEATURES], frame[TARGET], enable_categorical=True)
    other = xgboost.DMatrix(held[FEATURES], held[TARGET], enable_categorical=True)
    evals = [(data, "train"), (other, "validation")]
    xgboost.train(
        XGBOOST, data, ROUNDS, evals=evals, verbose_eval=False, callbacks=[RayTrainReportCallback(frequency=10)]
    )


def _by_hand(file: Path, folder: Path) -> None:
    import ray.data
    from ray.train import RunConfig, ScalingConfig
    from ray.train.xgboost import XGBoostTrainer

    dataset = ray.data.read_parquet(str(file))
    categories = {name: sorted(dataset.unique(name)) for name in NAMED}
    training, held = dataset.train_test_split(test_size=0.2)
    XGBoostTrainer(
        _train_by_hand,
        train_loop_config={"categories": categories},
        datasets={"train": training, "validation": held},
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(folder / "ray")),
    ).fit()


def _on_ray_train(file: Path, folder: Path, config: Config) -> list[Row]:
    work: dict[str, Callable[[], object]] = {
        "by hand": lambda: _by_hand(file, folder),
        # A range, though it is of one number, is for Ray Train.
        "ours": lambda: _ours(file, config, "xgboost", distribute_data=True, num_workers=(WORKERS, WORKERS)),
        "as it chooses": lambda: _ours(file, config, "xgboost"),
    }
    seconds = []
    for call in work.values():
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    hand, ours, chosen = seconds
    return [
        Row("XGBoostTrainer and Ray Data, as in Ray's example", hand, "s"),
        Row("train_model under Ray Train", ours, "s", ours / hand, RAY_TRAIN),
        Row("train_model as it chooses, to XGBoostTrainer", chosen, "s", chosen / hand, AS_IT_CHOOSES),
    ]
