"""Score and measure a Dask DataFrame: partition by partition, where each one is.

dask, pandas and numpy are imported inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import DataError, InvalidField
from jobs.columns import require_columns
from jobs.evaluate import Compared, compare, intervals, measure_parts
from jobs.predict import PREDICTION, collect, model_with_signature, prediction_names
from jobs.scoring import Job, score_here
from jobs.tables import FrameTable
from jobs.targets import Target

if TYPE_CHECKING:
    import pandas as pd

    from registry import Signature

_SOURCE = "the Dask DataFrame"
# Of a partition: the others are scored beside it.
_THREADS = 1


def predict_lazily(
    model_id: str,
    frame: Any,
    batch_size: int = 10000,
    *,
    key_columns: Sequence[str] | None = None,
    proba: bool = False,
    config: Config | None = None,
) -> Any:
    """Return the predictions for a Dask DataFrame as a Dask collection of the same partitions and index.

    Parameters
    ----------
    model_id, batch_size, key_columns, proba, config
        As for `jobs.predict_batch`.
    frame : dask.dataframe.DataFrame
        Raw rows, with the columns the model was trained on.

    Returns
    -------
    dask Series or DataFrame
        Named as what `jobs.predict_batch` returns; nothing is scored before it is computed or written.
    """
    config = config or load_config()
    if batch_size < 1:
        raise InvalidField(f"batch_size is {batch_size}, and must be at least 1")
    record, signature = model_with_signature(model_id, config)
    if proba and signature.classes is None:
        raise InvalidField(
            f"the model {record.model_id} predicts amounts, which have no probabilities", hint="Leave out proba."
        )
    keys = tuple(dict.fromkeys(key_columns or ()))
    require_columns(signature.feature_names, frame.columns, _SOURCE, "feature")
    require_columns(keys, frame.columns, _SOURCE, "key")
    names = prediction_names(signature, proba=proba)
    taken = sorted(set(names) & set(keys))
    if taken:
        raise DataError(f"the key column {taken[0]!r} has the name of a result", hint="Rename the column.")
    empty = _empty(signature, names, frame._meta[list(keys)])
    job = Job(record.model_id, keys, proba, batch_size, config)
    columns = list(dict.fromkeys([*signature.feature_names, *keys]))
    return frame[columns].map_partitions(_score, job, names, empty, meta=empty, enforce_metadata=False)


def evaluate_lazily(
    model_id: str,
    frame: Any,
    compute: Callable[[list[Any]], Sequence[Any]],
    target_col: str | None = None,
    *,
    batch_size: int = 10000,
    drop_null_target: bool = False,
    resamples: int = 1000,
    config: Config | None = None,
) -> dict[str, Any]:
    """Measure a model on a Dask DataFrame; of each row the truth and the prediction come here, and nothing else.

    Parameters
    ----------
    model_id, target_col, batch_size, drop_null_target, resamples, config
        As for `jobs.evaluate_model`.
    frame : dask.dataframe.DataFrame
        Raw rows with the model's features and the target.
    compute : callable
        Computes a list of Dask's delayed objects where the frame is computed.
    """
    from dask.delayed import delayed

    started = time.perf_counter()
    config = config or load_config()
    record, signature = model_with_signature(model_id, config)
    name = target_col or signature.target
    if name is None:
        raise DataError(f"the model {record.model_id} does not say what its target is", hint="Give target_col.")
    require_columns(signature.feature_names, frame.columns, _SOURCE, "feature")
    require_columns([name], frame.columns, _SOURCE, "target")
    target = Target(signature.task, "of the model", signature.classes)
    job = Job(record.model_id, (name,), signature.classes is not None, batch_size, config)
    judge: Any = delayed(_compare, pure=False)
    parts = frame[[*signature.feature_names, name]].to_delayed()
    compared = [one for several in compute([judge(part, job, target) for part in parts]) for one in several]
    count, nulls, metrics = measure_parts(compared, record, target, name, _SOURCE, drop_null_target=drop_null_target)
    return {
        "model_id": record.model_id,
        "task": signature.task,
        "target": name,
        "rows": count,
        "dropped_rows": nulls,
        "metrics": metrics,
        "intervals": intervals(compared, target, resamples),
        "plan": {"mode": "distributed", "reason": f"the {len(parts)} partitions are scored where they are"},
        "seconds": {"total": round(time.perf_counter() - started, 4)},
    }


def _empty(signature: Signature, names: list[str], keys: pd.DataFrame) -> Any:
    """Return what comes of a partition without rows, which tells Dask the names and types."""
    import pandas as pd

    kind: Any = "float64" if signature.classes is None else pd.Series(list(signature.classes)).dtype
    columns = {PREDICTION: pd.Series(dtype=kind), **{name: pd.Series(dtype="float64") for name in names[1:]}}
    frame = pd.DataFrame(columns, index=keys.index)
    return pd.concat([keys, frame], axis=1) if len(keys.columns) else frame if len(names) > 1 else frame[PREDICTION]


def _score(part: pd.DataFrame, job: Job, names: list[str], empty: Any) -> Any:
    if not len(part):
        return empty
    result: Any = collect(score_here(FrameTable(part), job, _THREADS), names, part.index)
    # XGBoost's single precision, and whole numbers of one partition, become what the whole was said to be.
    return result.astype(empty.dtype if len(empty.shape) == 1 else dict(empty.dtypes[list(names)]))


def _compare(part: pd.DataFrame, job: Job, target: Target) -> list[Compared]:
    return [compare(scored, job.keys[0], target) for scored in score_here(FrameTable(part), job, _THREADS)]
