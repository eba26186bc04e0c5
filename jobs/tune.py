"""Find the parameters of a model: `tune_model`, and `python -m jobs.tune`.

Trials are tasks of the compute manager: on this machine's processes, on Ray or on Dask, in workers that are warm, from
one copy of the encoded rows. Optuna proposes them. pandas, numpy, optuna and the libraries are imported inside
functions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compute import ComputeManager, Config, get_compute_manager, load_config
from compute.errors import DataError, InvalidField
from jobs.families import find_family
from jobs.fitting import fit_prepared, weights_of
from jobs.preparing import Clock, Prepared, prepare
from jobs.request import Request, make_request, problem_of
from jobs.search import METRICS, Search
from jobs.search_space import default_space, read_space
from jobs.studies import StudyLog
from jobs.study_checks import check_counts, check_metric, check_parameters
from jobs.tables import open_table
from jobs.train import make_plan, register
from jobs.train_checks import check_options
from jobs.trials import Material, without_rounds
from jobs.validation import folds_of, held_back, make_validation


def tune_model(
    data: object,
    target_col: str,
    features: Sequence[str] | None = None,
    model_type: str = "xgboost",
    search_space: Mapping[str, Any] | None = None,
    trials: int = 32,
    *,
    model_params: Mapping[str, Any] | None = None,
    metric: str | None = None,
    validation_fraction: float = 0.2,
    validation: str | None = None,
    group_col: str | None = None,
    time_col: str | None = None,
    folds: int | None = None,
    weight_col: str | None = None,
    class_weight: str | Mapping[Any, float] | None = None,
    monotone_constraints: Mapping[str, int] | None = None,
    prune: bool = True,
    parallel: int | None = None,
    resources: Mapping[str, object] | None = None,
    timeout: float | None = None,
    study: str | None = None,
    task: str | None = None,
    name: str | None = None,
    tags: Iterable[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    seed: int = 0,
    drop_null_target: bool = False,
    exclude: Sequence[str] | None = None,
    manager: ComputeManager | None = None,
    config: Config | None = None,
) -> dict[str, Any]:
    """Find good parameters by trials, train with the best, and register that model.

    Rows are held back first, and no trial sees them: what the result says of the model was not chosen for looking good.
    Each trial is measured on another part of the training rows, or on each of several folds of them. Every trial that
    ends is kept on the object store; a study whose driver dies goes on with the same call.

    Parameters
    ----------
    data, target_col, features, model_type, task, name, tags, metadata, seed, drop_null_target, exclude
        As for `train_model`. The rows have to fit into this node's memory: tune on a sample of what does not.
    validation, group_col, time_col, weight_col, class_weight, monotone_constraints
        As for `train_model`; they hold for the trials as for the model that is trained in the end. With groups none
        lies on both sides of any trial, and with times each trial is measured on what follows what it was fitted to.
    search_space : mapping, optional
        For each parameter a list of choices, or ``{"low": 0.01, "high": 0.3, "log": True}`` (`jobs.search_space`); by
        default what matters most for the model type.
    trials : int
        How many, those of earlier calls of the same study included.
    model_params : mapping, optional
        Parameters that all trials share, such as ``n_estimators``.
    metric : str, optional
        Of amounts rmse, mae, r2; of classes log_loss, accuracy, precision, recall, f1, of two also roc_auc and
        average_precision. By default rmse for amounts and log_loss for classes.
    validation_fraction : float
        Share of the rows held back from all trials, and, without ``folds``, of the others held back in each.
    folds : int, optional
        Measure each trial by cross-validation instead; by time, each fold is measured on what follows it.
    prune : bool
        Give up trials that are worse than most after a ninth, or a third, of their rounds (ASHA: Li et al., MLSys
        2020); of boosters, and unless the number of rounds is searched itself.
    parallel : int, optional
        Trials at once; by default as many as the manager has CPUs for.
    resources : mapping, optional
        Of each trial, as for `ComputeManager.submit_task`; its CPUs are its threads. One by default.
    timeout : float, optional
        Seconds after which no trial begins and none is waited for; the best until then is trained.
    study : str, optional
        A name by which the study can be gone on with; by default one that is made, and returned.
    manager : ComputeManager, optional
        By default `get_compute_manager`.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    dict
        What `train_model` returns of the best, and ``study``, ``metric``, ``best_params``, ``best_value`` and
        ``trials``: for each ``number``, ``state`` (``complete``, ``pruned``, ``failed``), ``params``, ``value``,
        ``seconds``, and the ``error`` of a failed one.

    Raises
    ------
    InvalidField
        When the search space, a parameter or the metric is not one.
    DataError
        As `train_model`.
    TaskFailed
        When no trial succeeded; its cause is the first error.
    Conflict
        When the study was begun for other data, another space or another metric.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute.local_backend import LocalBackend
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(60), "y": [i * 1.5 for i in range(60)]})
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     tuned = tune_model(frame, "y", model_type="linear", trials=3, manager=manager, config=config)
    >>> len(tuned["trials"]), list(tuned["best_params"])
    (3, ['alpha'])
    """
    clock = Clock()
    config = config or load_config()
    family = find_family(model_type)
    fixed = dict(model_params or {})
    how = make_validation(validation, validation_fraction, seed, group_col=group_col, time_col=time_col)
    monotone = check_options(family, fixed, monotone_constraints, None, None, None)
    check_counts(trials, folds, parallel, metric)
    if search_space is not None:
        both = sorted(set(fixed) & set(search_space))
        if both:
            raise InvalidField(f"{both[0]!r} is fixed and searched", hint="Leave it out of one of them.")
        check_parameters(family.check, read_space(search_space), fixed)
    table = open_table(data, config)
    request = make_request(
        table,
        target_col,
        features,
        exclude,
        family=family,
        params=fixed,
        fraction=validation_fraction,
        task=task,
        seed=seed,
        drop_null_target=drop_null_target,
        how=how,
        weight=weight_col,
        class_weight=class_weight,
        monotone=monotone,
    )
    clock.lap("open")
    plan = make_plan(request, None, None, config, "tuning")
    prepared = prepare(request, clock)
    kind = prepared.target.task
    wanted = metric or ("rmse" if kind == "regression" else "log_loss")
    check_metric(wanted, kind)
    space = dict(search_space or default_space(model_type, kind))
    for parameter in fixed:
        space.pop(parameter, None)
    from registry import open_store

    log = StudyLog(open_store(config.storage.uri, config), study)
    known = log.open(_question(request, prepared, space, wanted, folds))
    manager = manager or get_compute_manager(config=config)
    cpus = int(float(str((resources or {}).get("cpu", 1)))) or 1
    search = Search(
        manager=manager,
        material=_material(prepared, request, wanted, folds, cpus),
        space=space,
        fixed=fixed,
        log=log,
        known=known,
        prune=prune and family.continues and without_rounds(space) == space,
        resources={"cpu": cpus, **(resources or {})},
        seed=seed,
    )
    at_once = parallel or max(1, int(manager.resources()["total"]["cpu"] // cpus))
    found = search.run(trials, at_once, None if timeout is None else time.monotonic() + timeout)
    clock.lap("search")
    best = {**fixed, **found.best_trial.params}
    request = replace(request, params=best)
    lineage = {
        "name": log.name,
        "metric": wanted,
        "value": found.best_value,
        "trials": len(search.told),
        "space": space,
    }
    fitted = fit_prepared(prepared, request, plan, clock)
    result = register(
        request, plan, fitted, clock, name=name, tags=tags, metadata=metadata, config=config, study=lineage
    )  # fmt: skip
    return {
        **result,
        "study": log.name,
        "metric": wanted,
        "best_params": found.best_trial.params,
        "best_value": found.best_value,
        "trials": sorted(search.told, key=lambda trial: int(trial["number"])),
    }


def _question(
    request: Request, prepared: Prepared, space: Mapping[str, Any], metric: str, folds: int | None
) -> dict[str, Any]:
    from jobs.lineage import data_lineage

    more = {
        "validation": request.how.kind,
        "by": request.how.column,
        "weight": request.weight,
        "class_weight": request.class_weight,
        "monotone": dict(request.monotone),
    }
    return {
        "data": data_lineage(request.table.lineage(), (prepared.matrix, prepared.truth)),
        "target": request.target,
        "features": list(request.features),
        "model_type": request.family.model_type,
        "model_params": dict(request.params),
        "search_space": dict(space),
        "metric": metric,
        "folds": folds,
        "validation_fraction": request.fraction,
        "seed": request.seed,
        **{name: value for name, value in more.items() if value},
    }


def _material(prepared: Prepared, request: Request, metric: str, folds: int | None, threads: int) -> Material:
    training = prepared.training
    truth = prepared.truth[training]
    classes = prepared.target.classes
    places = truth if classes else None
    by = None if prepared.by is None else prepared.by.iloc[training]
    # Another seed than that of the rows held back from all trials.
    how = replace(request.how, seed=request.seed + 1, folds=folds)
    if folds is None:
        held = held_back(how, places, by, len(truth))
        parts = [(~held, held)]
    else:
        parts = list(folds_of(how, places, by, len(truth)))
    if classes and any(len(set(truth[fitted].tolist())) < len(classes) for fitted, _ in parts):
        raise DataError(
            "a trial would have no rows of some class to train on",
            hint="Use fewer folds, or leave out the groups or times.",
            context={"target": request.target},
        )
    weights = weights_of(prepared, request)
    problem = problem_of(prepared.signature, prepared.target, request, threads)
    return Material(
        prepared.matrix[training],
        truth,
        None if weights is None else weights[training],
        parts,
        request.family.model_type,
        metric,
        problem,
    )


_EXAMPLE = """example:
  python -m jobs.tune --data data/flights.parquet --target arr_delay --exclude dep_time,arr_time,air_time \\
      --drop-null-target --param n_estimators=100 --trials 32 --study delays --name arrival-delay \\
      --space '{"max_depth": {"low": 3, "high": 10}, "learning_rate": {"low": 0.01, "high": 0.3, "log": true}}'

A study that was interrupted goes on with the same command, if it has a name.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.train_options import training_parser

    options, measured, _ = training_parser(
        "python -m jobs.tune", "Find good parameters by trials, and train with the best.", _EXAMPLE
    )
    options.add_argument("--space", metavar="JSON", help="the search space, or a file of it (default: by model type)")
    options.add_argument("--trials", type=int, default=32, help="default: 32")
    options.add_argument("--metric", help=f"{', '.join(METRICS)} (default: rmse, or log_loss)")
    measured.add_argument("--folds", type=int, help="measure each trial by cross-validation")
    options.add_argument("--no-prune", action="store_true", help="never give a trial up early")
    options.add_argument("--parallel", type=int, help="trials at once (default: as many as there are CPUs)")
    options.add_argument("--timeout", type=float, metavar="SECONDS", help="begin no trial after that")
    options.add_argument("--study", metavar="NAME", help="by which the study can be gone on with")
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    return tune_model(
        options.data,
        options.target,
        features=options.features,
        model_type=options.model_type,
        search_space=None if options.space is None else _read(options.space),
        trials=options.trials,
        model_params=dict(options.param),
        metric=options.metric,
        validation_fraction=options.validation_fraction,
        validation=options.validation,
        group_col=options.group_col,
        time_col=options.time_col,
        folds=options.folds,
        weight_col=options.weight_col,
        class_weight=options.class_weight,
        monotone_constraints=dict(options.monotone),
        prune=not options.no_prune,
        parallel=options.parallel,
        timeout=options.timeout,
        study=options.study,
        task=options.task,
        name=options.name,
        tags=options.tag,
        metadata={"description": options.description} if options.description else None,
        seed=options.seed,
        drop_null_target=options.drop_null_target,
        exclude=options.exclude,
    )


def _read(text: str) -> Any:
    path = Path(text)
    if not text.lstrip().startswith("{"):
        if not path.is_file():
            raise InvalidField(f"there is no file {text[:200]!r}", hint="Give JSON, or a file of it, as --space.")
        text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidField(f"the search space is not JSON: {error}", context={"field": "search_space"}) from None


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.tune")
