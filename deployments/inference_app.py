"""The inference application on Ray Serve: `deployments.inference_app:build` in ``serve_config.yaml``.

Other Ray programs call it without HTTP, as they do the models application; this one may have more replicas.
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic import Field

from compute import load_config
from deployments.application import Application
from deployments.data_port import DataPort, OwnServer
from deployments.gate import Gate
from deployments.grpc_port import GrpcPort
from deployments.port_requests import ONGOING, all_requests
from deployments.replicas import serve_application
from deployments.scoring_replica import ScoringArgs, ScoringReplica
from deployments.short_path import ShortPath, socket_path
from deployments.tokens import TokenStore
from deployments.v2_api import v2_api
from deployments.v2_service import V2Service
from registry import open_store

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication

PREFIX = "/v2"
"""Where the protocol has it, and so the `route_prefix` in ``serve_config.yaml``."""


class InferenceAppArgs(ScoringArgs):
    """The ``args`` of the inference application."""

    short_path: bool = Field(
        True, description="Whether HAProxy reaches the replicas past Serve's handling: see `deployments.short_path`."
    )
    data_port: int | None = Field(
        None, ge=1, le=65535, description="A port of the replicas' own, past HAProxy: see `deployments.data_port`."
    )
    data_host: str = Field("127.0.0.1", description="Where to listen for it.")
    grpc_port: int | None = Field(
        None, ge=1, le=65535, description="A port for the protocol over gRPC: see `deployments.grpc_port`."
    )
    grpc_host: str = Field("127.0.0.1", description="Where to listen for it.")


class Inference(ScoringReplica):
    """One replica: answers HTTP through `v2_api`, and handle calls through `predict`."""

    def __init__(self, args: InferenceAppArgs) -> None:
        super().__init__(args)
        self.service = V2Service(self.registry, self.scorer)
        self._args = args
        self._own: list[OwnServer | GrpcPort] = []

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application, and open the ways past Serve; Serve calls this once, in the replica's loop."""
        args = self._args
        limit = args.max_ongoing_requests + max(args.max_queued_requests, 0)
        path = socket_path() if args.short_path else None
        if path is not None or args.data_port is not None:
            direct = v2_api(self.service, self.config, echo_request_id=True)
            if path is not None:
                self._own.append(ShortPath(direct, path, limit))
            if args.data_port is not None:
                self._own.append(DataPort(direct, PREFIX, args.data_host, args.data_port, limit))
        if args.grpc_port is not None:
            gate = Gate(TokenStore(open_store(self.config.storage.uri, self.config)))
            most = self.config.security.max_body
            self._own.append(GrpcPort(self.service, gate, args.grpc_host, args.grpc_port, limit, max_message=most))
        self.begin()
        return v2_api(self.service, self.config, lifespan=self._lifespan)

    def record_autoscaling_stats(self) -> dict[str, int]:
        """Tell Serve's autoscaling of the requests that it does not see; Serve calls this."""
        return {ONGOING: sum(each.ongoing for each in self._own)}

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Answer what is under way past Serve before the replica ends: Serve ends the application first."""
        yield
        await asyncio.gather(*(each.close() for each in self._own))


def build(args: InferenceAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    scaling = load_config(args.config_path).scaling
    if scaling is not None and not args.data_port is args.grpc_port is None:
        # One stays: nobody would listen on the ports to wake another.
        scaling = scaling.model_copy(update={"min_workers": max(scaling.min_workers, 1)})
    return serve_application(Inference, args, scaling, f"{all_requests.__module__}:{all_requests.__name__}")
