"""The extra `legacy` resolves and works: run by `make test-legacy` in an environment of its own.

`xgboost-ray` and `lightgbm-ray` are no longer maintained and need `xgboost<2.1`; the rest of the project does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    matrix = np.random.default_rng(0).random((1000, 4))
    return matrix, matrix.sum(axis=1)


def test_xgboost_ray_trains(table: tuple[np.ndarray, np.ndarray]) -> None:
    from xgboost_ray import RayDMatrix, RayParams, train

    booster = train(
        {"objective": "reg:squarederror"}, RayDMatrix(*table), num_boost_round=5, ray_params=RayParams(num_actors=1)
    )
    assert booster.num_boosted_rounds() == 5


def test_lightgbm_ray_trains(table: tuple[np.ndarray, np.ndarray]) -> None:
    from lightgbm_ray import RayDMatrix, RayParams, train

    model = train(
        {"objective": "regression"},
        RayDMatrix(*table),
        num_boost_round=5,
        ray_params=RayParams(num_actors=1, cpus_per_actor=2),
    )
    assert model.booster_.num_trees() == 5
