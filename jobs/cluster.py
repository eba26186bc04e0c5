"""The Ray cluster, when there is one: connect to it when asked, and say what its nodes have.

Ray is imported inside functions, and only when a cluster was asked for.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compute import Config, get_compute_manager
from compute.errors import BackendUnavailable

logger = logging.getLogger(__name__)

_ADDRESS = "RAY_ADDRESS"
# Seconds to wait for an address to answer.
_PATIENCE = 5


@dataclass(frozen=True)
class Node:
    """CPUs and bytes of memory that Ray may place work on, the node's id, and the CPUs that nobody has now."""

    cpus: float
    memory: int
    id: str = ""
    free: float = math.inf


def connected() -> bool:
    """Whether this process is connected to Ray; never imports it.

    Examples
    --------
    >>> connected() in (True, False)
    True
    """
    ray = sys.modules.get("ray")
    return bool(ray is not None and ray.is_initialized())


def nodes() -> tuple[Node, ...]:
    """Return the nodes that are alive and have CPUs, the largest first; none without Ray."""
    if not connected():
        return ()
    import ray

    described: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # ray does not type it
    free = free_cpus()
    alive = [(node["Resources"], node["NodeID"]) for node in described if node["Alive"]]
    found = [
        Node(float(item.get("CPU", 0)), int(item.get("memory", 0)), name, free.get(name, math.inf))
        for item, name in alive
    ]
    return tuple(sorted((node for node in found if node.cpus), key=lambda node: -node.cpus))


def free_cpus() -> dict[str, float]:
    """Return the CPUs of each node that nobody has; nothing through Ray Client, which does not tell."""
    import ray
    from ray._private.state import available_resources_per_node  # nothing public tells it by node

    if ray.util.client.ray.is_connected():  # type: ignore[no-untyped-call]
        return {}
    found: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return {node: item.get("CPU", 0.0) for node, item in found.items()}


def with_room(found: Sequence[Node]) -> Sequence[Node]:
    """Return the nodes that have a free CPU; all, when none has: who works there may end soon.

    Examples
    --------
    >>> [node.cpus for node in with_room([Node(8, 0, free=0.0), Node(4, 0, free=2.0)])]
    [4]
    """
    return [node for node in found if node.free >= 1] or found


def attach() -> bool:
    """Connect to the cluster that the environment names, as in a submitted job; without one, do nothing.

    Returns
    -------
    bool
        Whether the process is connected.

    Raises
    ------
    BackendUnavailable
        When an address is named and does not answer.
    """
    if connected():
        return True
    address = os.environ.get(_ADDRESS, "")
    # An http address is the dashboard's, for `ray job submit`: it names no cluster to connect to.
    if not address or address.startswith("http"):
        return False
    import ray

    try:
        _knock(address)
        # The job's own log is what a person reads; the workers' lines are in Ray's logs.
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendUnavailable(
            f"no Ray cluster answers at {address!r} (from the environment variable {_ADDRESS}): {error}",
            hint="Start one with `make run` or `ray start --head`, or unset the variable to work without Ray.",
            context={"address": address},
        ) from error
    logger.info("ray=connected address=%s", address)
    return True


def connect(config: Config) -> None:
    """Connect to Ray because the caller asked for a distributed run.

    To the cluster the environment names; else as the compute layer does for the backend ``ray``: to
    ``compute.ray_address``, a cluster that runs on this machine, or one that is started for this process.

    Raises
    ------
    BackendUnavailable
        When an address is named and does not answer: a distributed run was asked for, so nothing else is done instead.
    """
    if not attach():
        section = config.compute.model_copy(update={"backend": "ray"})
        get_compute_manager(config=config.model_copy(update={"compute": section}))


def _knock(address: str) -> None:
    """Raise OSError when nothing listens at ``host:port``: `ray.init` would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
