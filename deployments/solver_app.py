"""The solver application on Ray Serve: `deployments.solver_app:build` in ``serve_config.yaml``.

Other Ray programs, in any namespace of the cluster, call it without HTTP::

    from ray import serve

    solver = serve.get_app_handle("solver")
    query = {"type": "prediction", "model": "delays@champion", "entities": [{"distance": 1416, "carrier": "UA"}]}
    solver.solve.remote(query).result()["predictions"]
"""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from compute import load_config
from deployments.application import Application
from deployments.log import log_to_stderr
from deployments.replicas import ReplicaArgs, serve_application
from deployments.solver_api import solver_api
from solver import get_solver_service

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication


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
        call = partial(self._trusted.solve, query_data, parameters, timeout=timeout)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def build(args: SolverAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    return serve_application(Solver, args, load_config(args.config_path).scaling)
