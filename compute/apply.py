"""`distributed_apply`: one function over the parts of a table, or over its groups."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from compute.connect import get_compute_manager
from compute.errors import InvalidField
from compute.groups import check_columns, side_by_side
from compute.manager import ComputeManager
from compute.part_tasks import OnPart, apply_to_groups, apply_to_rows
from compute.parts import Source, is_ray_dataset, source_of
from compute.progress_bar import gather_with_bar

PARTS_PER_CPU = 4
"""Enough that the last part does not keep all CPUs but one waiting."""


def distributed_apply(
    function: Callable[[Any], Any],
    data: Any,
    partition_size: int | None = None,
    *,
    by: str | Sequence[str] | None = None,
    manager: ComputeManager | None = None,
    combine: Callable[[list[Any]], Any] | None = None,
    return_exceptions: bool = False,
    **options: Any,
) -> Any:
    """Call a function on consecutive parts of the data, or on its groups, and return the results in order.

    A table of plain columns is laid in shared memory (Ray's object store) once and sliced in the tasks without being
    copied, so what the function gets is read-only: copy a part before you change it. What takes longer than two
    seconds shows a bar, where the standard error stream is a terminal.

    Parameters
    ----------
    function : callable
        Takes a part: of the same type as the data, but a pandas DataFrame where the data is a Ray Dataset.
    data : pandas DataFrame or Series, Arrow Table, NumPy array, Ray Dataset, or any iterable
        An iterable comes to the function in lists. Without rows there are no parts: the function is not called and
        the list of results is empty. `dask_bridge.distributed_apply` takes Dask's collections as well.
    partition_size : int, optional
        Rows of a part, the last one shorter; by default so that there are four parts for each CPU. With ``by``: rows
        of a task, which takes whole groups.
    by : str or sequence of str, optional
        Columns of a DataFrame, Arrow Table or Ray Dataset: the function is called once for each group of rows that
        have the same values there (a missing one is a value, too). Groups come in the order of their first rows, those
        of a Ray Dataset sorted.
    manager : ComputeManager, optional
        By default `get_compute_manager()`.
    combine : callable, optional
        Takes the list of results; what it returns is returned.
    return_exceptions : bool
        Whether a failure takes the place of its part's result; every group is a task of its own then. Else the first
        one is raised.
    **options
        As for `ComputeManager.submit_task`: ``resources``, ``timeout``, ``retries``, ``priority``.

    Returns
    -------
    list, or what ``combine`` gives
        One result for each part, or group.

    Raises
    ------
    Exception
        The function's own, with a note that names the rows or the group; parts that have not run are cancelled.

    Examples
    --------
    >>> import numpy as np
    >>> from compute.local_backend import LocalBackend
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     distributed_apply(np.sum, np.arange(10), partition_size=4, manager=manager, combine=sum)
    np.int64(45)
    """
    _check(partition_size)
    manager = manager or get_compute_manager()
    if by is None:
        source = source_of(data, manager)
        parts = even_parts(source.rows, partition_size, manager)
        results = run_parts(
            apply_to_rows, function, source, parts, manager, options, return_exceptions=return_exceptions
        )
    else:
        source, columns, ends = _grouped(data, by, manager)
        size = 1 if return_exceptions else _size(partition_size, source.rows, manager)
        task = functools.partial(apply_to_groups, by=columns)
        found = run_parts(
            task, function, source, whole_groups(ends, size), manager, options, return_exceptions=return_exceptions
        )
        results = [one for some in found for one in (some if isinstance(some, list) else [some])]
    return results if combine is None else combine(results)


def even_parts(rows: int, size: int | None, manager: ComputeManager) -> list[tuple[int, int]]:
    """Return where parts of ``size`` rows start and stop; without a size, four for each CPU."""
    size = _size(size, rows, manager)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def whole_groups(ends: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Yield where parts of at least ``size`` rows start and stop, none of which cuts a group.

    Examples
    --------
    >>> list(whole_groups([2, 3, 9, 10], 3))
    [(0, 3), (3, 9), (9, 10)]
    """
    start = 0
    for end in ends:
        if end - start >= size or end == ends[-1]:
            yield start, end
            start = end


def run_parts(
    task: Callable[..., Any],
    function: Callable[..., Any],
    source: Source,
    parts: Iterable[tuple[int, int]],
    manager: ComputeManager,
    options: dict[str, Any],
    *,
    return_exceptions: bool = False,
) -> list[Any]:
    """Run ``task(function, part, first row, all rows)`` for each part, in workers."""
    placed = ((source.place(start, stop), start) for start, stop in parts)
    calls = ((place.start, place.stop, first, source.rows, *place.pieces) for place, first in placed)
    # The function goes with the task's own, pickled once for all parts.
    return run_all(manager, OnPart(task, function, source.take), calls, options, return_exceptions=return_exceptions)


def run_all(
    manager: ComputeManager,
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    options: dict[str, Any],
    *,
    return_exceptions: bool = False,
) -> list[Any]:
    """Run calls and return their results in order; whatever fails, no task is left behind."""
    since = time.monotonic()
    task_ids = manager.submit_many(function, calls, **options)
    label = getattr(function, "__qualname__", type(function).__qualname__)
    done = False
    try:
        results = gather_with_bar(manager, task_ids, label, since, return_exceptions=return_exceptions)
        done = True
    finally:
        manager.drop(task_ids, cancel=not done)
    return results


def _grouped(
    data: Any, by: str | Sequence[str], manager: ComputeManager
) -> tuple[Source, tuple[str, ...], Sequence[int]]:
    columns = check_columns(data, by)
    if is_ray_dataset(data):
        from compute.ray_blocks import grouped_blocks

        source, ends = grouped_blocks(data, columns, manager)
        return source, columns, ends
    data, ends = side_by_side(data, columns)
    return source_of(data, manager), columns, ends


def _size(size: int | None, rows: int, manager: ComputeManager) -> int:
    if size is None:
        told = manager.resources()
        cpus = told["limits"]["cpu"] or told["total"]["cpu"] or 1
        return max(1, -(-rows // max(1, int(cpus * PARTS_PER_CPU))))
    _check(size)
    return size


def _check(size: int | None) -> None:
    if size is not None and size < 1:
        raise InvalidField(f"partition_size is {size!r}", hint="Give a number of rows, 1 or more.")
