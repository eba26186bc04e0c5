"""A Ray cluster and our Serve applications on this machine: `python -m deployments.local up|down|status`.

What `up` starts carries a mark in its environment (`RUN_MARK`), and what that starts carries it in turn. `down` stops
the processes with this mark and their session, and no others: other Ray clusters of the same person stay as they are,
and an interrupted `up` leaves nothing that the next one cannot find.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from compute import Config, load_config
from compute.errors import BackendUnavailable, ComputeError, ResourcesUnavailable
from deployments import preflight
from deployments.ingress import ingress_variables
from deployments.tokens import TokenStore
from registry import open_store

RUN_DIRECTORY = Path(".run")
RUN_MARK = "TABLEWORK_RUN"
SERVE_CONFIG = Path("serve_config.yaml")
START_TIMEOUT = 180.0


@dataclass(frozen=True)
class Cluster:
    """What `up` started, as kept in `.run/cluster.json`."""

    mark: str
    session: int
    address: str
    dashboard: str
    http: str
    directory: str = ""  # of HAProxy


def up() -> Cluster:
    """Start Ray and Serve, or take what is up; return where they answer.

    Raises
    ------
    ResourcesUnavailable
        When a port is taken, or memory or disk is short.
    BackendUnavailable
        When Ray or an application does not come up, with what its log says.
    """
    RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with _alone():
        config = load_config()
        serve_config = _read_serve_config()
        cluster = current()
        if cluster is not None:
            say(f"Ray is up at {cluster.address}")
        else:
            down()
            http = serve_config["http_options"]
            ports = {"HTTP_PORT": http["port"], "DASHBOARD_PORT": preflight.port("DASHBOARD_PORT", 8265)}
            preflight.check_ports(ports)
            preflight.check_memory()
            preflight.check_state(config)
            cluster = _start_ray(config, ports, str(http["host"]))
        _deploy(cluster, serve_config)
        _ensure_token(config)
        return cluster


def down() -> int:
    """Stop every process that `up` started, and wait until they are gone; return how many there were."""
    state = _read_state()
    if state is None:
        return 0
    processes = _ours(state)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=3)
    while stubborn := list({*stubborn, *_ours(state)}):  # a raylet starts workers until it is gone
        for process in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, stubborn = psutil.wait_procs(stubborn, timeout=5)
    # Ray remembers the last cluster here; left behind, the next plain `ray.init()` would wait a minute for it.
    remembered = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108  (Ray's own place)
    if state.get("address") and remembered.exists() and remembered.read_text().strip() == state["address"]:
        remembered.unlink()
    if directory := state.get("directory"):
        shutil.rmtree(directory, ignore_errors=True)
    _state_file().unlink()
    return len(processes)


def current() -> Cluster | None:
    """Return the cluster that `up` started, if it still answers."""
    state = _read_state()
    if state is None or "address" not in state:
        return None
    cluster = Cluster(**state)
    try:
        _dashboard(cluster, "GET", "/api/version", timeout=5)
    except BackendUnavailable:
        return None
    return cluster


def say(text: str) -> None:
    """Print a line at once, also through a pipe."""
    print(text, flush=True)


def ray_token() -> str:
    """Return Ray's own token, from where Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    return _ray_token_path().read_text(encoding="utf-8").strip()


def environment(mark: str, config: Config) -> dict[str, str]:
    """Return the environment of the cluster: our mark, token authentication, this interpreter, and the configuration.

    The places of state and data are made absolute here, since Ray's processes run in directories of their own.
    """
    values = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},  # of another cluster
        RUN_MARK: mark,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "COMPUTE_STORAGE__URI": config.storage.uri,
        "COMPUTE_STORAGE__DATA_URI": config.storage.data_uri,
    }
    file = Path(os.environ.get("COMPUTE_CONFIG", "config.json"))
    if file.exists():
        values["COMPUTE_CONFIG"] = str(file.resolve())
    return values


def _ray_token_path() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one `up` work at a time."""
    with (RUN_DIRECTORY / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourcesUnavailable(
                "another `make run` is starting the cluster in this directory", hint="Wait for it, or stop it."
            ) from None
        yield


def _read_serve_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text(encoding="utf-8"))
    config["http_options"]["port"] = preflight.port("HTTP_PORT", config["http_options"]["port"])
    return config


def _start_ray(config: Config, ports: Mapping[str, int], host: str) -> Cluster:
    mark = secrets.token_hex(8)
    directory = Path(tempfile.mkdtemp(prefix="tablework-"))
    _write_state({"mark": mark, "directory": str(directory)})  # before anything starts: what it leaves can be found
    ingress = ingress_variables(directory)
    if not ingress:
        say("Ray brings no HAProxy for this system: HTTP goes through Serve's own proxy, at a tenth of the requests")
    variables = environment(mark, config) | ingress
    ray = str(Path(sys.executable).with_name("ray"))
    started = time.monotonic()
    if not os.environ.get("RAY_AUTH_TOKEN") and not _ray_token_path().exists():
        # Ray writes its token file with the default mode: nobody else may read it.
        command = [ray, "get-auth-token", "--generate"]
        subprocess.run(command, env=variables, umask=0o077, check=True, capture_output=True)
    command = [ray, "start", "--head", "--port=0", f"--dashboard-port={ports['DASHBOARD_PORT']}", "--log-style=record"]
    command += ["--include-dashboard=true", "--disable-usage-stats"]  # it is also the interface of Jobs and Serve
    command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
    process = subprocess.Popen(
        command, env=variables, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    _write_state({"mark": mark, "directory": str(directory), "session": process.pid})
    output, _ = process.communicate()
    address = re.search(r"--address='([^']+)'", output)
    if process.returncode or not address:
        raise BackendUnavailable(
            f"`{' '.join(command)}` failed:\n{output[-2000:]}", hint="Run `make stop`, then try again."
        )
    reachable = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104  (an address to call, not to bind)
    cluster = Cluster(
        mark=mark,
        session=process.pid,
        address=address[1],
        dashboard=f"http://127.0.0.1:{ports['DASHBOARD_PORT']}",
        http=f"http://{reachable}:{ports['HTTP_PORT']}",
        directory=str(directory),
    )
    _write_state(asdict(cluster))
    say(f"Ray started at {cluster.address} with token authentication ({time.monotonic() - started:.1f} s)")
    return cluster


def _deploy(cluster: Cluster, serve_config: Mapping[str, Any]) -> None:
    """Do what `serve deploy serve_config.yaml` does, and wait until every application runs."""
    started = time.monotonic()
    path = "/api/serve/applications/"
    if _states(_dashboard(cluster, "GET", path)) != {name["name"]: "RUNNING" for name in serve_config["applications"]}:
        _dashboard(cluster, "PUT", path, json=serve_config, timeout=60)
    while True:
        details = _dashboard(cluster, "GET", path)
        states = _states(details)
        broken = [name for name, state in states.items() if state in ("DEPLOY_FAILED", "UNHEALTHY")]
        if broken:
            messages = "\n".join(f"{name}: {details['applications'][name]['message']}" for name in broken)
            raise BackendUnavailable(f"an application did not come up:\n{messages}", hint="Mend it, then `make run`.")
        if states and set(states.values()) == {"RUNNING"}:
            break
        if time.monotonic() - started > START_TIMEOUT:
            raise BackendUnavailable(
                f"the applications are not up after {START_TIMEOUT:.0f} s: {states}",
                hint=f"Look at {cluster.dashboard}/#/serve, or run `make stop` and try again.",
            )
        time.sleep(0.2)
    say(f"Serve answers at {cluster.http}: {', '.join(states)} ({time.monotonic() - started:.1f} s)")


def _states(details: Mapping[str, Any]) -> dict[str, str]:
    return {name: application["status"] for name, application in details["applications"].items()}


def _dashboard(cluster: Cluster, method: str, path: str, **options: Any) -> Any:
    """Call the REST interface of Ray's dashboard, which starts a moment later than Ray itself."""
    patience = time.monotonic() + options.pop("timeout", 30)
    while True:
        try:
            headers = {"Authorization": f"Bearer {ray_token()}"}
            response = httpx.request(method, cluster.dashboard + path, headers=headers, timeout=30, **options)
            response.raise_for_status()
            return response.json() if response.content else None
        except (httpx.HTTPError, OSError) as error:
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
            if refused or time.monotonic() > patience:
                text = error.response.text[-2000:] if isinstance(error, httpx.HTTPStatusError) else str(error)
                raise BackendUnavailable(
                    f"Ray's dashboard at {cluster.dashboard}{path} does not answer as it should: {text}",
                    hint="Run `make stop`, then `make run`.",
                ) from error
            time.sleep(0.2)


def _ensure_token(config: Config) -> None:
    """Make the admin token of this directory once; it is valid as long as the state it belongs to."""
    file = RUN_DIRECTORY / "token"
    tokens = TokenStore(open_store(config.storage.uri, config))
    if file.exists() and tokens.verify(file.read_text(encoding="utf-8").strip()) is not None:
        return
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(tokens.create("make-run", "admin", expires_in=None).secret + "\n")


def _ours(state: Mapping[str, Any]) -> list[psutil.Process]:
    """Return what carries the mark, and what shares a session with it.

    Ray's workers write their titles over their environment; they are found by the session `ray start` began, which
    counts as ours only while a process with the mark is in it, since numbers are used again.
    """
    marked, session = [], []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, ProcessLookupError):
            if process.pid == os.getpid():
                continue
            if process.environ().get(RUN_MARK) == state["mark"]:
                marked.append(process)
            elif os.getsid(process.pid) == state.get("session"):
                session.append(process)
    return marked + (session if any(_session(process) == state.get("session") for process in marked) else [])


def _session(process: psutil.Process) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(process.pid)
    return None


def _state_file() -> Path:
    return RUN_DIRECTORY / "cluster.json"


def _read_state() -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(_state_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return state


def _write_state(state: Mapping[str, Any]) -> None:
    temporary = _state_file().with_suffix(".new")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(_state_file())


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deployments.local", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    command = parser.parse_args().command
    try:
        if command == "up":
            up()
        elif command == "down":
            count = down()
            say(f"Stopped {count} processes." if count else "Nothing of ours is running.")
        else:
            cluster = current()
            say(json.dumps(asdict(cluster)) if cluster else "Nothing of ours is running.")
            return 0 if cluster else 1
    except ComputeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. `make run` takes up from here; `make stop` cleans up.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
