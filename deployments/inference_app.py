"""The inference application on Ray Serve: `deployments.inference_app:build` in ``serve_config.yaml``.

Other Ray programs call it without HTTP, as they do the models application; this one may have more replicas.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

from typing import TYPE_CHECKING

from pydantic import Field

from compute import load_config
from deployments.application import Application
from deployments.data_port import DataPort
from deployments.replicas import serve_application
from deployments.scoring_replica import ScoringArgs, ScoringReplica
from deployments.v2_api import v2_api

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication

PREFIX = "/v2"
"""Where the protocol has it, and so the `route_prefix` in ``serve_config.yaml``."""


class InferenceAppArgs(ScoringArgs):
    """The ``args`` of the inference application."""

    data_port: int | None = Field(
        None, ge=1, le=65535, description="A port of the replicas' own, past HAProxy: see `deployments.data_port`."
    )
    data_host: str = Field("127.0.0.1", description="Where to listen for it.")


class Inference(ScoringReplica):
    """One replica: answers HTTP through `v2_api`, and handle calls through `predict`."""

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Serve calls this once, in the replica's loop."""
        return v2_api(self.registry, self.scorer, self.config)


class InferenceWithDataPort(Inference):
    """The same, with a data port beside."""

    def __init__(self, args: InferenceAppArgs) -> None:
        super().__init__(args)
        self._args = args

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application, and open the port for another one like it."""
        assert self._args.data_port is not None  # else this class is not chosen
        limit = self._args.max_ongoing_requests + max(self._args.max_queued_requests, 0)
        direct = v2_api(self.registry, self.scorer, self.config, echo_request_id=True)
        self._port = DataPort(direct, PREFIX, self._args.data_host, self._args.data_port, limit)
        return super().__serve_build_asgi_app__()

    async def __del__(self) -> None:
        """Answer what is under way; Serve awaits this before it ends the replica."""
        await self._port.close()


def build(args: InferenceAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    replica = Inference if args.data_port is None else InferenceWithDataPort
    return serve_application(replica, args, load_config(args.config_path).scaling)
