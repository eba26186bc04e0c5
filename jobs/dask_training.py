"""Train over a Dask cluster: its workers encode the partitions and fit them where they are, by the libraries' own Dask.

The steps, and what each does to a partition, are those of `jobs.distributed`. dask, xgboost and lightgbm are imported
inside functions.
"""

from __future__ import annotations

import functools
import warnings
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from compute.errors import TaskFailed
from jobs.blocks import encode_block, mark_block, say_block, score_block, thin_block
from jobs.dask_table import DaskTable
from jobs.distributed import blocks_lineage, learn
from jobs.fitting import Fitted
from jobs.metrics import measure
from jobs.planner import Plan
from jobs.preparing import Clock
from jobs.profile import MOST_ROWS, profile_of
from jobs.report import describe, importances
from jobs.request import Request
from jobs.residuals import residuals

if TYPE_CHECKING:
    from jobs.families import Problem


def fit_over_dask(request: Request, table: DaskTable, plan: Plan, clock: Clock) -> Fitted:
    """Train on the partitions of a Dask DataFrame; what comes here are sayings, the model, and what it is judged by."""
    import numpy as np

    client = table.client
    parts = client.compute(table.frame[[*request.features, request.target]].to_delayed())
    mark = functools.partial(mark_block, target=request.target, fraction=request.fraction, seed=request.seed)
    marked = client.map(mark, parts, pure=False)
    del parts
    say = functools.partial(say_block, features=request.features, target=request.target)
    learnt = learn(
        [one["said"][0] for one in client.gather(client.map(say, marked, pure=False))], request, plan.threads
    )
    said, signature, target, problem = learnt.said, learnt.signature, learnt.target, learnt.problem
    clock.lap("read")

    encode = functools.partial(encode_block, signature=signature, target=target)
    training = client.map(functools.partial(encode, held_out=False), marked, pure=False)
    held_out = client.map(functools.partial(encode, held_out=True), marked, pure=False)
    del marked
    rows = client.gather(client.map(_rows, training, pure=False))
    # A library's worker cannot do without rows.
    training = [part for part, count in zip(training, rows, strict=True) if count]
    clock.lap("prepare")

    fit = _fit_xgboost if request.family.model_type == "xgboost" else _fit_lightgbm
    try:
        model = fit(client, training, problem)
    except Exception as error:
        raise TaskFailed(
            f"the distributed training of the {request.family.model_type} model failed: {error}",
            hint="The workers' logs are in Dask's dashboard; distribute_data=False trains in one process.",
        ) from error
    clock.lap("fit")

    shared = client.scatter(model, broadcast=True, hash=False)
    score = functools.partial(_score, model_type=request.family.model_type, problem=problem)
    scored = [part for part in client.gather(client.map(score, held_out, model=shared, pure=False)) if part is not None]
    truth = np.concatenate([part["truth"] for part in scored])
    baseline = said.baseline(target)
    predicted = np.concatenate([part["predicted"] for part in scored])
    metrics = measure(truth, predicted, baseline)
    report = describe(truth, predicted, metrics, target, request.seed)
    report["importances"] = importances(request.family, model, problem, np.empty((0, len(problem.columns))))
    clock.lap("evaluate")
    thin = functools.partial(thin_block, step=-(-len(truth) // MOST_ROWS))
    sample = np.concatenate([part["matrix"] for part in client.gather(client.map(thin, held_out, pure=False))])
    return Fitted(
        model=model,
        signature=signature,
        target=target,
        metrics=metrics,
        baseline=baseline,
        rows={"training_rows": said.training, "validation_rows": len(truth), "dropped_rows": said.nulls},
        left_out=learnt.left_out,
        residuals=residuals(truth, predicted, classes=target.classes is not None),
        data=blocks_lineage(request, said.digest),
        report=report,
        profile=profile_of(sample, signature),
    )


def _rows(encoded: dict[str, Any]) -> int:
    return len(encoded["target"])


def _score(encoded: dict[str, Any], model: Any, model_type: str, problem: Problem) -> dict[str, Any] | None:
    """Score the rows of a partition that were held back; None when there are none."""
    return score_block(encoded, model, model_type, problem) if len(encoded["target"]) else None


def _array(parts: list[Any], name: str, columns: int | None) -> Any:
    """Return one part of what was encoded as a Dask array, made of the futures."""
    import dask.array
    import numpy as np
    from dask.delayed import delayed

    array: Any = dask.array
    shape = (np.nan,) if columns is None else (np.nan, columns)
    take: Any = delayed(itemgetter(name), pure=True)
    chunks = [array.from_delayed(take(part), shape=shape, dtype="float32") for part in parts]
    return array.concatenate(chunks, allow_unknown_chunksizes=True)


def _fit_xgboost(client: Any, parts: list[Any], problem: Problem) -> Any:
    from xgboost import dask as xgboost_dask

    from jobs.family_xgboost import booster_params, matrix_options

    rounds, params = booster_params(problem)
    data = xgboost_dask.DaskQuantileDMatrix(
        client,
        _array(parts, "matrix", len(problem.columns)),
        _array(parts, "target", None),
        max_bin=params.get("max_bin"),
        **matrix_options(problem),
    )
    return xgboost_dask.train(client, params, data, num_boost_round=rounds)["booster"]


def _fit_lightgbm(client: Any, parts: list[Any], problem: Problem) -> Any:
    import lightgbm
    from lightgbm.basic import _ConfigAliases

    from jobs.family_lightgbm import booster_params, dataset_options

    rounds, params = booster_params(problem)
    # The estimator sees the classes, and Dask the threads of each worker.
    ignored = {"num_class"} | _ConfigAliases.get("num_threads")
    params = {name: value for name, value in params.items() if name not in ignored}
    make = lightgbm.DaskLGBMRegressor if problem.target.classes is None else lightgbm.DaskLGBMClassifier
    # The estimator has names of its own for some parameters, and defaults that would stand beside ours.
    for name in make().get_params():
        for alias in _ConfigAliases.get(name) & params.keys():
            params[name] = params.pop(alias)
    model = make(n_estimators=rounds, client=client, **params)
    options = dataset_options(problem)
    with warnings.catch_warnings():
        # Of the estimator's own default, whatever is given.
        warnings.filterwarnings("ignore", "Parameter n_jobs will be ignored")
        model.fit(_array(parts, "matrix", len(problem.columns)), _array(parts, "target", None), **options)
    return model.booster_
