"""Many models at once: `parallel_model_training` and `parallel_model_inference`, each model or part of rows a task.

They live here, above the helpers of `compute` that they are built on, since they train with `jobs.train_model` and
score with `jobs.predict_batch`. pandas is imported inside functions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute import ComputeManager, Config, distributed_apply, gather_with_bar, get_compute_manager, load_config
from compute.errors import InvalidField
from jobs.predict import model_with_signature, predict_batch, typed
from jobs.tables import open_table
from jobs.train import train_model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Training:
    """What became of one of many trainings: a result, or an error.

    ``configuration`` is what `train_model` was called with, ``group`` the values of the columns of ``by``, ``result``
    what `train_model` returned, ``error`` what it raised.
    """

    configuration: dict[str, Any]
    group: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: Exception | None = None


def parallel_model_training(
    data: object,
    target_col: str,
    configurations: Sequence[Mapping[str, Any]] = ({},),
    *,
    by: str | Sequence[str] | None = None,
    manager: ComputeManager | None = None,
    resources: Mapping[str, object] | None = None,
    timeout: float | None = None,
    config: Config | None = None,
    **common: Any,
) -> list[Training]:
    """Train one model for each configuration, or for each group of the rows, each in a task of its own.

    One that fails does not keep the others from being trained and registered.

    Parameters
    ----------
    data : DataFrame, pyarrow.Table or URI
        As for `train_model`. A frame or an Arrow table is laid in shared memory once.
    target_col : str
        The column to predict.
    configurations : sequence of mapping
        Arguments of `train_model`: ``{"model_type": "lightgbm", "model_params": {"num_leaves": 15}}``.
    by : str or sequence of str, optional
        Columns: one model for each group of rows with the same values there (and for each configuration), learnt from
        the other columns. The values are in the model's metadata: ``search_models('metadata.group.carrier = "AA"')``.
    manager : ComputeManager, optional
        By default `get_compute_manager`.
    resources : mapping, optional
        Of each training, as for `ComputeManager.submit_task`; its CPUs are its threads. One by default.
    timeout : float, optional
        Seconds that each training may take.
    config : Config, optional
        By default `load_config`.
    **common
        Arguments of `train_model` for every model: ``name``, ``features``, ``exclude``, ``seed``, ...

    Returns
    -------
    list of Training
        In the order of the configurations; with ``by``, for each of them in the order in which the groups appear.

    Raises
    ------
    TypeError
        When `train_model` has no such argument.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute.local_backend import LocalBackend
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"shop": ["a", "b"] * 20, "x": range(40), "y": [i * 1.5 for i in range(40)]})
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     trained = parallel_model_training(
    ...         frame, "y", by="shop", model_type="linear", manager=manager, config=config
    ...     )
    >>> [(one.group, one.result["rows"]) for one in trained]
    [({'shop': 'a'}, 20), ({'shop': 'b'}, 20)]
    """
    config = config or load_config()
    manager = manager or get_compute_manager(config=config)
    merged = [{**common, **configuration} for configuration in configurations]
    for arguments in merged:
        inspect.signature(train_model).bind(data, target_col, **arguments)
    inside = _inside(config, resources)
    options = {"resources": resources, "timeout": timeout}
    if by is not None:
        return _train_groups(data, target_col, merged, by, manager, inside, options)
    shared = data if isinstance(data, str) or hasattr(data, "__fspath__") else manager.put(data)
    task_ids = manager.submit_many(_train, ((shared, target_col, one, inside) for one in merged), **options)
    try:
        found = gather_with_bar(manager, task_ids, "train_model", return_exceptions=True)
    finally:
        manager.drop(task_ids, cancel=True)
    return [_training(arguments, None, result) for arguments, result in zip(merged, found, strict=True)]


def parallel_model_inference(
    models: str | Sequence[str],
    data: object,
    partition_size: int | None = None,
    *,
    manager: ComputeManager | None = None,
    resources: Mapping[str, object] | None = None,
    config: Config | None = None,
) -> pd.DataFrame:
    """Score all rows with one model or several, part after part in tasks.

    Parameters
    ----------
    models : str or sequence of str
        Model ids, names, ``name@alias`` or ``name:version``; which version an alias means is settled once.
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        Raw rows, as for `predict_batch`, which scores what is larger than memory. A URI is read here, and only the
        columns that the models take.
    partition_size : int, optional
        Rows of a task; by default so that there are four tasks for each CPU.
    manager : ComputeManager, optional
        By default `get_compute_manager`.
    resources : mapping, optional
        Of each task, as for `ComputeManager.submit_task`; its CPUs are its threads. One by default.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    DataFrame
        One column of predictions for each model, named as it was asked for; rows and index are those of the data.

    Raises
    ------
    ModelNotFound
        When there is no such model.
    ColumnMissing, ColumnInvalid
        As for `predict_batch`, with notes that name the model and the rows.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute.local_backend import LocalBackend
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(40), "y": [i * 1.5 for i in range(40)]})
    >>> for kind in ("linear", "random_forest"):
    ...     _ = train_model(frame, "y", model_type=kind, name=kind, config=config)
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     parallel_model_inference(["linear", "random_forest"], frame, manager=manager, config=config).shape
    (40, 2)
    """
    import pandas as pd

    config = config or load_config()
    manager = manager or get_compute_manager(config=config)
    names = [models] if isinstance(models, str) else list(models)
    if not names or len(set(names)) < len(names):
        raise InvalidField(f"models is {models!r}", hint="Name one model or several, each once.")
    found = {name: model_with_signature(name, config) for name in names}
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        table = open_table(data, config)
        for _, signature in found.values():
            table = typed(table, signature)
        needed = {column for _, signature in found.values() for column in signature.feature_names}
        data = table.read([column for column in table.columns if column in needed])
    score = functools.partial(
        _score, models={name: record.model_id for name, (record, _) in found.items()}, config=_inside(config, resources)
    )
    parts = distributed_apply(score, data, partition_size, manager=manager, resources=resources)
    if not parts:
        return pd.DataFrame(columns=names)
    scored: pd.DataFrame = pd.concat(parts, ignore_index=not isinstance(data, pd.DataFrame))
    return scored


def _inside(config: Config, resources: Mapping[str, object] | None) -> Config:
    """Return the configuration for a task: as many threads as it has CPUs, for its neighbours have the others."""
    cpus = (resources or {}).get("cpu", 1)
    return config.model_copy(update={"compute": config.compute.model_copy(update={"cpu_limit": cpus})})


def _train(data: Any, target_col: str, arguments: Mapping[str, Any], config: Config) -> dict[str, Any]:
    return train_model(data, target_col, distribute_data=False, config=config, **arguments)


def _train_groups(
    data: object,
    target_col: str,
    merged: Sequence[dict[str, Any]],
    by: str | Sequence[str],
    manager: ComputeManager,
    config: Config,
    options: dict[str, Any],
) -> list[Training]:
    columns = (by,) if isinstance(by, str) else tuple(by)
    table = open_table(data, config)
    frame = table.read(table.columns)
    trained = []
    for arguments in merged:
        train = functools.partial(_train_group, target_col=target_col, arguments=arguments, by=columns, config=config)
        found = distributed_apply(train, frame, by=columns, manager=manager, return_exceptions=True, **options)
        firsts = frame[list(columns)].drop_duplicates()
        groups = [_group(firsts.iloc[place : place + 1], columns) for place in range(len(firsts))]
        trained += [_training(arguments, group, result) for group, result in zip(groups, found, strict=True)]
    return trained


def _train_group(
    rows: pd.DataFrame, *, target_col: str, arguments: Mapping[str, Any], by: tuple[str, ...], config: Config
) -> dict[str, Any]:
    own = dict(arguments)
    own["metadata"] = {**(own.get("metadata") or {}), "group": _group(rows, by)}
    # They say nothing within a group.
    own["exclude"] = [*(own.get("exclude") or ()), *by]
    return _train(rows, target_col, own, config)


def _group(rows: pd.DataFrame, by: tuple[str, ...]) -> dict[str, Any]:
    """Return the values that the rows share, as JSON has them."""
    import pandas as pd

    values = {name: rows[name].iloc[0] for name in by}
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return {
        name: None if pd.isna(value) else value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in plain.items()
    }


def _training(arguments: dict[str, Any], group: dict[str, Any] | None, found: Any) -> Training:
    if isinstance(found, Exception):
        return Training(arguments, group, error=found)
    return Training(arguments, group, result=found)


def _score(part: Any, *, models: Mapping[str, str], config: Config) -> pd.DataFrame:
    import pandas as pd

    scored = {}
    for name, model_id in models.items():
        try:
            scored[name] = predict_batch(model_id, part, distributed=False, config=config)
        except Exception as error:
            error.add_note(f"By the model {name}.")
            raise
    return pd.DataFrame(scored)
