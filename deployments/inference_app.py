"""The inference application on Ray Serve: `deployments.inference_app:build` in ``serve_config.yaml``.

Other Ray programs call it without HTTP, as they do the models application; this one may have more replicas.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

from typing import TYPE_CHECKING

from compute import load_config
from deployments.application import Application
from deployments.replicas import serve_application
from deployments.scoring_replica import ScoringArgs, ScoringReplica
from deployments.v2_api import v2_api

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication


class InferenceAppArgs(ScoringArgs):
    """The ``args`` of the inference application."""


class Inference(ScoringReplica):
    """One replica: answers HTTP through `v2_api`, and handle calls through `predict`."""

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Serve calls this once, in the replica's loop."""
        return v2_api(self.registry, self.scorer, self.config)


def build(args: InferenceAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    return serve_application(Inference, args, load_config(args.config_path).scaling)
