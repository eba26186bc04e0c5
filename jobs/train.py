"""Train a model on a table and register it: `train_model`, and `python -m jobs.train`.

pandas, numpy and the libraries of the models are imported inside functions, so that `--help` and errors come at once.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from compute import Config, load_config
from jobs.continuing import find_parent
from jobs.dask_table import DaskTable
from jobs.families import find_family
from jobs.fitting import Fitted, fit_here
from jobs.legacy import check_engine, with_engine
from jobs.planner import Load, Plan, plan_training
from jobs.preparing import Clock
from jobs.request import Request, make_request
from jobs.tables import open_table
from jobs.train_checks import check_options, fixed_workers, here_only
from jobs.train_options import parser as parser
from jobs.validation import make_validation

logger = logging.getLogger(__name__)

# Bytes a row that XGBoost holds of rows on disk.
_SPILLED = 64


def train_model(
    data: object,
    target_col: str,
    features: Sequence[str] | None = None,
    model_type: str = "xgboost",
    model_params: Mapping[str, Any] | None = None,
    validation_fraction: float = 0.2,
    distribute_data: bool | None = None,
    *,
    task: str | None = None,
    name: str | None = None,
    tags: Iterable[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    seed: int = 0,
    drop_null_target: bool = False,
    exclude: Sequence[str] | None = None,
    validation: str | None = None,
    group_col: str | None = None,
    time_col: str | None = None,
    cross_validation: int | None = None,
    weight_col: str | None = None,
    class_weight: str | Mapping[Any, float] | None = None,
    monotone_constraints: Mapping[str, int] | None = None,
    early_stopping: int | None = None,
    checkpoint_every: int | None = None,
    continue_from: str | None = None,
    num_workers: int | tuple[int, int] | None = None,
    engine: str | None = None,
    config: Config | None = None,
) -> dict[str, Any]:
    """Train a model, measure it on rows it has not seen, and register it.

    The rows are split first; categories, means and everything else that preprocessing learns come from the training
    part alone, and are stored with the model, which therefore takes raw rows.

    Parameters
    ----------
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        The table; a URI names CSV or Parquet, a file or a directory, on disk or ``s3://``. It is not modified.
    target_col : str
        The column to predict.
    features : sequence of str, optional
        The columns to predict from; by default all others, less text columns that tell rows apart (ids).
    model_type : {"xgboost", "lightgbm", "random_forest", "gradient_boosting", "linear", "logistic"}
        ``gradient_boosting`` is scikit-learn's on histograms; ``linear`` is ridge regression, or logistic regression
        for classes, and ``logistic`` that alone.
    model_params : mapping, optional
        Parameters of the library; one that it does not know is an error. ``n_estimators`` or ``num_boost_round`` is
        the number of rounds.
    validation_fraction : float
        Share of the rows held back, between 0 and 1.
    distribute_data : bool, optional
        Train over the Ray cluster, or in one process. By default the planner decides; runs of up to five minutes go
        to warm workers, longer ones to Ray Train, which goes on from a checkpoint after a failure. Of a random forest
        warm workers grow the trees, however long it takes.
    task : {"regression", "classification", "binary", "multiclass"}, optional
        By default found from the target: text, booleans, categories and two distinct values are classes, all other
        numbers are amounts.
    name : str, optional
        The model's name in the registry; by default the model type. Each training adds a version.
    tags : iterable of str, optional
        For finding the model again.
    metadata : mapping, optional
        Whatever else is to be kept with the model.
    seed : int
        The same seed, data and threads give the same model.
    drop_null_target : bool
        Leave out rows without a target, instead of refusing them.
    exclude : sequence of str, optional
        Columns not to learn from: what is not known yet when a prediction is asked for, above all.
    validation : {"random", "stratified", "group", "time"}, optional
        How rows are held back: by default class by class where there are classes, else at random.
    group_col : str, optional
        Hold back whole groups: no patient, shop or device is on both sides. Over a cluster each group is drawn by
        itself, and of few groups the share that is held back is only near the one that was asked for.
    time_col : str, optional
        Hold back the latest rows. Neither this column nor ``group_col`` is learnt from, unless ``features`` names it.
    cross_validation : int, optional
        Measure by so many folds instead: metrics are their means, the spread is in the report, and the model that is
        registered is trained on all rows. By time, each fold is measured on what follows it.
    weight_col : str, optional
        How much each row counts in the fit. Metrics count all rows alike.
    class_weight : "balanced" or mapping, optional
        How much the rows of each class count: all classes alike, or ``{"late": 5}``.
    monotone_constraints : mapping, optional
        For a feature 1 where the prediction (of two classes, the probability of the second) may only rise with it, -1
        where it may only fall. All model types but linear ones.
    early_stopping : int, optional
        Stop when a tenth of the training rows, which is then not fitted, has not been predicted better for so many
        rounds, and keep the best rounds. The rows held back for validation have no part in it. Boosters; over a
        cluster XGBoost.
    checkpoint_every : int, optional
        Keep the model in the object store after every so many rounds; when the process dies, the same call goes on
        from there, to the same model. xgboost and lightgbm.
    continue_from : str, optional
        A registered model, to which rounds are added, with its preprocessing and, where none are given, its
        parameters. With the same ``seed`` on the same data, the rows held back from it are held back again.
    num_workers : int or (int, int), optional
        Training processes of a distributed run; by default as many as the cluster's nodes suggest. A range, such as
        ``(2, 4)``, has Ray Train go on with fewer when a node is lost, and with more when one comes.
    engine : {"xgboost_ray", "lightgbm_ray"}, optional
        Train through one of these older libraries instead, of the extra ``legacy``; it settles the model type.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    dict
        ``model_id``, ``name``, ``version``, ``model_type``, ``task``, ``metrics`` (on held-out rows, with those of the
        baseline), ``plan``, ``rows`` with ``training_rows``, ``validation_rows`` and ``dropped_rows``, ``features``,
        ``left_out`` (columns not used, with the reason), ``seconds`` for each step, and ``report``, which is kept in
        the model's lineage: ``intervals`` (95 %, by bootstrap), ``importances``, ``curve`` of boosters, ``residuals``
        or ``confusion``, ``roc`` and ``precision_recall``, and ``cross_validation``.

    Raises
    ------
    DataError
        When the table, the target or a feature cannot be learnt from; always before anything is fitted.
    InvalidField
        When a model type, parameter or task does not exist, or options contradict each other.
    CapabilityMissing
        When the model type, or a distributed run, cannot do what was asked for.
    ResourcesUnavailable
        When it fits neither this node nor the cluster.
    BackendUnavailable
        When an engine was asked for whose package is not installed; with the extra that brings it.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute import load_config
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> frame = pd.DataFrame({"x": range(40), "kind": ["a", "b"] * 20, "y": [i * 1.5 for i in range(40)]})
    >>> result = train_model(frame, "y", model_type="linear", config=config.model_copy(update={"storage": storage}))
    >>> result["task"], result["metrics"]["rmse"] < result["metrics"]["baseline_rmse"], result["plan"]["mode"]
    ('regression', True, 'single')
    """
    clock = Clock()
    config = config or load_config()
    family = find_family(model_type if engine is None else check_engine(engine, model_type, distribute_data))
    params = dict(model_params or {})
    how = make_validation(
        validation, validation_fraction, seed, group_col=group_col, time_col=time_col, folds=cross_validation
    )
    monotone = check_options(family, params, monotone_constraints, early_stopping, checkpoint_every, cross_validation)
    parent = None
    if continue_from is not None:
        parent = find_parent(continue_from, family, target_col, features, task, params, config)
        params = {**parent.params, **params}
    table = open_table(data, config)
    request = make_request(
        table,
        target_col,
        features,
        exclude,
        family=family,
        params=params,
        fraction=validation_fraction,
        task=task,
        seed=seed,
        drop_null_target=drop_null_target,
        how=how,
        weight=weight_col,
        class_weight=class_weight,
        monotone=monotone,
        patience=early_stopping,
        every=checkpoint_every,
        parent=parent,
    )
    here = here_only(request, distribute_data, engine)
    clock.lap("open")
    if engine is None:
        plan = make_plan(request, distribute_data, num_workers, config, here)
    else:
        # The matrix is made in this process, which has to have the memory.
        plan = make_plan(request, None, None, config, f"the engine {engine!r}")
    family.check(params, task if task in ("regression", "binary", "multiclass") else None)
    clock.lap("check")
    if engine is not None:
        family, plan = with_engine(engine, plan, fixed_workers(num_workers, f"the engine {engine!r}"), config)
        request = replace(request, family=family)
        fitted = fit_here(request, plan, clock)
    elif plan.mode == "single":
        store = None
        if checkpoint_every is not None:
            from registry import open_store

            store = open_store(config.storage.uri, config)
        fitted = fit_here(request, plan, clock, store)
    elif isinstance(table, DaskTable):
        from jobs.dask_training import fit_over_dask

        fitted = fit_over_dask(request, table, plan, clock)
    elif family.distributes == "trees":
        from jobs.forest_workers import over_workers

        fitted = fit_here(replace(request, family=over_workers(family, plan, config)), plan, clock)
    elif plan.place == "warm_group":
        from jobs.resident_group import fit_over_group

        fitted = fit_over_group(request, plan, clock, config)
    else:
        from jobs.distributed import fit_over_cluster

        fitted = fit_over_cluster(request, plan, clock, config)
    return register(request, plan, fitted, clock, name=name, tags=tags, metadata=metadata, config=config)


def make_plan(
    request: Request,
    distribute: bool | None,
    num_workers: int | tuple[int, int] | None,
    config: Config,
    here: str | None = None,
) -> Plan:
    """Choose where to train, from the size of the table and what the family takes."""
    table, family = request.table, request.family
    if isinstance(table, DaskTable) and family.distributes == "rows" and distribute is not False and here is None:
        return table.plan(fixed_workers(num_workers, "a Dask DataFrame"))
    count = len(request.features)
    size = table.size([*request.features, request.target])
    # Without a count (CSV): eight bytes a cell.
    rows = table.rows if table.rows is not None else size // (8 * (count + 1))
    width = 4 if family.dtype == "float32" else 8
    matrix = rows * count * width
    fitting = family.peak(rows, count, request.params)
    # Trees are grown from all rows, which are in this process.
    trees = family.distributes == "trees" and not isinstance(table, DaskTable)
    # The frame and its training part; the matrix and its two parts; what fitting adds.
    peak = 2 * size + 2 * matrix + fitting
    rounds = family.rounds(request.params)
    return plan_training(
        Load(
            table.rows,
            size,
            peak,
            shared_bytes=2 * matrix + fitting + size,
            # Gradients, positions and predictions; the rest is on disk.
            spilled_bytes=_SPILLED * rows if family.model_type == "xgboost" else None,
            each_bytes=matrix + fitting if trees else None,
        ),
        cells=float(rows) * count * rounds * family.effort,
        distribute=distribute,
        distributes=family.distributes == "rows" or trees,
        model_type=family.model_type,
        num_workers=num_workers,
        config=config,
        here=here,
    )


def register(
    request: Request,
    plan: Plan,
    fitted: Fitted,
    clock: Clock,
    *,
    name: str | None,
    tags: Iterable[str] | None,
    metadata: Mapping[str, Any] | None,
    config: Config,
    study: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Register what was fitted; return what `train_model` returns."""
    from jobs.lineage import job_id, software
    from registry import get_model_registry

    features = [column.name for column in fitted.signature.columns]
    rows = fitted.rows["training_rows"] + fitted.rows["validation_rows"]
    lineage = {
        "data": fitted.data,
        "target": request.target,
        "parameters": dict(request.params),
        "seed": request.seed,
        "validation_fraction": request.fraction,
        **_asked(request),
        "rows": {"total": rows, **fitted.rows},
        "baseline": fitted.baseline,
        "residuals": fitted.residuals,
        "profile": fitted.profile,
        "left_out": fitted.left_out,
        "plan": plan.mode,
        "software": software([*request.family.libraries, "pandas", "numpy"]),
        "job_id": job_id(),
        "report": fitted.report,
        **({} if study is None else {"study": dict(study)}),
    }
    registry = get_model_registry(config)
    model_id = registry.register_model(
        fitted.model,
        request.family.model_type,
        metadata=dict(metadata or {}),
        tags=list(tags or ()),
        name=name,
        signature=fitted.signature,
        metrics=fitted.metrics,
        lineage=lineage,
    )
    if fitted.checkpoints is not None:
        fitted.checkpoints.remove()
    record = registry.get_model(model_id)
    clock.lap("register")
    logger.info(
        "model=%s name=%s version=%d rows=%d seconds=%s", model_id, record.name, record.version, rows, clock.total()
    )
    return {
        "model_id": model_id,
        "name": record.name,
        "version": record.version,
        "model_type": request.family.model_type,
        "task": fitted.target.task,
        "task_reason": fitted.target.reason,
        "metrics": fitted.metrics,
        "plan": plan.summary(),
        "rows": rows,
        **fitted.rows,
        "features": features,
        "left_out": fitted.left_out,
        "report": fitted.report,
        "seconds": clock.total(),
    }


def _asked(request: Request) -> dict[str, Any]:
    """Return for the lineage what was asked for besides the usual."""
    how, parent = request.how, request.parent
    classes = request.class_weight
    told = {
        "validation": how.kind,
        "validation_column": how.column,
        "cross_validation": how.folds,
        "weight_col": request.weight,
        "class_weight": {str(label): weight for label, weight in classes.items()}
        if isinstance(classes, Mapping)
        else classes,
        "monotone_constraints": dict(request.monotone) or None,
        "early_stopping": request.patience,
        "checkpoint_every": request.every,
        "parent": None if parent is None else parent.model_id,
    }
    return {name: value for name, value in told.items() if value is not None}


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    from jobs.commands import CHOICES

    return train_model(
        options.data,
        options.target,
        features=options.features,
        model_type=options.model_type,
        model_params=dict(options.param),
        validation_fraction=options.validation_fraction,
        distribute_data=CHOICES[options.distribute],
        task=options.task,
        name=options.name,
        tags=options.tag,
        metadata={"description": options.description} if options.description else None,
        seed=options.seed,
        drop_null_target=options.drop_null_target,
        exclude=options.exclude,
        validation=options.validation,
        group_col=options.group_col,
        time_col=options.time_col,
        cross_validation=options.cross_validation,
        weight_col=options.weight_col,
        class_weight=options.class_weight,
        monotone_constraints=dict(options.monotone) or None,
        early_stopping=options.early_stopping,
        checkpoint_every=options.checkpoint_every,
        continue_from=options.continue_from,
        num_workers=options.num_workers,
        engine=options.engine,
    )


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.train")
