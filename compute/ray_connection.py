"""Connecting this process to Ray: what the configuration names, what runs here, or what is started here.

Ray is imported inside the functions: a process that does not use it does not pay for it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from compute.config import Config
from compute.errors import BackendUnavailable, ConfigurationError

logger = logging.getLogger(__name__)

_ANSWER = 6.0
"""Seconds to wait for an address; with what Ray then takes to refuse it stays below ten."""

_CHECK = (
    "Check that the cluster runs there (`ray status`), that the port is Ray's (6379: the cluster itself, "
    "10001: Ray Client), and that a firewall or a token (RAY_AUTH_TOKEN) does not stand between."
)


def connected() -> bool:
    """Whether this process is connected to Ray. Does not import it: who is connected has."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def running_here() -> str | None:
    """Return the address of a Ray cluster that runs on this machine, or that ``RAY_ADDRESS`` names.

    Does not import Ray. What `ray start` wrote down is believed if the port answers.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        return named
    # As ray._common.utils.get_ray_address_file has it.
    file = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"  # noqa: S108
    try:
        address = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return address if address and _port_open(address) else None


class Connection:
    """A connection of this process to Ray, counted: who lets go of it last closes it, if it was made here."""

    def __init__(self, address: str, session: str) -> None:
        self.address = address
        self.session = session
        self.users = 1

    def release(self) -> None:
        """Let go of it."""
        import ray

        global _made
        with _lock:
            self.users -= 1
            if self.users == 0 and session() == self.session:
                ray.shutdown()
                _made = None


_made: Connection | None = None
_lock = threading.Lock()


def session() -> str | None:
    """Return what tells this connection from an earlier or later one; None when there is none."""
    if not connected():
        return None
    import ray

    return str(ray.get_runtime_context().get_job_id())


def connect(config: Config, address: str | None, key: str) -> Connection | None:
    """Connect this process to Ray.

    Parameters
    ----------
    config : Config
        ``compute.cpu_limit`` and ``monitoring.dashboard.ray`` apply to a cluster that is started here.
    address : str or None
        ``ray://host:port``, ``host:port`` or ``auto``; None: join what runs here, else start one.
    key : str
        The configuration key that the address comes from.

    Returns
    -------
    Connection or None
        To be released; None when this process was connected by somebody else, who disconnects it.

    Raises
    ------
    BackendUnavailable
        Within ten seconds, when the address does not answer; or when this process is connected to another.
    """
    global _made
    with _lock:
        if connected():
            if _made is None or _made.session != session():
                if address is not None:
                    logger.info("backend=ray event=connected_already not_used=%s from=%s", address, key)
                return None
            if address not in (None, "auto", "local", _made.address):
                raise BackendUnavailable(
                    f"{key} is {address}, and this process is connected to the Ray cluster at {_made.address}",
                    hint="Ray allows one connection at a time: shut the other manager down, or use another process.",
                    context={"address": address, "key": key, "connected": _made.address},
                )
            _made.users += 1
            return _made
        where = _initialise(config, address, key)
        _made = Connection(where, session() or "")
        return _made


def _initialise(config: Config, address: str | None, key: str) -> str:
    import ray

    if address is None:
        address, key = running_here(), "the environment: RAY_ADDRESS or `ray start`"
    elif address == "auto":
        address = running_here()
        if address is None:
            raise BackendUnavailable(
                f"{key} is 'auto', and no Ray cluster runs on this machine",
                hint="Start one with `ray start --head`, or leave the key out to have one started for this process.",
                context={"address": "auto", "key": key},
            )
    if address is None or address == "local":
        _start(ray, config)
        return "local"
    _probe(address, key)
    try:
        ray.init(address=address, configure_logging=False)
    except Exception as error:
        # ConnectionError, RuntimeError, ValueError, grpc's own: whatever the way to refuse, the reader needs the same.
        raise _unavailable(address, key, f"{type(error).__name__}: {error}") from error
    return address


def resolve(host: str, port: int, key: str) -> str:
    """Return the address for ``host`` and ``port`` of a cluster: of Ray Client or of the cluster itself."""
    address = f"{host}:{port}"
    if connected():
        # Not used but to be compared with what is connected.
        return address if _made is None or _made.address == address else f"ray://{address}"
    return f"ray://{address}" if _probe(address, key, "/ray.rpc.RayletDriver/ClusterInfo") else address


def _start(ray: Any, config: Config) -> None:
    limit = config.compute.cpu_limit
    cores = os.cpu_count() or 1
    # "local": ray.init() without an address would join a cluster of someone else that happens to be here.
    ray.init(
        address="local",
        num_cpus=None if limit is None else max(1, min(int(limit), cores)),
        include_dashboard=config.monitoring.dashboard.ray,
        configure_logging=False,
    )
    logger.info("backend=ray event=started cpus=%s", ray.cluster_resources().get("CPU"))


def _probe(address: str, key: str, method: str = "/compute/Probe") -> bool:
    """Raise when nothing that speaks Ray's protocol answers at the address; return whether it knows the method.

    A port that accepts connections is not enough: a hung server, or one of another kind, does as well.
    """
    import grpc
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._private.grpc_utils import init_grpc_channel

    target = address.removeprefix("ray://")
    _, colon, port = target.rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigurationError(
            f"{key} is {address!r}, which is no address", hint="Write `ray://host:10001`, `host:6379` or `auto`."
        )
    # What `ray.init` does for the cluster's own address; for Ray Client's it waits half a minute and does not say why.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    channel = init_grpc_channel(target)
    try:
        grpc.channel_ready_future(channel).result(timeout=_ANSWER)
        channel.unary_unary(method, bytes, bytes)(b"", timeout=2.0)
    except grpc.FutureTimeoutError:
        what = "something accepts connections there, but does not answer as Ray does"
        raise _unavailable(address, key, what if _port_open(target) else "nothing accepts connections there") from None
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise _unavailable(address, key, "it asks for a token that this process does not have") from None
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    finally:
        channel.close()
    return True


def _unavailable(address: str, key: str, reason: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"the Ray cluster at {address} (from {key}) cannot be reached: {reason}",
        hint=_CHECK,
        context={"address": address, "key": key},
    )


def _port_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except (OSError, ValueError):
        return False
