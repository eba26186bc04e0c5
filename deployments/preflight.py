"""What must be there before a cluster is started: free ports, memory, and a place for the state."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from compute import Config
from compute.errors import ConfigurationError, ResourcesUnavailable
from registry import open_store

MINIMUM_MEMORY = 3 * 2**30  # Ray, its dashboard, Serve's own actors and our replicas take 2.2 GB; the rest is for work
MINIMUM_DISK = 2**30


def port(variable: str, default: int) -> int:
    """Return the port that an environment variable names, or the default."""
    text = os.environ.get(variable) or str(default)
    if not re.fullmatch(r"\d{1,5}", text) or not 0 < int(text) < 65536:
        raise ConfigurationError(f"{variable}={text!r} is not a port", hint=f"Try {variable}={default}.")
    return int(text)


def check_ports(ports: Mapping[str, int]) -> None:
    """Refuse when one of the ports, by the variable that sets it, is taken."""
    for variable, number in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError as error:
                raise ResourcesUnavailable(
                    f"port {number} cannot be used: {error.strerror}{_owner(number)}",
                    hint=f"Stop what listens there, or choose another: make run {variable}={number + 1}",
                ) from error


def check_memory() -> None:
    """Refuse when there is too little memory to start a cluster in."""
    available = psutil.virtual_memory().available
    if available < MINIMUM_MEMORY:
        raise ResourcesUnavailable(
            f"{available / 2**30:.1f} GiB of memory is free, and the cluster needs {MINIMUM_MEMORY / 2**30:.0f} GiB",
            hint="Close other programs and try again.",
        )


def check_disk(directory: Path) -> None:
    """Refuse when the disk that the directory is (or will be) on is nearly full."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < MINIMUM_DISK:
        raise ResourcesUnavailable(
            f"{free / 2**20:.0f} MiB of disk is free at {existing}, and {MINIMUM_DISK / 2**20:.0f} MiB are needed",
            hint="Free some, or set COMPUTE_STORAGE__URI to another place.",
        )


def check_state(config: Config) -> None:
    """Refuse when the place of models, tasks and tokens cannot be read."""
    parts = urlsplit(config.storage.uri)
    if parts.scheme == "file":
        check_disk(Path(unquote(parts.path)))
    next(open_store(config.storage.uri, config).list("tokens/"), None)


def _owner(number: int) -> str:
    """Name the process that listens on the port, where the system tells."""
    with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.pid:
                continue
            if connection.laddr and connection.laddr.port == number:
                return f", process {connection.pid} ({psutil.Process(connection.pid).name()}) listens there"
    return ""
