"""One Serve for all of these tests, on the shared Ray cluster, with the applications of `serve_config.yaml`."""

from __future__ import annotations

import importlib
import json
import socket
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import PydanticDeprecatedSince20

from compute import Config, load_config
from deployments.tokens import Role, TokenStore
from jobs import train_model
from registry import open_store

SERVE_CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


@pytest.fixture(scope="package")
def served_config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file that the served applications read: replicas do not see a test's environment."""
    home = tmp_path_factory.mktemp("served")
    (home / "data").mkdir()
    file = home / "config.json"
    values = {
        "storage": {"uri": str(home / "state"), "data_uri": str(home / "data")},
        "security": {
            "max_body": "1m",
            "max_upload": "8m",
            "allowed_origins": ["https://app.example"],
            "webhook_hosts": ["127.0.0.1"],
        },
    }
    file.write_text(json.dumps(values))
    return file


@pytest.fixture(scope="package")
def served_config(served_config_path: Path) -> Config:
    """The configuration of the served applications."""
    return load_config(served_config_path)


@pytest.fixture(scope="package")
def token_store(served_config: Config) -> TokenStore:
    """The tokens that the served applications accept."""
    return TokenStore(open_store(served_config.storage.uri, served_config))


@pytest.fixture(scope="package")
def tokens(token_store: TokenStore) -> dict[Role, str]:
    """A token of each role."""
    return {role: token_store.create(f"test-{role}", role, timedelta(hours=1)).secret for role in Role}


@pytest.fixture(scope="package")
def small(ray_cluster: str, served_config: Config) -> str:
    """The name of a small model in the registry of the served applications; its features are x and z."""
    rows = pd.DataFrame({"x": np.arange(50.0), "z": np.arange(50.0) % 7, "y": np.arange(50.0) * 2})
    train_model(
        rows, "y", model_type="xgboost", name="small", model_params={"n_estimators": 5}, config=served_config,
        distribute_data=False,
    )  # fmt: skip
    return "small"


@pytest.fixture(scope="package")
def serve() -> ModuleType:
    """The module ray.serve, which cannot be imported where warnings are errors: it still uses pydantic's old way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticDeprecatedSince20)
        return importlib.import_module("ray.serve")


@pytest.fixture(scope="package")
def deploy(serve: Any, ray_cluster: str, served_config_path: Path) -> Iterator[Callable[[str], str]]:
    """Deploys an application of `serve_config.yaml` by its name, once, and gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    applications = {entry["name"]: entry for entry in yaml.safe_load(SERVE_CONFIG.read_text())["applications"]}
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    up: dict[str, str] = {}

    def run(name: str) -> str:
        if name not in up:
            entry = applications[name]
            module, _, function = entry["import_path"].partition(":")
            build = getattr(importlib.import_module(module), function)
            args = build.__annotations__["args"].model_validate(
                {**entry.get("args", {}), "config_path": str(served_config_path)}
            )
            serve.run(build(args), name=name, route_prefix=entry["route_prefix"])
            up[name] = f"http://127.0.0.1:{port}{entry['route_prefix'].rstrip('/')}"
        return up[name]

    yield run
    serve.shutdown()


@pytest.fixture(scope="package")
def models_url(deploy: Callable[[str], str]) -> str:
    """Where the models application answers."""
    return deploy("models")


@pytest.fixture(scope="package")
def inference_url(deploy: Callable[[str], str]) -> str:
    """Where the inference application answers."""
    return deploy("inference")


@pytest.fixture(scope="package")
def solver_url(deploy: Callable[[str], str]) -> str:
    """Where the solver application answers."""
    return deploy("solver")


@pytest.fixture(scope="package")
def serve_url(deploy: Callable[[str], str]) -> str:
    """Where Serve answers, with every application deployed."""
    for name in ("index", "models", "inference", "solver"):
        url = deploy(name)
    return url.rpartition("/")[0]


@pytest.fixture
def client(tokens: dict[Role, str]) -> Iterator[Callable[..., httpx.Client]]:
    """Makes HTTP clients: `client(url, role)`; without a role, one without a token."""
    made: list[httpx.Client] = []

    def make(url: str, role: Role | str | None = Role.ADMIN, **options: Any) -> httpx.Client:
        headers = {} if role is None else {"Authorization": f"Bearer {tokens[Role(role)]}"}
        made.append(httpx.Client(base_url=url, headers=headers, timeout=30, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
