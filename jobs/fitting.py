"""Fit a model in this process: split, learn the preprocessing, fit, measure.

pandas, numpy and the libraries of the models are imported inside functions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute.errors import ColumnInvalid
from jobs.columns import choose_features, listing
from jobs.families import Family, Problem
from jobs.metrics import measure
from jobs.planner import Plan
from jobs.residuals import residuals
from jobs.split import check_rows, held_out
from jobs.tables import Table
from jobs.targets import Target, find_target, without_nulls

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from registry import Signature

logger = logging.getLogger(__name__)

# Text with more distinct values than this share of the rows tells rows apart; the registry takes 10,000 at most.
_APART = 0.5
_ALWAYS_FEW = 100
_MOST_CATEGORIES = 10_000


@dataclass(frozen=True)
class Request:
    """What was asked for, checked as far as it can be without reading the data."""

    table: Table
    target: str
    features: tuple[str, ...]
    family: Family
    params: Mapping[str, Any]
    fraction: float
    task: str | None
    seed: int
    drop_null_target: bool
    chosen: bool  # the features were named by the caller


def make_request(
    table: Table, target: str, features: Sequence[str] | None, exclude: Sequence[str] | None, **rest: Any
) -> Request:
    """Return what is asked of a table, its columns checked; the rest are fields of `Request`."""
    chosen = choose_features(table.columns, target, features, exclude, table.source)
    if table.rows is not None:
        check_rows(table.rows, table.source)
    return Request(table=table, target=target, features=chosen, chosen=features is not None, **rest)


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


class Clock:
    """Seconds of each step, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Note the time since the step before."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 4)
        self._last = now

    def total(self) -> dict[str, float]:
        """Return the steps, and their sum."""
        return {**self.seconds, "total": round(time.perf_counter() - self._start, 4)}


@dataclass
class Prepared:
    """A table as models are fitted to it: read once, split, encoded by what the training rows alone say."""

    matrix: npt.NDArray[Any]
    truth: npt.NDArray[Any]
    validation: npt.NDArray[np.bool_]
    target: Target
    signature: Signature
    dropped: int
    left_out: dict[str, str]

    @property
    def training(self) -> npt.NDArray[np.intp]:
        """Places of the training rows."""
        import numpy as np

        return np.flatnonzero(~self.validation)


def fit_here(request: Request, plan: Plan, clock: Clock) -> Fitted:
    """Train in this process, with all of its threads."""
    return fit_prepared(prepare(request, clock), request, plan, clock)


def prepare(request: Request, clock: Clock) -> Prepared:
    """Read the table, hold rows back, and encode it."""
    import numpy as np

    from registry import capture_signature, encode

    frame = request.table.read([*request.features, request.target])
    check_rows(len(frame), request.table.source)
    frame, dropped = without_nulls(frame, request.target, drop=request.drop_null_target)
    check_rows(len(frame), f"{request.table.source}, less the rows without a target,")
    clock.lap("read")

    target = find_target(frame[request.target], request.task)
    truth = target.encode(frame[request.target])
    validation = held_out(truth if target.classes else None, len(frame), request.fraction, request.seed)
    part = _without_unseen(frame.iloc[np.flatnonzero(~validation)])
    features, left_out = usable_features(part, request)
    signature = capture_signature(
        part[list(features)], target=request.target, target_values=part[request.target], task=target.task
    )
    del part
    matrix = encode(frame, signature, dtype=request.family.dtype)
    clock.lap("prepare")
    return Prepared(matrix, truth, validation, target, signature, dropped, left_out)


def fit_prepared(prepared: Prepared, request: Request, plan: Plan, clock: Clock) -> Fitted:
    """Train on the training rows, and measure on the others."""
    target, truth, matrix = prepared.target, prepared.truth, prepared.matrix
    training = prepared.training
    problem = problem_of(prepared.signature, target, request, plan.threads)
    learnt = truth[training]
    model = request.family.fit(matrix[training], learnt, problem)
    clock.lap("fit")
    baseline = baseline_of(learnt, target)
    validation = prepared.validation
    scores = request.family.score(model, matrix[validation], problem)
    metrics = measure(truth[validation], scores, baseline)
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
        residuals=residuals(truth[validation], scores, classes=target.classes is not None),
        data=data_lineage(request.table.lineage(), (matrix, truth)),
    )


def _without_unseen(part: pd.DataFrame) -> pd.DataFrame:
    """Drop the categories that no training row has: they are knowledge of the rows held back."""
    import pandas as pd

    named = [name for name in part.columns if isinstance(part[name].dtype, pd.CategoricalDtype)]
    return part.assign(**{name: part[name].cat.remove_unused_categories() for name in named})


def usable_features(
    part: pd.DataFrame, request: Request, rows: int | None = None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Leave out text columns that tell nearly every row apart, unless the caller named them.

    A model can only memorise them, at a cost that grows with the square of the rows.

    Parameters
    ----------
    part : DataFrame
        The training rows, or rows that have all of their distinct values.
    request : Request
        What was asked for.
    rows : int, optional
        The number of training rows, when ``part`` does not have them all.
    """
    import pandas as pd

    rows = len(part) if rows is None else rows
    left_out: dict[str, str] = {}
    for name in () if request.chosen else request.features:
        dtype = part[name].dtype
        if not (isinstance(dtype, pd.StringDtype | pd.CategoricalDtype) or pd.api.types.is_object_dtype(dtype)):
            continue
        try:
            distinct = int(part[name].nunique())
        except TypeError:
            continue  # lists and the like: the signature refuses them by name
        if distinct > min(_MOST_CATEGORIES, max(_ALWAYS_FEW, int(rows * _APART))):
            left_out[name] = f"{distinct:,} distinct texts in {rows:,} rows tell rows apart, and teach nothing"
            logger.warning("column=%s left_out=%r", name, left_out[name])
    features = tuple(name for name in request.features if name not in left_out)
    if not features:
        raise ColumnInvalid(
            f"every feature is text that tells rows apart: {listing(request.features)}",
            hint="Name them in features to use them all the same.",
        )
    return features, left_out


def problem_of(signature: Signature, target: Target, request: Request, threads: int) -> Problem:
    """Return what a family must know to fit."""
    return Problem(
        target=target,
        columns=tuple(column.name for column in signature.columns),
        categories=tuple(len(column.categories or ()) for column in signature.columns),
        params=request.params,
        seed=request.seed,
        threads=threads,
    )


def baseline_of(learnt: npt.NDArray[np.floating[Any]], target: Target) -> dict[str, Any]:
    """Return the guess without a model: the mean of the training target, or the classes' shares."""
    import numpy as np

    if target.classes is None:
        return {"mean": float(learnt.mean(dtype="float64"))}
    return {"prior": (np.bincount(learnt.astype("int64"), minlength=len(target.classes)) / len(learnt)).tolist()}
