"""How many replicas, and what they take; and that `serve_config.yaml` is one that Serve takes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from compute.config import Scaling
from deployments.replicas import ReplicaArgs, deployment_options

pytestmark = pytest.mark.usefixtures("serve")

SERVE_CONFIG = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())


def test_scaling_of_the_configuration_becomes_that_of_serve() -> None:
    from ray.serve.config import AutoscalingConfig

    seed = Scaling(min_workers=2, max_workers=20, target_utilization=0.8, scale_up_delay=30, scale_down_delay=300)
    options = deployment_options(ReplicaArgs(max_ongoing_requests=50, replicas=7), seed)
    autoscaling = AutoscalingConfig(**options["autoscaling_config"])
    assert (autoscaling.min_replicas, autoscaling.max_replicas) == (2, 20)
    assert autoscaling.get_target_ongoing_requests() == 40
    assert (autoscaling.upscale_delay_s, autoscaling.downscale_delay_s) == (30, 300)
    assert options["max_ongoing_requests"] == 50
    assert "num_replicas" not in options


def test_without_scaling_the_number_is_fixed() -> None:
    options = deployment_options(ReplicaArgs(replicas=3, cpus=0.25), None)
    assert options["num_replicas"] == 3
    assert options["ray_actor_options"] == {"num_cpus": 0.25}
    assert "autoscaling_config" not in options


@pytest.mark.parametrize("scaling", [None, Scaling(min_workers=0, max_workers=3)])
def test_serve_takes_the_options(scaling: Scaling | None) -> None:
    from ray import serve

    deployment = serve.deployment(**deployment_options(ReplicaArgs(), scaling))(type("Empty", (), {}))
    assert deployment.max_ongoing_requests == 64
    assert deployment.ray_actor_options == {"num_cpus": 0.1}


@pytest.mark.parametrize("bad", [{"replicas": 0}, {"cpus": -1}, {"max_ongoing_requests": 0}, {"replica": 1}])
def test_a_bad_or_unknown_argument_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReplicaArgs(**bad)


def test_serve_takes_the_file_and_every_builder_its_arguments() -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(SERVE_CONFIG)
    assert schema.http_options.host == "127.0.0.1"
    assert {application.route_prefix for application in schema.applications} == {"/", "/models", "/v2", "/solver"}
    cpus = 0.0
    for application in schema.applications:
        module, _, function = application.import_path.partition(":")
        build = getattr(importlib.import_module(module), function)
        # As Serve does it: the annotation has to be the class itself, or the arguments are not validated.
        args = build.__annotations__["args"].model_validate(application.args)
        cpus += args.cpus * args.replicas
    assert cpus < 1
