"""What the replicas that hold models have in common."""

# No `from __future__ import annotations`: Serve reads the annotations of what takes arguments.

import asyncio
import importlib
import logging
import os
import threading
import time
from typing import Any, Literal

from pydantic import Field

from compute import load_config
from compute.config import Bytes
from compute.errors import ComputeError
from deployments.log import log_to_stderr
from deployments.prediction_log import PredictionLog
from deployments.replicas import ReplicaArgs
from deployments.rows import Rows
from deployments.scoring import Scorer
from registry import ModelRegistry, get_model_registry, open_store

logger = logging.getLogger(__name__)


class ScoringArgs(ReplicaArgs):
    """What ``serve_config.yaml`` says for an application that scores."""

    cache_bytes: Bytes = Field(2 * 2**30, description="Artifacts whose models a replica holds, together.")
    cache_models: int = Field(200, ge=1, description="Models that a replica holds.")
    threads: int = Field(1, ge=1, description="Threads of one prediction.")
    pinned: list[str] = Field(
        [], description="Models, by name, `name@alias` or id, that a replica always holds, besides the limits above."
    )
    preload: list[Literal["xgboost", "lightgbm", "sklearn"]] = Field(
        [],
        description="Libraries that a replica imports as it starts, which the first prediction then need not wait for.",
    )


class ScoringReplica:
    """Has a registry and a scorer, and answers handle calls.

    Parameters
    ----------
    args : ScoringArgs
        As ``serve_config.yaml`` has them.
    """

    _log: PredictionLog | None = None

    def __init__(self, args: ScoringArgs) -> None:
        log_to_stderr()
        if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
            logger.warning("event=slow_ingress action=run_python_-m_deployments.ingress_before_ray_starts")
        self.config = load_config(args.config_path)
        self.registry = get_model_registry(self.config)
        threading.Thread(target=_wake, args=(self.registry,), name="wake", daemon=True).start()
        threading.Thread(target=_import, args=(args.preload,), name="preload", daemon=True).start()
        logged = self.config.monitoring.prediction_log
        self._log = PredictionLog(open_store(self.config.storage.uri, self.config), logged) if logged.sample else None
        self._pinned = args.pinned
        self.scorer = Scorer(
            self.registry,
            max_bytes=args.cache_bytes,
            max_models=args.cache_models,
            threads=args.threads,
            log=self._log,
        )

    def begin(self) -> None:
        """Begin what goes on beside the requests; call it in the replica's loop."""
        if self._pinned:
            self._holding = asyncio.get_running_loop().create_task(self.scorer.hold(self._pinned))

    def __del__(self) -> None:
        """Write what the log gathered; Serve calls this before it ends the replica."""
        if self._log is not None:
            self._log.close()

    async def predict(self, model_ref: str, rows: Rows, proba: bool = False) -> dict[str, Any]:
        """Predict raw rows, for handle calls; as `Scorer.predict`."""
        return await self.scorer.predict(model_ref, rows, proba=proba)


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
