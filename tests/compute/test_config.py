"""The configuration: what is refused and how it is said, what the environment overrides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compute import Config, load_config
from compute.config import parse_bytes
from compute.errors import ConfigurationError

DOCUMENTED = {
    "compute": {
        "backend": "ray",
        "ray_address": "ray://localhost:10001",
        "dask_address": "localhost:8786",
        "local_workers": 4,
        "cpu_limit": 16,
        "memory_limit": "32g",
        "gpu_limit": 2,
    },
    "clusters": [
        {
            "name": "primary",
            "host": "compute-primary.example.com",
            "port": 10001,
            "type": "ray",
            "resources": {"cpu": 32, "memory": "128g", "gpu": 4},
        },
        {
            "name": "analytics",
            "host": "compute-analytics.example.com",
            "port": 8786,
            "type": "dask",
            "resources": {"cpu": 16, "memory": "64g"},
        },
    ],
    "task_defaults": {"timeout": 3600, "retries": 3, "backoff_factor": 1.5},
    "scaling": {
        "min_workers": 2,
        "max_workers": 20,
        "target_utilization": 0.8,
        "scale_up_delay": 30,
        "scale_down_delay": 300,
    },
    "monitoring": {
        "enabled": True,
        "dashboard": {"ray": True, "dask": True},
        "metrics_retention": {"days": 7},
    },
}


def load(tmp_path: Path, values: object) -> Config:
    file = tmp_path / "config.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    return load_config(file)


def test_the_documented_file_loads_as_it_is(tmp_path: Path) -> None:
    config = load(tmp_path, DOCUMENTED)
    assert config.compute.memory_limit == 32 * 2**30
    assert config.clusters[1].resources.memory == 64 * 2**30
    assert config.clusters[1].resources.gpu is None
    assert config.scaling is not None
    assert config.scaling.max_workers == 20
    assert (config.task_defaults.timeout, config.monitoring.metrics_retention.days) == (3600, 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"compute": {"backends": "ray"}}, r"compute\.backends .*unknown key; expected one of backend, ray_address"),
        ({"computing": {}}, r"computing .*unknown key; expected one of compute, clusters"),
        ({"compute": {"backend": "spark"}}, r"compute\.backend = 'spark' .*'auto', 'local', 'ray' or 'dask'"),
        ({"compute": {"local_workers": 0}}, r"compute\.local_workers = 0 .*greater than or equal to 1"),
        ({"compute": {"memory_limit": "lots"}}, r"compute\.memory_limit = 'lots' .*\"512m\" or \"32g\""),
        ({"clusters": [{"name": "a", "host": "h", "port": 70000, "type": "ray"}]}, r"clusters\.0\.port = 70000"),
        ({"clusters": [{"name": "a", "host": "h", "port": 1}]}, r"clusters\.0\.type .*Field required"),
        ({"task_defaults": {"backoff_factor": 0.5}}, r"task_defaults\.backoff_factor = 0\.5"),
        ({"scaling": {"target_utilization": 2}}, r"scaling\.target_utilization = 2"),
        ({"scaling": {"min_workers": 5, "max_workers": 2}}, r"scaling .*min_workers .*max_workers"),
        ({"clusters": [{"name": "a", "host": "h", "port": 1, "type": "ray"}] * 2}, r"clusters .*'a'.*twice"),
        ({"monitoring": {"metrics_retention": {"days": 0}}}, r"monitoring\.metrics_retention\.days = 0"),
        ({"storage": {"keep_deleted_days": 1e9}}, r"storage\.keep_deleted_days = 1000000000\.0 .*equal to 36500"),
        ('{"storage": {"keep_deleted_days": 1e400}}', r"storage\.keep_deleted_days"),
        ("[]", r"holds a list, not an object"),
        ("{", r"is not JSON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, values: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, values)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.json"):
        load_config(tmp_path / "nowhere.json")


def test_the_environment_overrides_single_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPUTE_COMPUTE__LOCAL_WORKERS", "7")
    monkeypatch.setenv("COMPUTE_TASK_DEFAULTS__TIMEOUT", "12.5")
    config = load(tmp_path, DOCUMENTED)
    assert (config.compute.local_workers, config.compute.backend) == (7, "ray")
    assert (config.task_defaults.timeout, config.task_defaults.retries) == (12.5, 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("COMPUTE_COMPUTING__BACKEND", "ray", "COMPUTE_COMPUTING__BACKEND names no section"),
        ("COMPUTE_COMPUTE__BACKENDS", "ray", r"compute\.backends .*COMPUTE_COMPUTE__BACKENDS.*unknown key"),
        ("COMPUTE_COMPUTE__CPU_LIMIT", "-1", r"compute\.cpu_limit = '-1' .*COMPUTE_COMPUTE__CPU_LIMIT"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message):
        load_config()


@pytest.mark.parametrize("value", [True, -1, "", "1x", "g", None, 1.5])
def test_what_is_no_size_is_refused(value: object) -> None:
    if value == 1.5:
        assert parse_bytes("1.5k") == 1536
    with pytest.raises(ValueError, match="a size in bytes"):
        parse_bytes(value if value != 1.5 else "1.5.5")
