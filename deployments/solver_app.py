"""The solver application on Ray Serve: `deployments.solver_app:build` in ``serve_config.yaml``.

Other Ray programs, in any namespace of the cluster, call it without HTTP::

    from ray import serve

    solver = serve.get_app_handle("solver")
    query = {"type": "prediction", "model": "delays@champion", "entities": [{"distance": 1416, "carrier": "UA"}]}
    solver.solve.remote(query).result()["predictions"]
    task_id = solver.submit.remote(query, idempotency_key="k1").result()
    solver.status.remote(task_id, wait=30).result()["state"]
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from compute import load_config
from deployments.application import Application
from deployments.log import log_to_stderr
from deployments.replicas import ReplicaArgs, serve_application
from deployments.solver_api import solver_api
from solver import get_solver_service

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication


T = TypeVar("T")


class SolverAppArgs(ReplicaArgs):
    """The ``args`` of the solver application."""


class Solver:
    """One replica: answers HTTP through `solver_api`, and handle calls through its own methods.

    Parameters
    ----------
    args : SolverAppArgs
        As ``serve_config.yaml`` has them.
    """

    def __init__(self, args: SolverAppArgs) -> None:
        log_to_stderr()
        self._config = load_config(args.config_path)
        # What comes over HTTP names only URIs that the configuration allows; programs of the cluster may read them all.
        self._untrusted = get_solver_service(self._config, trusted=False)
        self._trusted = get_solver_service(self._config)
        self._threads = ThreadPoolExecutor(thread_name_prefix="solver-handle")

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application; Serve calls this once, in the replica's loop."""
        return solver_api(self._untrusted, self._config)

    async def solve(
        self, query_data: dict[str, Any], parameters: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Answer a question, for handle calls; as `SolverService.solve`."""
        return await self._call(partial(self._trusted.solve, query_data, parameters, timeout=timeout))

    async def submit(
        self,
        query_data: dict[str, Any],
        parameters: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        caller: str = "",
    ) -> str:
        """Take a question in as a durable task, for handle calls; as `SolverService.submit`."""
        call = partial(
            self._trusted.submit, query_data, parameters, idempotency_key=idempotency_key, caller=f"handle:{caller}"
        )
        return await self._call(call)

    async def status(self, task_id: str, wait: float = 0.0) -> dict[str, Any]:
        """Return where a task stands, after so many seconds or at its end; as `SolverService.wait`."""
        return await self._call(partial(self._trusted.wait, task_id, wait))

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """End a task as cancelled; as `SolverService.cancel`."""
        return await self._call(partial(self._trusted.cancel, task_id))

    async def _call(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def build(args: SolverAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    return serve_application(Solver, args, load_config(args.config_path).scaling)
