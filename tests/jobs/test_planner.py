"""Plans come with their numbers, and none is made that does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compute import Config
from compute.errors import CapabilityMissing, InvalidField, ResourcesUnavailable
from jobs import cluster, node
from jobs.cluster import Node
from jobs.planner import Load, plan_scoring, plan_training

GIB = 2**30
SMALL = Load(rows=1000, bytes=2**20, peak_bytes=4 * 2**20, shared_bytes=3 * 2**20)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """A cluster of any shape: what Ray would report, without its machines."""
    found: list[Node] = []
    monkeypatch.setattr(cluster, "nodes", lambda: tuple(found))
    monkeypatch.setattr(cluster, "connected", lambda: bool(found))
    monkeypatch.setattr(cluster, "connect", lambda _config: None)
    monkeypatch.setattr(node, "memory", lambda: node.Memory(limit=24 * GIB, available=20 * GIB))
    monkeypatch.setattr(node, "threads", lambda _config: 2)
    return found


def _train(config: Config, load: Load = SMALL, **changes: Any) -> Any:
    asked: dict[str, Any] = {
        "cells": 1e6,
        "distribute": None,
        "distributes": True,
        "model_type": "xgboost",
        "num_workers": None,
        "config": config,
    }
    return plan_training(load, **{**asked, **changes})


def test_small_data_never_pays_for_a_cluster(nodes: list[Node], config: Config) -> None:
    assert _train(config).mode == "single"
    nodes += [Node(64, 256 * GIB)] * 8
    plan = _train(config)
    assert (plan.mode, plan.threads) == ("single", 2)
    assert "in this process with 2 threads" in plan.reason
    assert plan_scoring(SMALL, distribute=None, config=config).mode == "single"


def test_what_takes_minutes_here_goes_to_a_cluster_that_is_faster(nodes: list[Node], config: Config) -> None:
    large = Load(rows=10**8, bytes=8 * GIB, peak_bytes=10 * GIB, shared_bytes=9 * GIB)
    assert _train(config, large, cells=1e11).mode == "single"
    nodes += [Node(64, 256 * GIB)] * 8
    plan = _train(config, large, cells=1e11)
    assert (plan.place, plan.workers, plan.threads) == ("warm_group", 8, 64)
    assert "8 warm workers of 64 CPUs" in plan.reason
    assert _train(config, large, cells=1e11, distribute=False).mode == "single"
    assert _train(config, large, cells=1e11, distributes=False).mode == "single"
    assert plan_scoring(large, distribute=None, config=config).mode == "distributed"


def test_what_does_not_fit_here_goes_to_the_cluster_or_is_refused_with_the_numbers(
    nodes: list[Node], config: Config
) -> None:
    huge = Load(rows=10**9, bytes=20 * GIB, peak_bytes=40 * GIB, shared_bytes=30 * GIB)
    with pytest.raises(ResourcesUnavailable, match=r"40\.0 GiB against 16\.0 GiB") as caught:
        _train(config, huge)
    assert caught.value.context["peak_bytes"] == 40 * GIB
    nodes += [Node(16, 32 * GIB)] * 2
    assert _train(config, huge, cells=1.0).mode == "distributed"
    for asked in ({"distribute": False}, {"distributes": False}):
        with pytest.raises(ResourcesUnavailable, match=r"40\.0 GiB"):
            _train(config, huge, **asked)
    nodes[:] = [Node(16, 8 * GIB)] * 2
    with pytest.raises(
        ResourcesUnavailable, match=r"each of 2 workers would need about 15\.0 GiB and may have 6\.4 GiB"
    ):
        _train(config, huge)


def test_the_memory_limit_of_the_configuration_holds(nodes: list[Node], config: Config) -> None:
    limited = config.model_copy(update={"compute": config.compute.model_copy(update={"memory_limit": 2**20})})
    with pytest.raises(ResourcesUnavailable, match=r"4\.0 MiB against 1\.0 MiB"):
        _train(limited)
    with pytest.raises(ResourcesUnavailable):
        plan_scoring(SMALL, distribute=None, config=limited)


def test_distribute_true_overrules_and_says_at_once_what_can_never_be_placed(nodes: list[Node], config: Config) -> None:
    nodes += [Node(4, 8 * GIB)]
    plan = _train(config, distribute=True)
    assert (plan.mode, plan.place, plan.workers, plan.threads) == ("distributed", "warm_group", 2, 2)
    with pytest.raises(ResourcesUnavailable, match=r"4 training workers .* never be placed: the cluster has 4 CPUs"):
        _train(config, distribute=True, num_workers=4)
    with pytest.raises(CapabilityMissing, match="linear models train on one node"):
        _train(config, distribute=True, distributes=False, model_type="linear")
    assert plan_scoring(SMALL, distribute=True, config=config).mode == "distributed"


def test_trees_are_grown_elsewhere_from_all_rows_where_that_is_faster(nodes: list[Node], config: Config) -> None:
    large = Load(rows=10**7, bytes=2 * GIB, peak_bytes=8 * GIB, shared_bytes=8 * GIB, each_bytes=5 * GIB)
    ask = {"cells": 1e12, "model_type": "random_forest"}
    nodes += [Node(2, 8 * GIB)]
    assert _train(config, large, **ask).mode == "single"
    nodes[:] = [Node(16, 32 * GIB)] * 8
    plan = _train(config, large, **ask)
    # However long it takes: trees that are done are not grown again when a worker dies.
    assert (plan.place, plan.workers, plan.threads, plan.peak_bytes) == ("warm_group", 8, 16, 5 * GIB)
    nodes[:] = [Node(16, 4 * GIB)] * 8
    assert _train(config, large, **ask).mode == "single"
    with pytest.raises(ResourcesUnavailable, match="only warm workers grow trees: each would need about 5"):
        _train(config, large, **ask, distribute=True)
    with pytest.raises(ResourcesUnavailable, match="their number cannot change during a run"):
        _train(config, large, **ask, distribute=True, num_workers=(1, 2))
    tall = replace(large, peak_bytes=30 * GIB)
    with pytest.raises(ResourcesUnavailable, match="the matrix is made in this process"):
        _train(config, tall, **ask, distribute=True)


def test_warm_workers_take_what_others_leave(nodes: list[Node], config: Config) -> None:
    nodes += [Node(8, 32 * GIB, free=0.0), Node(4, 32 * GIB, free=3.0)]
    plan = _train(config, distribute=True)
    assert (plan.place, plan.workers, plan.threads) == ("warm_group", 2, 1)
    nodes[1] = Node(4, 32 * GIB, free=0.5)  # nobody has room: it waits, for little
    plan = _train(config, distribute=True)
    assert (plan.place, plan.workers, plan.threads) == ("warm_group", 2, 1)


def test_what_serve_holds_of_a_small_node_is_not_waited_for(nodes: list[Node], config: Config) -> None:
    nodes += [Node(2, 8 * GIB, free=1.6)]
    plan = _train(config, distribute=True)
    assert (plan.place, plan.workers, plan.threads, plan.cpus) == ("warm_group", 2, 1, 0.8)
    plan = _train(config, distribute=True, num_workers=(1, 1))
    assert (plan.place, plan.workers, plan.threads, plan.cpus) == ("ray_train", 1, 1, 0.6)  # the rest is to read with


def test_what_only_one_process_can_do_is_named(nodes: list[Node], config: Config) -> None:
    nodes += [Node(64, 256 * GIB)] * 8
    plan = _train(config, cells=1e11, here="continue_from")
    assert plan.mode == "single"
    assert plan.reason.startswith("continue_from is for training in one process; ")


def test_ray_train_does_what_warm_workers_cannot(nodes: list[Node], config: Config) -> None:
    nodes += [Node(16, 32 * GIB)] * 4
    ask = {"distribute": True}
    assert _train(config, **ask).place == "warm_group"
    long = _train(config, **ask, cells=1e13)
    assert (long.place, long.workers, long.least) == ("ray_train", 4, 4)
    assert "s of training must survive a failure" in long.reason
    many = _train(config, **ask, num_workers=10)
    assert (many.place, many.workers) == ("ray_train", 10)
    assert "there are 8 (compute.warm_workers), and 10 are needed" in many.reason
    elastic = _train(config, **ask, num_workers=(2, 6))
    assert (elastic.place, elastic.least, elastic.workers) == ("ray_train", 2, 6)
    none = config.model_copy(update={"compute": config.compute.model_copy(update={"warm_workers": 0})})
    assert _train(none, **ask).place == "ray_train"


def test_rows_that_outgrow_memory_are_kept_on_disk_where_the_library_can(nodes: list[Node], config: Config) -> None:
    nodes += [Node(16, 32 * GIB)] * 2
    large = {"rows": 10**9, "bytes": 100 * GIB, "peak_bytes": 300 * GIB, "shared_bytes": 200 * GIB}
    plan = _train(config, Load(**large, spilled_bytes=20 * GIB))
    assert (plan.place, plan.on_disk, plan.peak_bytes) == ("ray_train", True, 10 * GIB)
    assert plan.peak_bytes <= plan.limit_bytes
    with pytest.raises(ResourcesUnavailable, match=r"each of 2 workers would need about 100\.0 GiB"):
        _train(config, Load(**large))


@pytest.mark.parametrize("asked", [0, -1, (4, 2), (1, 2, 3), (0, 2), "2"])
def test_a_number_of_workers_that_means_nothing_is_refused(asked: Any, nodes: list[Node], config: Config) -> None:
    with pytest.raises(InvalidField, match="num_workers is"):
        _train(config, num_workers=asked)


@pytest.mark.parametrize("rows", [None, 10])
def test_a_plan_is_plain_values(rows: int | None, nodes: list[Node], config: Config) -> None:
    import json

    plan = plan_scoring(Load(rows, 100, 100, 100), distribute=None, config=config).summary()
    assert json.loads(json.dumps(plan)) == plan
    told = {"mode", "reason", "rows", "bytes", "peak_bytes", "limit_bytes", "threads", "workers"}
    assert told | {"place", "least", "on_disk", "seconds", "cpus"} == set(plan)


def test_threads_respect_the_environment(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = node.threads(config)
    assert free >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert node.threads(config) == 1
    # Ray sets it for the supervisor of a job, not for the job.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert node.threads(config) == free
