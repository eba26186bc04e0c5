"""From the configuration to a manager: which engine, which limits, one shared manager for each cluster."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from compute.backend import Backend
from compute.config import Cluster, Config, load_config
from compute.errors import BackendUnavailable, ConfigurationError
from compute.manager import ComputeManager
from compute.resources import Limits

logger = logging.getLogger(__name__)

ENTRY_POINTS = "compute.backends"
"""Group under which other packages offer engines: ``connect(config, address, key) -> Backend``."""

_SECTIONS = ("compute", "clusters", "task_defaults", "scaling", "monitoring")

_managers: dict[tuple[Any, ...], ComputeManager] = {}
_lock = threading.Lock()


def get_compute_manager(cluster: str | None = None, config: Config | None = None) -> ComputeManager:
    """Return the manager of a cluster; the same one for every call in this process.

    Parameters
    ----------
    cluster : str, optional
        A name from ``clusters`` in the configuration; by default what ``compute.backend`` says.
    config : Config, optional
        By default what `load_config` finds. Configurations that say the same about tasks share a manager.

    Raises
    ------
    BackendUnavailable
        Within ten seconds, when an engine that was asked for by name does not answer. Nothing else is used instead.
    ConfigurationError
        When no cluster has this name.

    Examples
    --------
    >>> from compute.config import ComputeSection
    >>> config = load_config().model_copy(update={"compute": ComputeSection(backend="local", local_workers=1)})
    >>> manager = get_compute_manager(config=config)
    >>> manager is get_compute_manager(config=config)
    True
    >>> manager.get_result(manager.submit_task(len, "four"))
    4
    >>> manager.shutdown()
    """
    config = config or load_config()
    engine = _engine(config) if cluster is None else ""
    key = (os.getpid(), cluster, engine, *(repr(getattr(config, section)) for section in _SECTIONS))
    with _lock:
        manager = _managers.get(key)
        if manager is None or manager.closed:
            manager = _open(cluster, engine, config)
            _managers[key] = manager
        return manager


def _engine(config: Config) -> str:
    """Return the engine to use; `auto` is decided anew each time, for Ray may have been connected meanwhile."""
    from compute.ray_connection import connected, running_here

    named = config.compute.backend
    if named != "auto":
        return named
    return "ray" if connected() or config.compute.ray_address or running_here() else "local"


def _open(name: str | None, engine: str, config: Config) -> ComputeManager:
    section = config.compute
    if name is None:
        address = {"ray": section.ray_address, "dask": section.dask_address}.get(engine)
        address_key = f"compute.{engine}_address"
        limits, limits_key = Limits(section.cpu_limit, section.memory_limit, section.gpu_limit), "compute.*_limit"
        backend = _connect(engine, config, address, address_key, limits)
    else:
        cluster, address_key = _cluster(name, config)
        engine = cluster.type
        limits = Limits(cluster.resources.cpu, cluster.resources.memory, cluster.resources.gpu)
        limits_key = f"{address_key}.resources"
        backend = _connect(engine, config, cluster, address_key, limits)
    reason = " (auto)" if name is None and section.backend == "auto" else ""
    logger.info("cluster=%s backend=%s%s limits=%s", name or "default", backend.name, reason, limits._asdict())
    for key, why in _not_honoured(engine, name, config, backend):
        logger.warning("cluster=%s backend=%s key=%s not honoured: %s", name or "default", backend.name, key, why)
    return ComputeManager(backend, config, limits=limits, limits_from=limits_key)


def _connect(engine: str, config: Config, address: str | Cluster | None, key: str, limits: Limits) -> Backend:
    if engine == "local":
        from compute.local_backend import LocalBackend

        return LocalBackend(
            config.compute.local_workers, config.scaling, cpus=limits.cpu, memory=limits.memory, gpus=limits.gpu
        )
    if engine == "ray":
        from compute.ray_backend import RayBackend
        from compute.ray_connection import connect, resolve

        if isinstance(address, Cluster):
            address = resolve(address.host, address.port, key)
        return RayBackend(connect(config, address, key))
    offers = entry_points(group=ENTRY_POINTS, name=engine)
    if not offers:
        raise BackendUnavailable(
            f"no installed package offers the backend {engine!r} (entry point group {ENTRY_POINTS!r})",
            hint="Install this project as a package: `make run` or `pip install -e .` does.",
            context={"backend": engine},
        )
    if isinstance(address, Cluster):
        address = f"{address.host}:{address.port}"
    backend: Backend = next(iter(offers)).load()(config, address, key)
    return backend


def _cluster(name: str, config: Config) -> tuple[Cluster, str]:
    for index, cluster in enumerate(config.clusters):
        if cluster.name == name:
            return cluster, f"clusters[{index}] ({name})"
    names = ", ".join(cluster.name for cluster in config.clusters) or "none"
    raise ConfigurationError(f"no cluster is named {name!r}", hint=f"The configuration names: {names}.")


def _not_honoured(engine: str, name: str | None, config: Config, backend: Backend) -> Iterator[tuple[str, str]]:
    """Yield the keys that were set and that this engine cannot follow, and why."""
    section = config.compute
    set_keys = section.model_fields_set
    if engine != "local":
        if "local_workers" in set_keys:
            yield "compute.local_workers", f"the workers are those of the {engine} cluster"
        if config.scaling is not None and not getattr(backend, "follows_scaling", False):
            yield "scaling", f"the nodes of a {engine} cluster are its autoscaler's; Serve's replicas follow this key"
    elif section.gpu_limit:
        yield "compute.gpu_limit", "GPUs are counted, but no device is assigned to a process"
    if name is None:
        if section.ray_address and engine != "ray":
            yield "compute.ray_address", f"the backend is {engine}"
        if section.dask_address and engine != "dask":
            yield "compute.dask_address", f"the backend is {engine}; dask_bridge uses it"
    else:
        yield from (
            (f"compute.{key}", "the limits of a named cluster are its `resources`")
            for key in ("cpu_limit", "memory_limit", "gpu_limit")
            if getattr(section, key) is not None
        )
    dashboards = config.monitoring.dashboard.model_fields_set
    if "ray" in dashboards and config.monitoring.dashboard.ray and engine != "ray":
        yield "monitoring.dashboard.ray", f"the {engine} backend has no Ray dashboard"
    if "ray" in dashboards and engine == "ray" and not getattr(backend, "started_cluster", False):
        yield "monitoring.dashboard.ray", "the cluster was not started here"
    if "dask" in dashboards and config.monitoring.dashboard.dask and engine != "dask":
        yield "monitoring.dashboard.dask", f"the {engine} backend has no Dask dashboard"
