"""Fixtures that every room's tests share."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from compute.config import CONFIG_VARIABLE, ENV_PREFIX, Config, load_config
from deployments.ingress import ingress_variables
from registry.actor import NAMESPACE
from tests.seaweed import SeaweedServer

# Inherited by every process the tests start: a worker must not read the configuration of whoever runs the tests.
for _name in [name for name in os.environ if name == CONFIG_VARIABLE or name.startswith(ENV_PREFIX)]:
    del os.environ[_name]

# Serve as `make run` has it; read by Ray when it is imported. A replica that goes need not wait for load balancers.
_INGRESS = tempfile.mkdtemp(prefix="ingress-")
atexit.register(shutil.rmtree, _INGRESS, ignore_errors=True)
os.environ |= ingress_variables(Path(_INGRESS)) | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}

# A machine that is busy draws examples slowly, and how slowly says nothing of what is tested. Explaining would trace
# every line, and Python 3.11 was once seen to go round in circles in a traced frame.
settings.register_profile(
    "project",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
settings.load_profile("project")


# Two workers have a cluster each, and neither may take the other's for its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")
    atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep those together that share what takes long to start; with one worker, the order is as it is without."""
    for item in items:
        room = item.path.parent.name
        own = room != "deployments" or item.path.name == "test_local.py"
        item.add_marker(pytest.mark.xdist_group(str(item.path) if own else room))
    # What starts a cluster of its own comes before the session has one: two at once take twice as long.
    items.sort(key=lambda item: (item.path.name != "test_local.py", item.path.parent.name != "deployments"))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose state and data lie in this test's own directory."""
    default = load_config()
    storage = default.storage.model_copy(
        update={
            "uri": (tmp_path / "state").as_uri(),
            "data_uri": (tmp_path / "data").as_uri(),
            "cache": default.storage.cache.model_copy(update={"directory": str(tmp_path / "cache")}),
        }
    )
    (tmp_path / "data").mkdir()
    return default.model_copy(update={"storage": storage})


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One real Ray cluster for the whole session: starting one takes 8 s. Gives its address."""
    import ray

    # "local": never join a cluster that happens to run on this machine.
    context = ray.init(address="local", num_cpus=4, namespace="tests", include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def no_registry_outlives_its_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the detached actors of registries that a module's tests started: each that idles slows down the rest."""
    yield
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or request.path.parent.name == "deployments":
        return
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE:
            with contextlib.suppress(ValueError):  # it has ended by itself
                ray.kill(ray.get_actor(actor["name"], namespace=NAMESPACE))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """One real S3 server for the whole session: starting one takes 4 s. Give each test a prefix of its own."""
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()
