"""From the configuration to a manager: every key does something, and what does not answer is named in time."""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

from compute import ComputeManager, Config, get_compute_manager, load_config
from compute.config import (
    Cluster,
    ClusterResources,
    ComputeSection,
    Dashboard,
    MetricsRetention,
    Monitoring,
    Scaling,
    TaskDefaults,
)
from compute.errors import (
    BackendUnavailable,
    ConfigurationError,
    ResourcesUnavailable,
    TaskExpired,
    TaskTimeout,
    WorkerLost,
)


@pytest.fixture
def open_manager() -> Iterator[Callable[..., ComputeManager]]:
    """Get managers for a configuration with other sections."""
    made: list[ComputeManager] = []

    def make(cluster: str | None = None, **sections: object) -> ComputeManager:
        sections.setdefault("compute", ComputeSection(backend="local", local_workers=1))
        made.append(get_compute_manager(cluster, load_config().model_copy(update=sections)))
        return made[-1]

    yield make
    for manager in made:
        manager.shutdown()


Open = Callable[..., ComputeManager]


def keys_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        yield from keys_of(nested, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]


def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def backend_names_the_engine(open_manager: Open) -> None:
    assert open_manager().backend.name == "local"
    assert open_manager(compute=ComputeSection(backend="dask")).backend.name == "dask"


def ray_address_is_where_ray_is_looked_for(open_manager: Open) -> None:
    # In a process of its own, for this one may be connected: the test of addresses that do not answer.
    from compute.connect import _engine

    assert _engine(load_config().model_copy(update={"compute": ComputeSection(ray_address="h:1")})) == "ray"


def dask_address_is_where_dask_is_looked_for(open_manager: Open) -> None:
    address = f"127.0.0.1:{dead_port()}"
    begun = time.monotonic()
    with pytest.raises(BackendUnavailable, match=rf"{address} \(from compute\.dask_address\)"):
        open_manager(compute=ComputeSection(backend="dask", dask_address=address))
    assert time.monotonic() - begun < 10


def local_workers_run_at_once(open_manager: Open) -> None:
    manager = open_manager(compute=ComputeSection(backend="local", local_workers=3))
    task_ids = [manager.submit_task(lambda: time.sleep(0.5) or os.getpid()) for _ in range(6)]
    assert len(set(manager.gather_results(task_ids))) == 3


def limits_refuse_what_is_more(open_manager: Open, key: str) -> None:
    value: dict[str, object] = {"cpu_limit": 3, "memory_limit": 2**30, "gpu_limit": 1}
    manager = open_manager(compute=ComputeSection(backend="local", **{key: value[key]}))  # type: ignore[arg-type]
    resource = key.removesuffix("_limit")
    asked = {"cpu": {"cpu": 4}, "memory": {"memory": "2g"}, "gpu": {"gpu": 2}}[resource]
    with pytest.raises(ResourcesUnavailable, match=r"that the limit \(compute\.\*_limit\) has"):
        manager.submit_task(abs, -1, resources=asked)
    fits = {"cpu": {"cpu": 3}, "memory": {"memory": "1g"}, "gpu": {"gpu": 1}}[resource]
    assert manager.get_result(manager.submit_task(abs, -1, resources=fits)) == 1


def cluster_is_found_by_its_name(open_manager: Open) -> None:
    with pytest.raises(ConfigurationError, match=r"no cluster is named 'b'.*names: a"):
        open_manager("b", clusters=(Cluster(name="a", host="h", port=1, type="ray"),))


def cluster_host_and_port_are_where_it_is_looked_for(open_manager: Open) -> None:
    port = dead_port()
    with pytest.raises(BackendUnavailable, match=rf"scheduler at 127\.0\.0\.1:{port} \(from clusters\[0\] \(a\)\)"):
        open_manager("a", clusters=(Cluster(name="a", host="127.0.0.1", port=port, type="dask"),))


def cluster_resources_are_its_limits(open_manager: Open, dask_address: str) -> None:
    host, port = dask_address.removeprefix("tcp://").split(":")
    resources = ClusterResources(cpu=1, memory=2**20, gpu=0)
    cluster = Cluster(name="a", host=host, port=int(port), type="dask", resources=resources)
    manager = open_manager("a", clusters=(cluster,))
    assert manager.backend.name == "dask"
    for asked in ({"cpu": 2}, {"memory": "2m"}, {"gpu": 1}):
        with pytest.raises(ResourcesUnavailable, match=r"limit \(clusters\[0\] \(a\)\.resources\)"):
            manager.submit_task(abs, -1, resources=asked)
    assert manager.get_result(manager.submit_task(abs, -1)) == 1


def task_timeout_ends_a_task(open_manager: Open) -> None:
    manager = open_manager(task_defaults=TaskDefaults(timeout=0.3))
    with pytest.raises(TaskTimeout):
        manager.get_result(manager.submit_task(time.sleep, 60))


def task_retries_are_attempts_after_the_first(open_manager: Open) -> None:
    manager = open_manager(task_defaults=TaskDefaults(retries=1, backoff_factor=1))
    task_id = manager.submit_task(os.abort)
    with pytest.raises(WorkerLost):
        manager.get_result(task_id)
    assert manager.get_task_status(task_id).attempts == 2


def backoff_factor_lengthens_the_pauses(open_manager: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from compute import dispatcher

    factors: list[float] = []
    real = dispatcher.pause
    monkeypatch.setattr(dispatcher, "pause", lambda n, factor: factors.append(factor) or real(n, factor, lambda: 0.0))
    manager = open_manager(task_defaults=TaskDefaults(retries=2, backoff_factor=3))
    with pytest.raises(WorkerLost):
        manager.get_result(manager.submit_task(os.abort))
    assert factors == [3, 3]


def scaling_moves_the_number_of_processes(open_manager: Open) -> None:
    scaling = Scaling(min_workers=2, max_workers=3, target_utilization=0.9, scale_up_delay=0.1, scale_down_delay=0.5)
    manager = open_manager(scaling=scaling)
    workers = manager.backend._workers  # type: ignore[attr-defined]
    sizes = set()
    task_ids = [manager.submit_task(time.sleep, 0.4) for _ in range(14)]
    for task_id in task_ids:
        sizes.add(len(workers))
        manager.get_result(task_id)
    assert max(sizes) == 3
    until = time.monotonic() + 10
    while len(workers) > 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(1.2)
    assert len(workers) == 2


def monitoring_counts_or_does_not(open_manager: Open) -> None:
    for enabled in (True, False):
        manager = open_manager(monitoring=Monitoring(enabled=enabled))
        manager.get_result(manager.submit_task(abs, -1))
        assert bool(manager.metrics()) is enabled


def ray_dashboard_is_started_or_not(open_manager: Open) -> None:
    from compute.ray_connection import _start

    # The one place where Ray is started; what it is started with stands in for the ten seconds that it takes.
    asked: list[dict[str, object]] = []
    fake = SimpleNamespace(init=lambda **options: asked.append(options), cluster_resources=lambda: {"CPU": 1.0})
    for wanted in (True, False):
        monitoring = Monitoring(dashboard=Dashboard(ray=wanted))
        _start(
            fake, load_config().model_copy(update={"monitoring": monitoring, "compute": ComputeSection(cpu_limit=1)})
        )
    assert [options["include_dashboard"] for options in asked] == [True, False]
    assert [options["num_cpus"] for options in asked] == [1, 1]


def dask_dashboard_is_told(open_manager: Open, dask_address: str, caplog: pytest.LogCaptureFixture) -> None:
    for wanted in (True, False):
        caplog.clear()
        with caplog.at_level(logging.INFO, "dask_bridge"):
            open_manager(
                compute=ComputeSection(backend="dask", dask_address=dask_address),
                monitoring=Monitoring(dashboard=Dashboard(dask=wanted)),
            )
        assert ("dashboard=" in caplog.text) is wanted


def retention_is_how_long_tasks_are_remembered(open_manager: Open) -> None:
    manager = open_manager(monitoring=Monitoring(metrics_retention=MetricsRetention(days=0.3 / 86400)))
    task_id = manager.submit_task(abs, -1)
    assert manager.get_result(task_id) == 1
    assert manager.get_task_status(task_id).attempts == 1
    time.sleep(0.4)
    with pytest.raises(TaskExpired, match="metrics_retention"):
        manager.get_task_status(task_id)


DOES = {
    "compute.backend": backend_names_the_engine,
    "compute.ray_address": ray_address_is_where_ray_is_looked_for,
    "compute.dask_address": dask_address_is_where_dask_is_looked_for,
    "compute.local_workers": local_workers_run_at_once,
    "compute.cpu_limit": lambda o: limits_refuse_what_is_more(o, "cpu_limit"),
    "compute.memory_limit": lambda o: limits_refuse_what_is_more(o, "memory_limit"),
    "compute.gpu_limit": lambda o: limits_refuse_what_is_more(o, "gpu_limit"),
    "clusters.name": cluster_is_found_by_its_name,
    "clusters.host": cluster_host_and_port_are_where_it_is_looked_for,
    "clusters.port": cluster_host_and_port_are_where_it_is_looked_for,
    "clusters.type": cluster_host_and_port_are_where_it_is_looked_for,
    "clusters.resources.cpu": cluster_resources_are_its_limits,
    "clusters.resources.memory": cluster_resources_are_its_limits,
    "clusters.resources.gpu": cluster_resources_are_its_limits,
    "task_defaults.timeout": task_timeout_ends_a_task,
    "task_defaults.retries": task_retries_are_attempts_after_the_first,
    "task_defaults.backoff_factor": backoff_factor_lengthens_the_pauses,
    "scaling.min_workers": scaling_moves_the_number_of_processes,
    "scaling.max_workers": scaling_moves_the_number_of_processes,
    "scaling.target_utilization": scaling_moves_the_number_of_processes,
    "scaling.scale_up_delay": scaling_moves_the_number_of_processes,
    "scaling.scale_down_delay": scaling_moves_the_number_of_processes,
    "monitoring.enabled": monitoring_counts_or_does_not,
    "monitoring.dashboard.ray": ray_dashboard_is_started_or_not,
    "monitoring.dashboard.dask": dask_dashboard_is_told,
    "monitoring.metrics_retention.days": retention_is_how_long_tasks_are_remembered,
}


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", host="127.0.0.1", protocol="tcp"
    ) as cluster:
        yield cluster.scheduler_address


def test_no_key_is_left_out() -> None:
    sections = {"compute": ComputeSection, "clusters": Cluster, "task_defaults": TaskDefaults}
    sections |= {"scaling": Scaling, "monitoring": Monitoring}
    keys = itertools.chain.from_iterable(keys_of(model, f"{name}.") for name, model in sections.items())
    elsewhere = (
        "monitoring.prediction_log.",
        "compute.warm_",
    )  # test_prediction_log.py; test_planner.py, test_warm_worker.py
    ours = [key for key in keys if not key.startswith(elsewhere)]
    assert sorted(ours) == sorted(DOES)


# One run for the keys that the same check is for.
@pytest.mark.parametrize("key", list({id(check): key for key, check in DOES.items()}.values()))
def test_every_key_does_something(key: str, open_manager: Open, request: pytest.FixtureRequest) -> None:
    check = DOES[key]
    if key == "compute.backend":
        request.getfixturevalue("ray_cluster")
    names = check.__code__.co_varnames[: check.__code__.co_argcount]
    check(open_manager, *(request.getfixturevalue(name) for name in names[1:]))


def test_what_an_engine_cannot_follow_is_said(open_manager: Open, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "compute"):
        open_manager(
            compute=ComputeSection(
                backend="local", local_workers=1, gpu_limit=1, ray_address="h:1", dask_address="h:2"
            ),
            monitoring=Monitoring(dashboard=Dashboard(ray=True)),
        )
    said = [record.getMessage() for record in caplog.records]
    for key in ("compute.gpu_limit", "compute.ray_address", "compute.dask_address", "monitoring.dashboard.ray"):
        assert sum(f"key={key} not honoured" in line for line in said) == 1
    assert not any("dashboard.dask" in line or "local_workers" in line for line in said)


def test_what_ray_cannot_follow_is_said(ray_cluster: str, open_manager: Open, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "compute"):
        manager = open_manager(
            compute=ComputeSection(backend="ray", local_workers=3),
            scaling=Scaling(max_workers=3),
            monitoring=Monitoring(dashboard=Dashboard(ray=False)),
        )
    assert manager.backend.name == "ray"
    assert "key=monitoring.dashboard.ray not honoured: the cluster was not started here" in caplog.text
    assert "key=compute.local_workers not honoured" in caplog.text
    assert "key=scaling not honoured" in caplog.text


def test_one_manager_for_each_configuration(open_manager: Open) -> None:
    one = open_manager()
    assert open_manager() is one
    assert open_manager(task_defaults=TaskDefaults(retries=9)) is not one
    one.shutdown()
    assert open_manager() is not one


def test_auto_is_ray_when_this_process_is_connected(ray_cluster: str, open_manager: Open) -> None:
    manager = open_manager(compute=ComputeSection(backend="auto"))
    assert manager.backend.name == "ray"
    manager.shutdown()
    import ray

    # It did not connect, so it does not disconnect.
    assert ray.is_initialized()


_ADDRESSES = """
import json, socket, sys, time
from compute import get_compute_manager, load_config
from compute.config import Cluster, ComputeSection
from compute.errors import ComputeError

kind = sys.argv[1]
hung = socket.create_server(("127.0.0.1", 0))
dead = socket.create_server(("127.0.0.1", 0))
port = dead.getsockname()[1]
dead.close()
config, cluster = load_config(), None
if kind == "dead":
    config = config.model_copy(update={"compute": ComputeSection(backend="ray", ray_address=f"127.0.0.1:{port}")})
elif kind == "hung":
    port = hung.getsockname()[1]
    config = config.model_copy(update={"compute": ComputeSection(backend="ray", ray_address=f"ray://127.0.0.1:{port}")})
elif kind == "named":
    cluster = "primary"
    config = config.model_copy(update={"clusters": (Cluster(name=cluster, host="127.0.0.1", port=port, type="ray"),)})
elif kind == "auto":
    config = config.model_copy(update={"compute": ComputeSection(backend="ray", ray_address="auto")})
import ray
begun = time.monotonic()
try:
    get_compute_manager(cluster, config)
except ComputeError as error:
    print(json.dumps([type(error).__name__, str(error), time.monotonic() - begun, port]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, float, int]]:
    """What four wrong addresses give, each in a process that is not connected; all at once, for each waits."""
    home = tmp_path_factory.mktemp("ray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = str(home)
    processes = {
        kind: subprocess.Popen(
            [sys.executable, "-c", _ADDRESSES, kind], stdout=subprocess.PIPE, text=True, env=environment, cwd=home
        )
        for kind in ("dead", "hung", "named", "auto")
    }
    found = {}
    for kind, process in processes.items():
        output = process.communicate(timeout=60)[0]
        found[kind] = tuple(json.loads(output.splitlines()[-1]))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dead", r"127\.0\.0\.1:{port} \(from compute\.ray_address\) cannot be reached: nothing accepts connections"),
        ("hung", r"ray://127\.0\.0\.1:{port} \(from compute\.ray_address\).*but does not answer as Ray does"),
        ("named", r"127\.0\.0\.1:{port} \(from clusters\[0\] \(primary\)\) cannot be reached"),
        ("auto", r"compute\.ray_address is 'auto', and no Ray cluster runs on this machine"),
    ],
)
def test_an_address_that_does_not_answer_is_named_in_time(
    refusals: dict[str, tuple[str, str, float, int]], kind: str, message: str
) -> None:
    import re

    name, text, seconds, port = refusals[kind]
    assert name == "BackendUnavailable"
    assert re.search(message.replace("{port}", str(port)), text)
    assert "ray " in text
    assert seconds < 10


def test_a_second_address_is_not_taken_for_the_first(ray_cluster: str, tmp_path: Path) -> None:
    script = """
    import sys
    from compute import get_compute_manager, load_config
    from compute.config import ComputeSection
    from compute.errors import BackendUnavailable

    def ask(address):
        return get_compute_manager(config=load_config().model_copy(
            update={"compute": ComputeSection(backend="ray", ray_address=address)}))

    from compute.ray_connection import resolve

    host, port = sys.argv[1].split(":")
    # Not Ray Client's port but the cluster's own.
    assert resolve(host, int(port), "key") == sys.argv[1]
    first = ask(sys.argv[1])
    assert first.get_result(first.submit_task(abs, -5)) == 5
    try:
        ask("127.0.0.1:1")
    except BackendUnavailable as error:
        assert "connected to the Ray cluster at " + sys.argv[1] in str(error), error
    else:
        raise SystemExit("it was taken")
    again = get_compute_manager(config=load_config().model_copy(update={"compute": ComputeSection(backend="ray")}))
    import ray
    first.shutdown()
    # Somebody uses it still.
    assert ray.is_initialized()
    again.shutdown()
    assert not ray.is_initialized()
    print("done")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), ray_cluster],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr


def test_a_manager_in_a_ray_task_lets_others_use_its_cpu(ray_cluster: str) -> None:
    """As many tasks as there are CPUs, each waiting for tasks of its own: they must not wait for each other."""
    import ray

    def outer(count: int) -> int:
        from compute import get_compute_manager

        manager = get_compute_manager(config=CONFIG)
        first = manager.submit_task(abs, -1)
        task_ids = [manager.submit_task(pow, number, 2) for number in range(count)]
        return int(manager.get_result(first, timeout=60) + sum(manager.gather_results(task_ids, timeout=60)))

    manager = get_compute_manager(config=CONFIG)
    cpus = int(ray.cluster_resources()["CPU"])
    task_ids = [manager.submit_task(outer, 5) for _ in range(cpus + 1)]
    assert manager.gather_results(task_ids, timeout=100) == [31] * (cpus + 1)


CONFIG: Config = load_config().model_copy(update={"compute": ComputeSection(backend="ray")})
