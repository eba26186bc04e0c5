"""Read a table and turn it into what models are fitted to, by what its training rows alone say.

pandas, numpy and pyarrow are imported inside functions.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compute.errors import ColumnInvalid
from jobs.columns import listing
from jobs.continuing import check_classes
from jobs.marks import WATCHED_SHARE
from jobs.progress import report
from jobs.request import Request
from jobs.split import check_rows
from jobs.targets import Target, find_target, without_nulls
from jobs.validation import held_back
from jobs.weights import read_weights

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from registry import Signature

logger = logging.getLogger(__name__)

# Text with more distinct values than this share of the rows tells rows apart; the registry takes 10,000 at most.
_APART = 0.5
_ALWAYS_FEW = 100
_MOST_CATEGORIES = 10_000


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
        report(f"{step} done")

    def total(self) -> dict[str, float]:
        """Return the steps, and their sum."""
        return {**self.seconds, "total": round(time.perf_counter() - self._start, 4)}


@dataclass
class Rows:
    """What was read: rows with a target, in their order; what they are divided by, and how much they weigh."""

    frame: pd.DataFrame
    target: Target
    truth: npt.NDArray[Any]
    by: pd.Series[Any] | None
    weights: npt.NDArray[Any] | None
    dropped: int

    @property
    def places(self) -> npt.NDArray[Any] | None:
        """Each row's class, None for amounts."""
        return self.truth if self.target.classes is not None else None

    def take(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """Return the rows marked."""
        return replace(
            self,
            frame=self.frame[mask],
            truth=self.truth[mask],
            by=None if self.by is None else self.by[mask],
            weights=None if self.weights is None else self.weights[mask],
        )


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
    weights: npt.NDArray[Any] | None = None
    watched: npt.NDArray[np.bool_] | None = None
    by: pd.Series[Any] | None = None

    @property
    def training(self) -> npt.NDArray[np.intp]:
        """Places of the training rows."""
        import numpy as np

        return np.flatnonzero(~self.validation)


def prepare(request: Request, clock: Clock) -> Prepared:
    """Read the table, hold rows back, and encode it."""
    rows = read_rows(request)
    clock.lap("read")
    mask = held_back(request.how, rows.places, rows.by, len(rows.truth))
    prepared = encode_rows(rows, mask, request)
    clock.lap("prepare")
    return prepared


def read_rows(request: Request) -> Rows:
    """Read the columns that are asked for, and find the task."""
    frame = request.table.read(request.columns)
    check_rows(len(frame), request.table.source)
    frame, dropped = without_nulls(frame, request.target, drop=request.drop_null_target)
    check_rows(len(frame), f"{request.table.source}, less the rows without a target,")
    values, parent = frame[request.target], request.parent
    if parent is None:
        target = find_target(values, request.task)
    else:
        find_target(values, "regression" if parent.signature.classes is None else "classification")
        check_classes(values, parent)
        target = parent.target
    return Rows(
        frame=frame,
        target=target,
        truth=target.encode(values),
        by=None if request.how.column is None else frame[request.how.column],
        weights=None if request.weight is None else read_weights(frame[request.weight]),
        dropped=dropped,
    )


def encode_rows(rows: Rows, validation: npt.NDArray[np.bool_], request: Request) -> Prepared:
    """Learn the preprocessing from the rows that are not held back, and encode all."""
    import numpy as np

    from registry import capture_signature, encode

    frame, target, truth = rows.frame, rows.target, rows.truth
    left_out: dict[str, str] = {}
    if request.parent is not None:
        signature = request.parent.signature
    else:
        part = _without_unseen(frame.iloc[np.flatnonzero(~validation)])
        if request.how.kind in ("group", "time"):
            # Class by class, each has rows to train on; otherwise only those that are there can be learnt.
            target = find_target(part[request.target], request.task or target.task)
            truth = target.encode(frame[request.target])
        features, left_out = usable_features(part, request)
        signature = capture_signature(
            part[list(features)], target=request.target, target_values=part[request.target], task=target.task
        )
        del part
    watched = None
    if request.patience is not None:
        watched = np.zeros(len(validation), dtype=bool)
        inner = rows.take(~validation)
        how = replace(request.how, fraction=WATCHED_SHARE, seed=request.seed + 1)
        places = truth[~validation] if target.classes is not None else None
        watched[~validation] = held_back(how, places, inner.by, len(inner.truth))
    matrix = encode(frame, signature, dtype=request.family.dtype)
    return Prepared(
        matrix, truth, validation, target, signature, rows.dropped, left_out, rows.weights, watched, rows.by
    )  # fmt: skip


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
