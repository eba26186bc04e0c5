"""The same names on Dask; Dask's own collections as data; Dask on Ray when no address is given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

import compute
import dask_bridge
import jobs
import registry
from compute import Config, load_config
from compute.config import ComputeSection
from compute.errors import InvalidField


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", host="127.0.0.1", protocol="tcp"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=["on ray", "cluster"])
def manager(request: pytest.FixtureRequest) -> Iterator[compute.ComputeManager]:
    if request.param == "on ray":
        request.getfixturevalue("ray_cluster")
        config = load_config()
    else:
        config = with_address(request.getfixturevalue("dask_address"))
    with dask_bridge.get_compute_manager(config=config) as manager:
        yield manager


def with_address(address: str) -> Config:
    # Whatever backend the configuration names: the bridge is on Dask.
    return load_config().model_copy(update={"compute": ComputeSection(backend="local", dask_address=address)})


def test_the_names_and_signatures_are_those_of_the_other_rooms() -> None:
    ours = set(dask_bridge.__all__) - {"distributed_transform"}
    homes = {name: next(home for home in (compute, jobs, registry) if name in home.__all__) for name in ours}
    for name, home in homes.items():
        if name.islower():
            known = inspect.signature(getattr(home, name)).parameters
            assert list(inspect.signature(getattr(dask_bridge, name)).parameters) == list(known)


def test_tasks_run_on_dask(manager: compute.ComputeManager) -> None:
    assert manager.backend.name == "dask"
    assert manager.get_result(manager.submit_task(pow, 2, 5)) == 32
    assert dask_bridge.distributed_map(abs, [-1, 2], manager=manager) == [1, 2]
    assert dask_bridge.distributed_filter(None, [0, 2], manager=manager) == [2]
    assert dask_bridge.distributed_reduce(max, [1, 3, 2], 0, manager=manager) == 3
    assert dask_bridge.distributed_reduce(max, [1, 3, 2], manager=manager) == 3
    assert dask_bridge.distributed_apply(len, list(range(10)), 4, manager=manager) == [4, 4, 2]


@pytest.mark.parametrize("manager", ["cluster", pytest.param("on ray", marks=pytest.mark.slow)], indirect=True)
def test_a_dask_frame_is_taken_by_its_partitions(manager: compute.ComputeManager) -> None:
    import dask.dataframe

    table = pd.DataFrame({"value": np.arange(100.0), "key": np.arange(100) % 3})
    frame = dask.dataframe.from_pandas(table, npartitions=4)
    doubled = frame.assign(value=frame["value"] * 2)
    results = dask_bridge.distributed_apply(lambda part: (len(part), part["value"].sum()), doubled, manager=manager)
    assert [size for size, _ in results] == [25, 25, 25, 25]
    assert sum(total for _, total in results) == 2 * table["value"].sum()
    with pytest.raises(InvalidField, match="partition_size"):
        dask_bridge.distributed_apply(len, frame, 10, manager=manager)


def test_a_failing_partition_is_named(manager: compute.ComputeManager) -> None:
    import dask.bag

    bag = dask.bag.from_sequence(range(10), npartitions=5)
    assert dask_bridge.distributed_apply(lambda part: sum(part), bag, manager=manager, combine=sum) == 45
    with pytest.raises(ZeroDivisionError) as caught:
        dask_bridge.distributed_apply(lambda part: [1 // (n - 5) for n in part], bag, manager=manager)
    assert "In partition 2 of 5." in caught.value.__notes__


def test_collections_are_computed_on_ray_while_the_manager_is_open(ray_cluster: str) -> None:
    import dask
    import dask.array
    from ray.util.dask import ray_dask_get

    before = dask.config.get("scheduler", None)
    with dask_bridge.get_compute_manager(config=load_config()):
        assert dask.config.get("scheduler") is ray_dask_get
        assert int(dask.array.ones((1000, 10), chunks=(250, 10)).sum().compute()) == 10_000
    assert dask.config.get("scheduler", None) is before
