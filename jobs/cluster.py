"""The Ray cluster, when there is one: connect to it when asked, and say what its nodes have.

Ray is imported inside functions, and only when a cluster was asked for.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
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
    """CPUs and bytes of memory that Ray may place work on."""

    cpus: float
    memory: int


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
    alive = [node["Resources"] for node in described if node["Alive"]]
    found = [Node(float(item.get("CPU", 0)), int(item.get("memory", 0))) for item in alive]
    return tuple(sorted((node for node in found if node.cpus), key=lambda node: -node.cpus))


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
