"""The engines `xgboost_ray` and `lightgbm_ray`, for those who still need them; Ray Train has taken their place.

Their last releases are of 2023 and need ``xgboost<2.1``: the extra ``legacy``, in an environment of its own. They and
what they train with are imported inside functions.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from compute import Config
from compute.errors import BackendUnavailable, InvalidField, ResourcesUnavailable, TaskFailed
from jobs import cluster
from jobs.families import Family, Problem, find_family
from jobs.planner import Plan

if TYPE_CHECKING:
    from jobs.families import Matrix

ENGINES = {"xgboost_ray": "xgboost", "lightgbm_ray": "lightgbm"}
"""The model type that each trains."""

_DEFAULT = "xgboost"
# LightGBM-Ray refuses fewer, unless it is told that it is meant.
_LIGHTGBM_CPUS = 2


def check_engine(engine: str, model_type: str, distribute: bool | None) -> str:
    """Return the model type that an engine trains.

    Parameters
    ----------
    engine : {"xgboost_ray", "lightgbm_ray"}
        As it was asked for.
    model_type : str
        The engine's own, or the default, which the engine settles.
    distribute : bool or None
        False is a contradiction.

    Raises
    ------
    InvalidField
        When there is no such engine, or something else that was asked for does not go with it.
    BackendUnavailable
        When the extra is not installed.

    Examples
    --------
    >>> check_engine("xgboost-ray", "xgboost", None)
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: there is no engine 'xgboost-ray'. The engines are xgboost_ray, lightgbm_ray; ...
    """
    if engine not in ENGINES:
        raise InvalidField(
            f"there is no engine {engine!r}",
            hint=f"The engines are {', '.join(ENGINES)}; leave it out for Ray Train and this process.",
            context={"engine": engine, "known": list(ENGINES)},
        )
    if model_type not in (ENGINES[engine], _DEFAULT):
        raise InvalidField(
            f"the engine {engine!r} trains models of the type {ENGINES[engine]!r}, not {model_type!r}",
            hint="Leave out engine, or model_type.",
        )
    if distribute is False:
        raise InvalidField(
            f"the engine {engine!r} trains over a Ray cluster, and distribute_data is False",
            hint="Leave one of them out.",
        )
    if find_spec(engine) is None:
        raise BackendUnavailable(
            f"the engine {engine!r} needs the package {engine.replace('_', '-')}, which is not installed",
            hint="Install the extra `legacy` (pip install 'tablework[legacy]') in an environment of its own: it needs "
            "xgboost<2.1. Or leave out engine: Ray Train has taken its place.",
            context={"engine": engine, "extra": "legacy"},
        )
    return ENGINES[engine]


def with_engine(engine: str, plan: Plan, num_workers: int | None, config: Config) -> tuple[Family, Plan]:
    """Connect to Ray, and return the family that trains with the engine there, and the plan.

    The matrix is made in this process, as for a model that is trained in it, and its rows are dealt out from here.

    Raises
    ------
    ResourcesUnavailable
        When the cluster has too few CPUs for so many workers.
    """
    cluster.connect(config)
    nodes = cluster.nodes()
    workers = num_workers or max(1, len(nodes))
    total = int(sum(node.cpus for node in nodes))
    if workers > total:
        raise ResourcesUnavailable(
            f"{workers} training workers can never be placed: the cluster has {total} CPUs",
            hint="Ask for fewer workers (num_workers), or add nodes.",
            context={"workers": workers, "cluster_cpus": total},
        )
    # One CPU of a node is left for others, as when Ray Train trains.
    cpus = max(1, int(min(node.cpus for node in nodes) - 1) // -(-workers // len(nodes)))
    fit = functools.partial({"xgboost_ray": _fit_xgboost, "lightgbm_ray": _fit_lightgbm}[engine], workers, cpus)
    family = replace(find_family(ENGINES[engine]), libraries=(ENGINES[engine], engine), fit=fit)
    reason = f"engine={engine!r} was asked for: {workers} workers of {cpus} CPUs; {plan.reason}"
    return family, replace(plan, mode="distributed", reason=reason, workers=workers)


def _fit_xgboost(workers: int, cpus: int, matrix: Matrix, target: Matrix, problem: Problem) -> Any:
    import xgboost_ray

    from jobs.family_xgboost import booster_params, matrix_options

    rounds, params = booster_params(replace(problem, threads=cpus))
    data = xgboost_ray.RayDMatrix(matrix, label=target, **matrix_options(problem))
    crew = xgboost_ray.RayParams(num_actors=workers, cpus_per_actor=cpus)
    try:
        return xgboost_ray.train(params, data, num_boost_round=rounds, ray_params=crew)
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise _failed("xgboost_ray", error) from error


def _fit_lightgbm(workers: int, cpus: int, matrix: Matrix, target: Matrix, problem: Problem) -> Any:
    import lightgbm_ray

    from jobs.family_lightgbm import booster_params, dataset_options

    rounds, params = booster_params(replace(problem, threads=cpus))
    params.pop("num_threads", None)  # of its own, from the CPUs
    crew = lightgbm_ray.RayParams(
        num_actors=workers,
        cpus_per_actor=cpus,
        allow_less_than_two_cpus=cpus < _LIGHTGBM_CPUS,
    )
    try:
        model = lightgbm_ray.train(
            params,
            lightgbm_ray.RayDMatrix(matrix, label=target),
            num_boost_round=rounds,
            ray_params=crew,
            **dataset_options(problem),
        )
    except (RuntimeError, ValueError, TimeoutError) as error:
        raise _failed("lightgbm_ray", error) from error
    return model.booster_


def _failed(engine: str, error: Exception) -> TaskFailed:
    return TaskFailed(
        f"training with {engine} failed: {type(error).__name__}: {error}",
        hint="The workers' logs are in Ray's dashboard; without engine, Ray Train or this process trains.",
    )
