"""Train over a Dask cluster: its workers encode the partitions and fit them where they are, by the libraries' own Dask.

The steps, and what each does to a partition, are those of `jobs.distributed`. dask, xgboost and lightgbm are imported
inside functions.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

from compute.errors import TaskFailed
from jobs.blocks import Encoding, encode_block, say_block, score_block, thin_block
from jobs.dask_table import DaskTable
from jobs.distributed import judged, learn, marks_of, marks_since
from jobs.fitting import Fitted
from jobs.marks import mark_block, times_of
from jobs.planner import Plan
from jobs.preparing import Clock
from jobs.profile import MOST_ROWS
from jobs.request import Request
from jobs.shard import Batch, split_batch

if TYPE_CHECKING:
    from jobs.families import Problem


def fit_over_dask(request: Request, table: DaskTable, plan: Plan, clock: Clock) -> Fitted:
    """Train on the partitions of a Dask DataFrame; what comes here are sayings, the model, and what it is judged by."""
    import numpy as np

    client = table.client
    parts = client.compute(table.frame[request.columns].to_delayed())
    marks = marks_of(request)
    if request.how.kind == "time":
        marks = marks_since(marks, client.gather(client.map(times_of, parts, marks=marks, pure=False)))
    marked = client.map(functools.partial(mark_block, marks=marks), parts, pure=False)
    del parts
    say = functools.partial(say_block, features=request.features, marks=marks, weight=request.weight)
    learnt = learn(
        [one["said"][0] for one in client.gather(client.map(say, marked, pure=False))], request, plan.threads
    )
    problem = learnt.problem
    clock.lap("read")

    encode = functools.partial(encode_block, how=learnt.encoding)
    training = client.map(functools.partial(encode, held_out=False), marked, pure=False)
    held_out = client.map(functools.partial(encode, held_out=True), marked, pure=False)
    del marked
    rows = client.gather(client.map(_rows, training, pure=False))
    # A library's worker cannot do without rows.
    training = [part for part, count in zip(training, rows, strict=True) if count]
    clock.lap("prepare")

    batches = client.map(split_batch, training, pure=False)
    del training
    try:
        if request.family.model_type == "xgboost":
            model = _fit_xgboost(client, batches, problem, learnt.encoding, request.patience)
        else:
            model = _fit_lightgbm(client, batches, problem, learnt.encoding)
    except Exception as error:
        raise TaskFailed(
            f"the distributed training of the {request.family.model_type} model failed: {error}",
            hint="The workers' logs are in Dask's dashboard; distribute_data=False trains in one process.",
        ) from error
    clock.lap("fit")

    shared = client.scatter(model, broadcast=True, hash=False)
    score = functools.partial(_score, model_type=request.family.model_type, problem=problem)
    scored = [part for part in client.gather(client.map(score, held_out, model=shared, pure=False)) if part is not None]
    truth, predicted = (np.concatenate([part[name] for part in scored]) for name in ("truth", "predicted"))
    thin = functools.partial(thin_block, step=-(-len(truth) // MOST_ROWS))
    sample = np.concatenate([part["matrix"] for part in client.gather(client.map(thin, held_out, pure=False))])
    fitted = judged(request, learnt, model, truth, predicted, sample)
    clock.lap("evaluate")
    return fitted


def _rows(encoded: dict[str, Any]) -> int:
    return len(encoded["target"])


def _score(encoded: dict[str, Any], model: Any, model_type: str, problem: Problem) -> dict[str, Any] | None:
    """Score the rows of a partition that were held back; None when there are none."""
    return score_block(encoded, model, model_type, problem) if len(encoded["target"]) else None


def _arrays(parts: list[Any], which: int, problem: Problem, how: Encoding) -> tuple[Any, Any, Any]:
    """Return matrix, target and weight as Dask arrays made of the futures: of the rows to fit (0), or to watch (1)."""
    import dask.array
    import numpy as np
    from dask.delayed import delayed

    array: Any = dask.array

    def joined(place: int, shape: tuple[float, ...], dtype: str) -> Any:
        take: Any = delayed(_taken, pure=True)
        chunks = [array.from_delayed(take(part, which, place), shape=shape, dtype=dtype) for part in parts]
        return array.concatenate(chunks, allow_unknown_chunksizes=True)

    matrix = joined(0, (np.nan, len(problem.columns)), how.dtype)
    return matrix, joined(1, (np.nan,), "float32"), joined(2, (np.nan,), "float32") if how.weighs else None


def _taken(batches: tuple[Batch, Batch | None], which: int, place: int) -> Any:
    batch = batches[which]
    assert batch is not None, "only what is there is asked for"
    return batch[place]


def _fit_xgboost(client: Any, parts: list[Any], problem: Problem, how: Encoding, patience: int | None) -> Any:
    from xgboost import dask as xgboost_dask

    from jobs.family_xgboost import booster_params, matrix_options, whole

    rounds, params = booster_params(problem)
    options = {"max_bin": params.get("max_bin"), **matrix_options(problem)}

    def matrix(which: int, ref: Any = None) -> Any:
        values, target, weight = _arrays(parts, which, problem, how)
        return xgboost_dask.DaskQuantileDMatrix(client, values, target, weight=weight, ref=ref, **options)

    data = matrix(0)
    if patience is None:
        return xgboost_dask.train(client, params, data, num_boost_round=rounds)["booster"]
    watched = [(matrix(1, data), "watched")]
    booster: Any = xgboost_dask.train(
        client, params, data, num_boost_round=rounds, evals=watched, early_stopping_rounds=patience, verbose_eval=False
    )["booster"]
    return whole(booster)


def _fit_lightgbm(client: Any, parts: list[Any], problem: Problem, how: Encoding) -> Any:
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
    values, target, weight = _arrays(parts, 0, problem, how)
    with warnings.catch_warnings():
        # Of the estimator's own default, whatever is given.
        warnings.filterwarnings("ignore", "Parameter n_jobs will be ignored")
        model.fit(values, target, sample_weight=weight, **dataset_options(problem))
    return model.booster_
