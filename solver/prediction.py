"""Answers queries of the type `prediction`.

What trains, loads and runs models is imported inside the functions, and pandas with it: a service that only passes
tasks on starts without them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from compute import Config
from compute.errors import InvalidField, ModelNotFound
from registry import LoadedModel, ModelRecord, Signature, TaskContext, encode, get_model_registry
from solver.queries import DEFAULT_TARGET, PredictionParameters, PredictionQuery
from solver.training import check_training, train, trains
from solver.uncertainty import check_coverage, intervals, prediction_sets

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

logger = logging.getLogger(__name__)

QUICK_ROWS = 10_000
"""So many entities, at most, are answered by a registered model in the caller's own process."""

INLINE_ROWS = 100_000
"""So many predictions, at most, are part of the answer; more go to a Parquet file."""

_SMALL_BYTES = 32 * 2**20
_LOADED = 8
_WAITING_CPUS = 0.1
_loaded: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
_lock = threading.Lock()


def needs(parameters: PredictionParameters) -> dict[str, float] | None:
    """Return what a task takes of the cluster; None: as usual."""
    # What only waits for workers of its own leaves the CPUs to them.
    return {"cpu": _WAITING_CPUS} if parameters.distribute_data else None


def prepare(query: PredictionQuery, parameters: PredictionParameters, config: Config) -> PredictionQuery:
    """Check what can be checked before any work, and pin the model: later runs use the version of now.

    Raises
    ------
    ModelNotFound
        When no such model is registered.
    DataError
        Naming the feature, and the row, of an entity that the model cannot take.
    InvalidField
        When query and parameters contradict each other or the model.

    Examples
    --------
    >>> from compute import load_config
    >>> from solver.queries import parse
    >>> query, parameters = parse({"type": "prediction", "entities": [{"x": 1, "target": 2.0}, {"x": 3}]})
    >>> prepare(query, parameters, load_config()) is query
    True
    """
    if trains(query):
        check_training(query, parameters)
        return query
    record = find_model(query, parameters, config)
    if isinstance(query.entities, list):
        encode(query.entities, _signature(record))
    return query.model_copy(update={"model_id": record.model_id, "model": None})


def quick(query: PredictionQuery, parameters: PredictionParameters) -> bool:
    """Whether the answer is a matter of milliseconds, and not worth a task of its own.

    Examples
    --------
    >>> from solver.queries import parse
    >>> quick(*parse({"type": "prediction", "model": "m", "entities": [{"x": 1}]}))
    True
    """
    return (
        isinstance(query.entities, list)
        and len(query.entities) <= QUICK_ROWS
        and parameters.output is None
        and not trains(query)
    )


def find_model(query: PredictionQuery, parameters: PredictionParameters, config: Config) -> ModelRecord:
    """Return the record of the model that a query without training is for."""
    registry = get_model_registry(config)
    reference = query.model_id or query.model
    if reference is None:
        return _newest(parameters.model_type, config)
    record = registry.get_model(reference) if query.model_id else registry.resolve(reference)
    title = f"the model {record.name}:{record.version}"
    if parameters.model_type not in (None, record.model_type):
        raise InvalidField(
            f"parameters.model_type is {parameters.model_type!r}, but {title} is of the type {record.model_type!r}",
            hint="Leave it out when the model is named.",
            context={"field": "parameters.model_type"},
        )
    if parameters.probabilities and record.signature is not None and record.signature.task == "regression":
        raise InvalidField(
            f"parameters.probabilities is set, but {title} is a regression",
            hint="Only a classification has probabilities.",
            context={"field": "parameters.probabilities"},
        )
    if parameters.coverage is not None:
        check_coverage(record, parameters.coverage)
    return record


def answer(query: PredictionQuery, parameters: PredictionParameters, context: TaskContext) -> dict[str, Any]:
    """Answer a query: train if that is asked for, predict, and say by what model, how, and in how many seconds.

    Returns
    -------
    dict
        ``predictions`` in the order of the entities (with `row_numbers`, when only some of them were predicted), or
        ``output``, the URI of the file that holds them; ``model_id``, ``model``, ``version``, ``rows``, ``plan``,
        ``seconds`` for each step; ``probabilities`` and ``classes`` when asked for; and ``training`` when a model
        was trained.
    """
    started = time.perf_counter()
    result: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    if trains(query):
        context.progress(0.1, "training")
        query, result["training"], rows = train(query, parameters, context)
        seconds["train"] = time.perf_counter() - started
        if rows is not None:
            result["row_numbers"] = rows
        context.progress(0.8, "predicting")
    record = find_model(query, parameters, context.config)
    result |= {"model_id": record.model_id, "model": record.name, "version": record.version}
    predicting = time.perf_counter()
    if _inline(query, parameters):
        result |= _predict_here(record, query, parameters, context.config)
    else:
        result |= _predict_table(record, query, parameters, context)
    finished = time.perf_counter()
    seconds |= {"predict": finished - predicting, "total": finished - started}
    return {**result, "seconds": {step: round(value, 6) for step, value in seconds.items()}}


def predict_rows(
    record: ModelRecord, rows: list[dict[str, Any]], config: Config, probability_of: object = None
) -> npt.NDArray[Any]:
    """Return the numbers that a registered model predicts of records; of a classification, the probability of a class.

    Raises
    ------
    InvalidField
        When the model has no such class, or predicts classes and none is named.
    """
    signature, title = _signature(record), f"the model {record.name}:{record.version}"
    classes = list(signature.classes or ())
    if signature.task == "regression" and probability_of is not None:
        raise InvalidField(f"{title} is a regression, and has no classes", hint="Leave probability_of out.")
    if signature.task == "regression":
        return _load(record, config).predict(rows)
    if probability_of not in classes:
        raise InvalidField(
            f"{title} predicts classes, and {probability_of!r:.80} is none of them",
            hint=f"Name one as probability_of: {', '.join(repr(one) for one in classes[:20])}.",
        )
    found: npt.NDArray[Any] = _load(record, config).predict(rows, proba=True)
    return found[:, classes.index(probability_of)]


def _inline(query: PredictionQuery, parameters: PredictionParameters) -> bool:
    return isinstance(query.entities, list) and len(query.entities) <= INLINE_ROWS and parameters.output is None


def _predict_here(
    record: ModelRecord, query: PredictionQuery, parameters: PredictionParameters, config: Config
) -> dict[str, Any]:
    """Predict inline entities in this process; their number is small."""
    assert isinstance(query.entities, list)  # said by _inline
    loaded = _load(record, config)
    rows = query.entities
    result: dict[str, Any] = {
        "rows": len(rows),
        "plan": {"mode": "single", "reason": f"{len(rows):,} entities came with the question"},
    }
    return {**result, **_said_of(loaded, rows, parameters)}


def _said_of(loaded: LoadedModel, rows: Any, parameters: PredictionParameters) -> dict[str, Any]:
    """Return what the model says of rows, in as much detail as is asked for."""
    signature = _signature(loaded.record)
    predictions = loaded.predict(rows)
    result: dict[str, Any] = {"predictions": _plain(predictions)}
    if parameters.probabilities:
        result["classes"] = list(signature.classes or ())
        result["probabilities"] = _plain(loaded.predict(rows, proba=True))
    if parameters.coverage is not None:
        result["coverage"] = parameters.coverage
        if signature.classes is None:
            result["intervals"] = intervals(loaded.record, predictions, parameters.coverage).tolist()
        else:
            result["prediction_sets"] = prediction_sets(
                loaded.record, loaded.predict(rows, proba=True), parameters.coverage
            )
    if parameters.explain:
        contributions, base = loaded.explain(rows)
        result["contributions"] = [
            dict(zip(signature.feature_names, row, strict=True)) for row in contributions.tolist()
        ]
        result["base_values"] = base.tolist()
    return result


def _predict_table(
    record: ModelRecord, query: PredictionQuery, parameters: PredictionParameters, context: TaskContext
) -> dict[str, Any]:
    """Predict a table, or many entities; into a Parquet file, unless they are few and no file is named."""
    import pandas as pd

    from jobs import predict_batch

    data: Any = query.entities
    rows = _count(data, context.config)
    if isinstance(data, list):
        data = pd.DataFrame.from_records(data, columns=list(_signature(record).feature_names))
    predict = partial(
        predict_batch,
        record.model_id,
        data,
        distributed=parameters.distribute_data,
        proba=parameters.probabilities,
        config=context.config,
    )
    if parameters.coverage is not None or parameters.explain:
        return _detailed_table(record, data, rows, parameters, context.config)
    if rows is not None and rows <= INLINE_ROWS and parameters.output is None:
        return _columns(predict(), record) | {"rows": rows, "plan": {"mode": "single", "reason": f"{rows:,} rows"}}
    # One name for all runs of a task: a later run replaces what an earlier one left.
    default = f"{context.config.storage.data_uri.rstrip('/')}/predictions/{context.task_id}.parquet"
    summary = predict(output=parameters.output or default)
    assert isinstance(summary, dict)  # with an output it is one
    return {"output": summary["output"], "rows": summary["rows"], "plan": summary["plan"]}


def _detailed_table(
    record: ModelRecord, data: Any, rows: int | None, parameters: PredictionParameters, config: Config
) -> dict[str, Any]:
    from jobs import open_table

    if rows is None or rows > INLINE_ROWS or parameters.output is not None:
        raise InvalidField(
            "intervals and explanations are part of the answer, and this one is a file or has too many rows",
            hint=f"Leave output out, and ask for {INLINE_ROWS:,} rows at most.",
            context={"field": "parameters.coverage" if parameters.coverage is not None else "parameters.explain"},
        )
    frame = open_table(data, config).read(list(_signature(record).feature_names))
    plan = {"mode": "single", "reason": f"{rows:,} rows"}
    return {"rows": rows, "plan": plan, **_said_of(_load(record, config), frame, parameters)}


def _count(data: Any, config: Config) -> int | None:
    """Return the number of rows; None when only reading a large file would tell."""
    from jobs import open_table

    if isinstance(data, list):
        return len(data)
    table = open_table(data, config)
    if table.rows is None and table.size(table.columns) <= _SMALL_BYTES:
        return len(table.read(table.columns[:1]))
    return table.rows


def _columns(found: pd.Series[Any] | pd.DataFrame | dict[str, Any], record: ModelRecord) -> dict[str, Any]:
    import pandas as pd

    if isinstance(found, pd.Series):
        return {"predictions": _plain(found.to_numpy())}
    assert isinstance(found, pd.DataFrame)  # without an output it is no dict
    names = [name for name in found.columns if name != "prediction"]
    return {
        "predictions": _plain(found["prediction"].to_numpy()),
        "classes": list(_signature(record).classes or ()),
        "probabilities": _plain(found[names].to_numpy()),
    }


def _newest(model_type: str | None, config: Config) -> ModelRecord:
    if model_type is None:
        raise InvalidField(
            "the query names no model, and gives nothing to train one from",
            hint=f"Give model_id, model or training_data; or entities of which some carry a {DEFAULT_TARGET!r}.",
            context={"field": "query_data.model"},
        )
    records = get_model_registry(config).list_models(model_type=model_type, status="active", limit=1)
    if not records:
        raise ModelNotFound(
            f"no active model of the type {model_type!r} is registered",
            hint="Train one first; or give labelled entities, or training_data, with the query.",
            context={"model_type": model_type},
        )
    return records[0]


def _signature(record: ModelRecord) -> Signature:
    if record.signature is None:
        raise InvalidField(
            f"the model {record.name}:{record.version} does not know the names of its features",
            hint="Register it with a signature or an example.",
            context={"model_id": record.model_id},
        )
    return record.signature


def _load(record: ModelRecord, config: Config) -> LoadedModel:
    """Return the model, from those that were used last in this process if it is among them."""
    key = (config.storage.uri, record.model_id)
    with _lock:
        if key in _loaded:
            _loaded.move_to_end(key)
            return _loaded[key]
    loaded = get_model_registry(config).load_model(record.model_id)
    with _lock:
        _loaded[key] = loaded
        while len(_loaded) > _LOADED:
            _loaded.popitem(last=False)
    return loaded


def _plain(values: npt.NDArray[Any]) -> list[Any]:
    """Return an array in JSON's values; what is no finite number becomes null."""
    import numpy as np

    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        unknown = ~np.isfinite(values)
        values = values.astype(object)
        values[unknown] = None
    plain: list[Any] = values.tolist()
    return plain
