"""The models application on Ray Serve: `deployments.models_app:build` in ``serve_config.yaml``.

Other Ray programs, in any namespace of the cluster, call it without HTTP::

    from ray import serve

    models = serve.get_app_handle("models")
    answer = models.predict.remote("delays@champion", [{"distance": 1416, "carrier": "UA"}]).result()
    answer["predictions"]
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

import importlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from compute import load_config
from compute.config import Bytes
from compute.errors import ComputeError
from deployments.application import Application
from deployments.log import log_to_stderr
from deployments.models_api import models_api
from deployments.replicas import ReplicaArgs, serve_application
from deployments.rows import Rows
from deployments.scoring import Scorer
from registry import ModelRegistry, get_model_registry

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication

logger = logging.getLogger(__name__)


class ModelsAppArgs(ReplicaArgs):
    """The ``args`` of the models application."""

    cache_bytes: Bytes = Field(2 * 2**30, description="Artifacts whose models a replica holds, together.")
    cache_models: int = Field(200, ge=1, description="Models that a replica holds.")
    threads: int = Field(1, ge=1, description="Threads of one prediction.")
    max_streams: int = Field(
        64, ge=0, description="Clients that follow a replica's events at once, besides max_ongoing_requests."
    )
    preload: list[Literal["xgboost", "lightgbm", "sklearn"]] = Field(
        [],
        description="Libraries that a replica imports as it starts, which the first prediction then need not wait for.",
    )


class Models:
    """One replica: answers HTTP through `models_api`, and handle calls through its own methods.

    Parameters
    ----------
    args : ModelsAppArgs
        As ``serve_config.yaml`` has them.
    """

    def __init__(self, args: ModelsAppArgs) -> None:
        log_to_stderr()
        self._args = args
        self._config = load_config(args.config_path)
        self._registry = get_model_registry(self._config)
        threading.Thread(target=_wake, args=(self._registry,), name="wake", daemon=True).start()
        threading.Thread(target=_import, args=(args.preload,), name="preload", daemon=True).start()
        self._scorer = Scorer(
            self._registry, max_bytes=args.cache_bytes, max_models=args.cache_models, threads=args.threads
        )

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Serve calls this once, in the replica's loop."""
        return models_api(self._registry, self._scorer, self._config, self._args.max_streams)

    async def predict(self, model_ref: str, rows: Rows, proba: bool = False) -> dict[str, Any]:
        """Predict raw rows, for handle calls; as `Scorer.predict`."""
        return await self._scorer.predict(model_ref, rows, proba=proba)


def _wake(registry: ModelRegistry) -> None:
    """Have the registry run before anyone asks: it has webhooks to tell what happened while it was away."""
    try:
        registry.changes()
    except ComputeError:
        logger.exception("event=registry_not_woken action=wait_for_a_request")


def _import(libraries: list[str]) -> None:
    """Import what takes seconds; a thread beside the requests, since health must not wait for it."""
    for library in libraries:
        started = time.perf_counter()
        importlib.import_module(library)
        logger.info("event=preloaded library=%s seconds=%.1f", library, time.perf_counter() - started)


def build(args: ModelsAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    # Streams stay for hours and do nothing: they take no place from those who want an answer.
    args = args.model_copy(update={"max_ongoing_requests": args.max_ongoing_requests + args.max_streams})
    return serve_application(Models, args, load_config(args.config_path).scaling)
