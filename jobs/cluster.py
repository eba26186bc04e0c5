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

from compute import Config
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
    _connect(address, f"the environment variable {_ADDRESS}")
    return True


def connect(config: Config) -> None:
    """Connect to Ray because the caller asked for a distributed run.

    The address is the environment's, else ``compute.ray_address``, else a cluster that runs on this machine.

    Raises
    ------
    BackendUnavailable
        When there is no cluster to connect to: a distributed run was asked for, so nothing else is done instead.
    """
    if attach():
        return
    address = config.compute.ray_address
    _connect(address or "auto", "compute.ray_address" if address else "a search for a cluster on this machine")


def _connect(address: str, source: str) -> None:
    import ray

    try:
        _knock(address)
        # The job's own log is what a person reads; the workers' lines are in Ray's logs.
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendUnavailable(
            f"no Ray cluster answers at {address!r} (from {source}): {error}",
            hint="Start one with `make run` or `ray start --head`, call ray.init(), or do without a distributed run.",
            context={"address": address},
        ) from error
    logger.info("ray=connected address=%s", address)


def _knock(address: str) -> None:
    """Raise OSError when nothing listens: `ray.init` would try for minutes."""
    if address == "local":
        return
    if address == "auto":
        # The address that "auto" stands for may be of a cluster that is gone; Ray has no public way to ask for it.
        from ray._private.services import canonicalize_bootstrap_address

        address = canonicalize_bootstrap_address("auto") or ""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConnectionError("no address of a running cluster was found")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
