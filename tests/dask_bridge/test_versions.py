"""Which versions of Dask the bridge takes."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from compute.errors import BackendUnavailable
from dask_bridge.versions import TESTED, check_installed, check_version


@pytest.mark.parametrize("found", ["2026.8.0", "2026.8.1", "2026.8.0+local", "2026.8.1.dev3"])
def test_a_tested_version_is_taken(found: str) -> None:
    check_version("dask", found, "here")


@pytest.mark.parametrize("found", ["2024.11.0", "2026.7.1", "2026.9.0", "2027.1", "1!2026.8.0"])
def test_another_one_is_named_with_the_range(found: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"distributed .* is installed on the scheduler") as caught:
        check_version("distributed", found, "on the scheduler")
    assert found in str(caught.value)
    assert TESTED in str(caught.value)
    assert caught.value.context == {"package": "distributed", "version": found, "tested": TESTED}


def test_the_project_asks_for_the_same_range_and_it_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = {item.name: item for item in map(Requirement, project["dependencies"])}
    for package in ("dask", "distributed"):
        assert set(map(str, asked[package].specifier)) == set(TESTED.split(","))
        assert asked[package].specifier.contains(version(package))
    check_installed(("dask", "distributed"))
