"""Score a table batch by batch, in bounded memory: here, or part by part in tasks; the order is kept.

pandas, numpy and pyarrow are imported inside functions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from compute import Config, get_compute_manager
from compute.errors import ColumnInvalid
from jobs.rejects import REASON, Reject, find_rejects
from jobs.tables import Table, to_arrow, to_frame

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from jobs.tables import Batch
    from registry import LoadedModel

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Batches that are read, or scored, before the next step takes them.
_AHEAD = 2
# Rows of a task: some seconds of work, and predictions of a few megabytes.
_ROWS_A_PART = 500_000
# Of a task, and the threads it scores with.
_CPUS = 1


@dataclass(frozen=True)
class Job:
    """What to do with each batch: the model, the columns to carry along, and how many rows at once.

    ``divert`` has rows that the model cannot take set apart, instead of stopping at the first.
    """

    model_id: str
    keys: tuple[str, ...]
    proba: bool
    rows: int
    config: Config
    divert: bool = False


@dataclass(frozen=True)
class Scored:
    """Predictions of consecutive rows, their probabilities if asked for, and their key columns as an Arrow table.

    ``rejects`` are the rows among them that could not be scored, and are in nothing else.
    """

    predictions: npt.NDArray[Any]
    probabilities: npt.NDArray[np.floating[Any]] | None
    keys: Any
    rejects: tuple[Reject, ...] = ()


def score_here(table: Table, job: Job, threads: int, start: int = 0, *, read_ahead: bool = True) -> Iterator[Scored]:
    """Score in this process, a batch at a time.

    Parameters
    ----------
    table : Table
        The rows.
    job : Job
        What to do with them.
    threads : int
        Of the model.
    start : int
        Number of the first row, for messages.
    read_ahead : bool
        Read in a thread of its own.

    Yields
    ------
    Scored
        Batch after batch, in the table's order; of a table without rows, one that is empty.
    """
    model = load(job, threads)
    signature = model.record.signature
    assert signature is not None  # predict_batch refuses a model without one
    features = list(signature.feature_names)
    columns = list(dict.fromkeys([*features, *job.keys, *({REASON} & set(table.columns))]))
    batches = table.batches(columns, job.rows)
    scored = None
    for batch in ahead(batches) if read_ahead else batches:
        scored = _score(batch, features, model, job, start)
        start += len(scored.predictions) + len(scored.rejects)
        yield scored
    if scored is None:
        yield _score(table.read(columns), features, model, job, start)


def score_in_tasks(table: Table, job: Job, workers: int) -> Iterator[Scored]:
    """Score part after part in tasks of the compute layer, a bounded number of them at once.

    Yields
    ------
    Scored
        Part after part, in the table's order.
    """
    manager = get_compute_manager(config=job.config)
    # Enough parts that the last one does not keep all but one worker waiting, small enough to be held here.
    count = max(4 * workers, -(-(table.rows or 0) // _ROWS_A_PART))
    waiting: deque[str] = deque()
    parts = iter(table.split(count))
    start = 0
    try:
        while True:
            while len(waiting) < 2 * workers and (part := next(parts, None)) is not None:
                waiting.append(manager.submit_task(score_part, part, job, start, resources={"cpu": _CPUS}))
                start += part.rows or 0
            if not waiting:
                return
            yield manager.get_result(waiting[0])
            waiting.popleft()
    finally:
        for task_id in waiting:
            manager.cancel_task(task_id)


def score_part(part: Table, job: Job, start: int) -> Scored:
    """Score one part, in a task; its rows begin at ``start`` in the whole table."""
    import numpy as np

    scored = list(score_here(part, job, _CPUS, start))
    return Scored(
        np.concatenate([item.predictions for item in scored]) if scored else np.empty(0),
        np.concatenate([item.probabilities for item in scored if item.probabilities is not None])
        if job.proba
        else None,
        _stack([item.keys for item in scored]) if job.keys else None,
    )


def _stack(tables: Sequence[Any]) -> Any:
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive")


def load(job: Job, threads: int) -> LoadedModel:
    """Return the model of a job; a process holds it for the next time."""
    from registry import get_model_registry

    return get_model_registry(job.config).load_model(job.model_id, threads=threads)


def _score(batch: Batch, features: list[str], model: LoadedModel, job: Job, start: int) -> Scored:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    frame = batch[features] if isinstance(batch, pd.DataFrame) else to_frame(batch.select(features))
    rejects: list[Reject] = []
    marked = not isinstance(batch, pd.DataFrame) and REASON in batch.column_names
    try:
        values = None if marked else model.predict(frame, proba=job.proba)
    except ColumnInvalid as error:
        if not job.divert:
            raise _with_row(error, start) from error
        values = None
    if values is None:
        assert model.record.signature is not None  # predict_batch refuses a model without one
        good, rejects = find_rejects(to_frame(batch), model.record.signature, model.dtype, start)
        batch = batch[good] if isinstance(batch, pd.DataFrame) else batch.filter(pa.array(good))
        values = model.predict(frame[good], proba=job.proba)
    keys = to_arrow(batch, job.keys) if job.keys else None
    if not job.proba:
        return Scored(values, None, keys, tuple(rejects))
    signature = model.record.signature
    assert signature is not None
    assert signature.classes is not None  # predict_batch asks for probabilities of classes only
    labels = np.array(signature.classes, dtype=object if isinstance(signature.classes[0], str) else None)
    return Scored(labels[values.argmax(axis=1)], values, keys, tuple(rejects))


def _with_row(error: ColumnInvalid, start: int) -> ColumnInvalid:
    """Count the row from the start of the table instead of the batch."""
    row = error.context.get("row")
    if not start or not isinstance(row, int):
        return error
    return ColumnInvalid(
        error.detail.replace(f"in row {row}", f"in row {start + row}"),
        error.hint,
        {**error.context, "row": start + row},
    )


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Run an iterator in a thread of its own, a few items ahead.

    Examples
    --------
    >>> list(ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    end = object()
    iterator = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]  # not the end
