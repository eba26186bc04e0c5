"""Score a table part by part into a batch run: in threads here, or in tasks over a cluster; a bounded number at once.

Which rows make a part depends on the table alone, so that whoever goes on with a run cuts it the same way. pandas and
pyarrow are imported inside functions.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute import get_compute_manager
from jobs.manifest import Run
from jobs.planner import Plan
from jobs.progress import report
from jobs.rejects import Reject, rejects_table
from jobs.scoring import Job, Scored, load, score_here
from jobs.tables import ArrowTable, Table, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

# Rows of a part: a second of work, and predictions of a few megabytes; fewer where rows are wide.
_MOST_ROWS = 262_144
_PART_BYTES = 64 * 2**20
# Libraries whose models may be asked by several threads at once; of others, one is.
_SHARED = ("xgboost-ubj", "lightgbm-text", "sklearn-skops")
_CPUS = 1


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a table: which part, its first row, and the rows."""

    number: int
    start: int
    table: Table


def rows_of_part(table: Table, columns: Sequence[str]) -> int:
    """Return how many rows a part has: as many as are read within a bound, whatever their number."""
    width = max(1, table.size(columns) // table.rows) if table.rows else 8 * len(columns)
    return max(1, min(_MOST_ROWS, _PART_BYTES // width))


def cut(table: Table, columns: Sequence[str], rows: int, skip: Collection[int]) -> Iterator[Part]:
    """Give the parts of a table that are not to be skipped, in order.

    Parameters
    ----------
    table : Table
        Cut where it can be read from the middle; else its rows are read here, and given in memory.
    columns : sequence of str
        The columns needed.
    rows : int
        Of a part, nearly.
    skip : collection of int
        Numbers of parts that are done.

    Examples
    --------
    >>> import pandas as pd
    >>> from jobs.tables import FrameTable
    >>> table = FrameTable(pd.DataFrame({"x": range(10)}))
    >>> [(part.number, part.start, part.table.rows) for part in cut(table, ["x"], 4, {1})]
    [(0, 0, 4), (2, 8, 2)]
    """
    if table.rows is None or getattr(table, "largest_piece", 0) > 2 * rows:
        yield from _cut_stream(table, columns, rows, skip)
        return
    start = 0
    # A table without rows has one part, whose file has the columns.
    for number, piece in enumerate(table.split(max(1, -(-table.rows // rows))) or [table]):
        if number not in skip:
            yield Part(number, start, piece)
        start += piece.rows or 0


def _cut_stream(table: Table, columns: Sequence[str], rows: int, skip: Collection[int]) -> Iterator[Part]:
    import pandas as pd
    import pyarrow as pa

    number = start = count = 0
    held: list[pa.Table] = []

    def part() -> Iterator[Part]:
        if number not in skip and count:
            yield Part(number, start, ArrowTable(pa.concat_tables(held, promote_options="permissive")))

    for batch in table.batches(columns, min(rows, 65_536)):
        rest = to_arrow(batch, list(batch.columns)) if isinstance(batch, pd.DataFrame) else batch
        while rest.num_rows:
            taken = rest.slice(0, rows - count)
            rest = rest.slice(taken.num_rows)
            count += taken.num_rows
            if number not in skip:
                held.append(taken)
            if count == rows:
                yield from part()
                number, start, count = number + 1, start + count, 0
                held.clear()
    yield from part()
    if not number and not count and number not in skip:
        yield Part(0, 0, table)


def score_into(run: Run, table: Table, job: Job, names: Sequence[str], plan: Plan, rows: int) -> int:
    """Score the parts, of so many rows, that are not there yet, and put each in its place.

    Returns
    -------
    int
        The number of parts that this call scored.
    """
    done = run.done()
    total = table.rows
    signature = load(job, 1).record.signature
    assert signature is not None  # predict_batch refuses a model without one
    columns = list(dict.fromkeys([*signature.feature_names, *job.keys]))
    parts = cut(table, columns, rows, done)
    scored = 0
    report("score", 0, total)
    runner = _in_threads if plan.mode == "single" else _in_tasks
    for end in runner(parts, run, job, names, plan):
        scored += 1
        report("score", end, total)
    return scored


def _in_threads(parts: Iterator[Part], run: Run, job: Job, names: Sequence[str], plan: Plan) -> Iterator[int]:
    shared = load(job, 1).record.format in _SHARED
    # Every thread reads, scores and writes its own parts: nothing is handed over, and the model needs one thread.
    workers, threads = (plan.threads, 1) if shared else (1, plan.threads)
    with ThreadPoolExecutor(workers, thread_name_prefix="score") as pool:
        waiting: deque[Any] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(score_part, part, run, job, names, threads))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _in_tasks(parts: Iterator[Part], run: Run, job: Job, names: Sequence[str], plan: Plan) -> Iterator[int]:
    manager = get_compute_manager(config=job.config)
    waiting: deque[str] = deque()
    try:
        for part in parts:
            waiting.append(manager.submit_task(score_part, part, run, job, names, _CPUS, resources={"cpu": _CPUS}))
            if len(waiting) >= 2 * plan.workers:
                yield manager.get_result(waiting[0])
                waiting.popleft()
        while waiting:
            yield manager.get_result(waiting[0])
            waiting.popleft()
    finally:
        for task_id in waiting:
            manager.cancel_task(task_id)


def score_part(part: Part, run: Run, job: Job, names: Sequence[str], threads: int) -> int:
    """Score one part and put it in its place; return the number of the row after it."""
    import pyarrow as pa

    tables: list[pa.Table] = []
    rejects: list[Reject] = []
    # The other parts are read meanwhile.
    for scored in score_here(part.table, job, threads, part.start, read_ahead=False):
        rejects += scored.rejects
        tables.append(as_table(scored, names, job.model_id))
    # Key columns may be empty in one batch and text in the next.
    table = pa.concat_tables(tables, promote_options="permissive")
    run.commit(part.number, table, rejects_table(rejects) if rejects else None)
    return int(part.start + table.num_rows + len(rejects))


def as_table(scored: Scored, names: Sequence[str], model_id: str) -> pa.Table:
    """Return what is written: the key columns, the predictions, and the model's id."""
    import numpy as np
    import pyarrow as pa

    count = len(scored.predictions)
    text = scored.predictions.dtype == object
    columns = [pa.array(scored.predictions, pa.string() if text else None)]
    if scored.probabilities is not None:
        columns += [pa.array(np.ascontiguousarray(column)) for column in scored.probabilities.T]
    # One entry of a dictionary: the same id on every row costs next to nothing.
    columns.append(pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype="int32")), [model_id]))
    keys = [] if scored.keys is None else scored.keys.columns
    key_names = [] if scored.keys is None else scored.keys.column_names
    return pa.table([*keys, *columns], names=[*key_names, *names, "model_id"])
