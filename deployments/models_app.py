"""The models application on Ray Serve: `deployments.models_app:build` in ``serve_config.yaml``.

Other Ray programs, in any namespace of the cluster, call it without HTTP::

    from ray import serve

    models = serve.get_app_handle("models")
    answer = models.predict.remote("delays@champion", [{"distance": 1416, "carrier": "UA"}]).result()
    answer["predictions"]
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

from typing import TYPE_CHECKING

from pydantic import Field

from compute import load_config
from deployments.application import Application
from deployments.models_api import models_api
from deployments.replicas import serve_application
from deployments.scoring_replica import ScoringArgs, ScoringReplica

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication


class ModelsAppArgs(ScoringArgs):
    """The ``args`` of the models application."""

    max_streams: int = Field(
        64, ge=0, description="Clients that follow a replica's events at once, besides max_ongoing_requests."
    )


class Models(ScoringReplica):
    """One replica: answers HTTP through `models_api`, and handle calls through its own methods.

    Parameters
    ----------
    args : ModelsAppArgs
        As ``serve_config.yaml`` has them.
    """

    def __init__(self, args: ModelsAppArgs) -> None:
        super().__init__(args)
        self._max_streams = args.max_streams

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Serve calls this once, in the replica's loop."""
        self.begin()
        return models_api(self.registry, self.scorer, self.config, self._max_streams)


def build(args: ModelsAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    # Streams stay for hours and do nothing: they take no place from those who want an answer.
    args = args.model_copy(update={"max_ongoing_requests": args.max_ongoing_requests + args.max_streams})
    return serve_application(Models, args, load_config(args.config_path).scaling)
