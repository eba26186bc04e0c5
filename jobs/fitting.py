"""Fit a model in this process to rows that are prepared, and measure it; once, or in folds.

numpy and the libraries of the models are imported inside functions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compute.errors import ColumnInvalid, DataError
from jobs.boosting import Course, Watch, boost
from jobs.checkpoints import Checkpoints
from jobs.families import Problem
from jobs.metrics import measure
from jobs.planner import Plan
from jobs.preparing import Clock, Prepared, Rows, encode_rows, prepare, read_rows
from jobs.profile import profile_of
from jobs.report import describe, importances, training_curve
from jobs.request import Request, problem_of
from jobs.residuals import residuals
from jobs.targets import Target
from jobs.validation import folds_of
from jobs.weights import class_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from registry import ObjectStore, Signature

logger = logging.getLogger(__name__)

# Training rows that importances and the training curve are taken from.
_SHOWN = 5_000


@dataclass
class Fitted:
    """What training gives: the model, what is stored with it, and how good it is."""

    model: Any
    signature: Signature
    target: Target
    metrics: dict[str, float]
    baseline: dict[str, Any]
    rows: dict[str, int]
    left_out: dict[str, str]
    data: dict[str, Any]
    residuals: dict[str, Any]
    report: dict[str, Any] = field(default_factory=dict)
    checkpoints: Checkpoints | None = None
    profile: dict[str, Any] = field(default_factory=dict)
    """See `jobs.profile`; of a distributed run, of the rows held back, which are drawn evenly."""


def fit_here(request: Request, plan: Plan, clock: Clock, store: ObjectStore | None = None) -> Fitted:
    """Train in this process, with all of its threads; checkpoints, if asked for, are kept in the store."""
    if request.how.folds is None:
        return fit_prepared(prepare(request, clock), request, plan, clock, store)
    import numpy as np

    rows = read_rows(request)
    clock.lap("read")
    metrics, report, errors = cross_validate(rows, request, plan)
    clock.lap("cross_validate")
    everything = encode_rows(rows, np.zeros(len(rows.truth), dtype=bool), request)
    fitted = fit_prepared(everything, request, plan, clock, store)
    return replace(fitted, metrics=metrics, residuals=errors, report={**report, **fitted.report})


def cross_validate(rows: Rows, request: Request, plan: Plan) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    """Measure a model for each fold, each with its own preprocessing; return the means, a report and the errors."""
    import numpy as np

    measured, truths, guesses = [], [], []
    for training, held in folds_of(request.how, rows.places, rows.by, len(rows.truth)):
        some = training | held
        prepared = encode_rows(rows.take(some), held[some], request)
        if prepared.target.classes != rows.target.classes:
            raise DataError(
                "a fold has no rows of some class to train on",
                hint="Use fewer folds (cross_validation), or leave out the groups or times.",
            )
        model, problem, _ = learn_rows(prepared, request, plan.threads)
        truth, matrix = prepared.truth[prepared.validation], prepared.matrix[prepared.validation]
        predicted = request.family.score(model, matrix, problem)
        measured.append(measure(truth, predicted, baseline_of(prepared.truth[prepared.training], prepared.target)))
        truths.append(truth)
        guesses.append(predicted)
        logger.info("fold=%d of=%s metrics=%s", len(measured), request.how.folds, measured[-1])
    shared = [name for name in measured[0] if all(name in one for one in measured)]
    means = {name: float(np.mean([one[name] for one in measured])) for name in shared}
    spread = {name: float(np.std([one[name] for one in measured], ddof=1)) for name in shared}
    truth, predicted = np.concatenate(truths), np.concatenate(guesses)
    report = describe(truth, predicted, means, rows.target, request.seed)
    del report["intervals"]  # the spread over the folds says how sure the means are
    told = {"folds": len(measured), "rows": len(truth), "mean": means, "std": spread}
    return means, {"cross_validation": told, **report}, errors_of(truth, predicted, rows.target)


def errors_of(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], target: Target) -> dict[str, Any]:
    """Return the errors of rows held back, less those of a class that no training row has."""
    known = truth >= 0 if target.classes is not None else slice(None)
    return residuals(truth[known], predicted[known], classes=target.classes is not None)


def learn_rows(
    prepared: Prepared, request: Request, threads: int, store: ObjectStore | None = None
) -> tuple[Any, Problem, Checkpoints | None]:
    """Fit a model to the training rows; return it, what it was to learn, and its checkpoints."""
    import numpy as np

    target, truth, matrix = prepared.target, prepared.truth, prepared.matrix
    problem = problem_of(prepared.signature, target, request, threads)
    fitted, watched = ~prepared.validation, prepared.watched
    weights = weights_of(prepared, request)
    watch = None
    if watched is not None and request.patience is not None:
        fitted = fitted & ~watched
        watch = Watch(
            matrix[watched], truth[watched], None if weights is None else weights[watched], request.patience
        )  # fmt: skip
    _check_fitted(truth[fitted], None if weights is None else weights[fitted], target, request)
    checkpoints = None
    if store is not None and request.every is not None:
        checkpoints = Checkpoints(store, _question(prepared, request, weights), request.every)
    start = None if request.parent is None else request.parent.model
    places = np.flatnonzero(fitted)
    model = boost(
        request.family,
        matrix[places],
        truth[places],
        problem,
        None if weights is None else weights[places],
        Course(start, watch, checkpoints),
    )
    return model, problem, checkpoints


def weights_of(prepared: Prepared, request: Request) -> npt.NDArray[Any] | None:
    """Return how much each row counts: by its column, and by its class."""
    import numpy as np

    weights, truth = prepared.weights, prepared.truth
    if request.class_weight is None:
        return weights
    classes = prepared.target.classes or ()
    counts = np.bincount(truth[~prepared.validation].astype("int64"), minlength=len(classes)) if classes else truth
    each = class_weights(request.class_weight, prepared.target, counts)
    by_class: npt.NDArray[Any] = each[truth.astype("int64")]
    return by_class if weights is None else by_class * weights


def check_weight(total: float, request: Request) -> None:
    """Refuse weights of which nothing is left."""
    if not total > 0:
        raise ColumnInvalid(
            f"all training rows have the weight 0 in {request.weight!r}",
            hint="Choose another weight_col.",
            context={"column": request.weight},
        )


def _check_fitted(truth: npt.NDArray[Any], weights: npt.NDArray[Any] | None, target: Target, request: Request) -> None:
    import numpy as np

    if weights is not None:
        check_weight(float(weights.sum()), request)
    if target.classes is None or request.parent is not None:
        return
    counts = np.bincount(truth.astype("int64"), minlength=len(target.classes))
    if not counts.all():
        label = target.classes[int(counts.argmin())]
        raise DataError(
            f"no row of the class {label!r} is left to fit when some are watched for early stopping",
            hint="Leave early_stopping out, or collect more rows of that class.",
            context={"target": request.target},
        )


def _question(prepared: Prepared, request: Request, weights: npt.NDArray[Any] | None) -> dict[str, Any]:
    """Say all that the model depends on: checkpoints of another training are no use."""
    from jobs.lineage import data_lineage, software

    masks = [mask for mask in (prepared.validation, prepared.watched, weights) if mask is not None]
    return {
        "arrays": data_lineage({}, (prepared.matrix, prepared.truth, *masks))["fingerprint"],
        "signature": prepared.signature.model_dump_json(),
        "model_type": request.family.model_type,
        "params": dict(request.params),
        "monotone": dict(request.monotone),
        "patience": request.patience,
        "seed": request.seed,
        "parent": request.parent.model_id if request.parent else None,
        "software": software(request.family.libraries),
    }


def fit_prepared(
    prepared: Prepared, request: Request, plan: Plan, clock: Clock, store: ObjectStore | None = None
) -> Fitted:
    """Train on the training rows, and measure on the others."""
    target, truth, matrix = prepared.target, prepared.truth, prepared.matrix
    training = prepared.training
    family = request.family
    model, problem, checkpoints = learn_rows(prepared, request, plan.threads, store)
    clock.lap("fit")
    baseline = baseline_of(truth[training], target)
    validation = prepared.validation
    metrics: dict[str, float] = {}
    report: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    parts = {"training": (matrix[training[:_SHOWN]], truth[training[:_SHOWN]])}
    if validation.any():
        held, known = matrix[validation], truth[validation]
        predicted = family.score(model, held, problem)
        metrics = measure(known, predicted, baseline)
        report = describe(known, predicted, metrics, target, request.seed)
        errors = errors_of(known, predicted, target)
        parts["validation"] = (held, known)
    curve = training_curve(family, model, problem, parts, baseline)
    if curve is not None:
        report["curve"] = curve
    report["importances"] = importances(family, model, problem, parts["training"][0])
    clock.lap("evaluate")

    from jobs.lineage import data_lineage

    return Fitted(
        model=model,
        signature=prepared.signature,
        target=target,
        metrics=metrics,
        baseline=baseline,
        rows={
            "training_rows": len(training),
            "validation_rows": int(validation.sum()),
            "dropped_rows": prepared.dropped,
        },
        left_out=prepared.left_out,
        residuals=errors,
        data=data_lineage(request.table.lineage(), (matrix, truth)),
        report=report,
        checkpoints=checkpoints,
        profile=profile_of(prepared.matrix[prepared.training], prepared.signature, request.seed),
    )


def baseline_of(learnt: npt.NDArray[np.floating[Any]], target: Target) -> dict[str, Any]:
    """Return the guess without a model: the mean of the training target, or the classes' shares."""
    import numpy as np

    if target.classes is None:
        return {"mean": float(learnt.mean(dtype="float64"))}
    return {"prior": (np.bincount(learnt.astype("int64"), minlength=len(target.classes)) / len(learnt)).tolist()}
