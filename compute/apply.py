"""`distributed_apply`: one function over the parts of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from compute.connect import get_compute_manager
from compute.errors import DataError, InvalidField
from compute.manager import ComputeManager

PARTS_PER_CPU = 4
"""Enough that the last part does not keep all CPUs but one waiting."""

_WORTH_SHARING = 256 * 1024


def distributed_apply(
    function: Callable[[Any], Any],
    data: Any,
    partition_size: int | None = None,
    *,
    manager: ComputeManager | None = None,
    combine: Callable[[list[Any]], Any] | None = None,
    **options: Any,
) -> Any:
    """Call a function on consecutive parts of the data and return the results in order.

    A table of plain columns is laid in shared memory (Ray's object store) once and sliced in the tasks without being
    copied, so what the function gets is read-only: copy a part before you change it.

    Parameters
    ----------
    function : callable
        Takes a part: of the same type as the data.
    data : pandas DataFrame or Series, Arrow Table, NumPy array, or any iterable
        An iterable comes to the function in lists. Without rows there are no parts: the function is not called and
        the list of results is empty.
    partition_size : int, optional
        Rows of a part, the last one shorter; by default so that there are four parts for each CPU.
    manager : ComputeManager, optional
        By default `get_compute_manager()`.
    combine : callable, optional
        Takes the list of results; what it returns is returned.
    **options
        As for `ComputeManager.submit_task`: ``resources``, ``timeout``, ``retries``, ``priority``.

    Returns
    -------
    list, or what ``combine`` gives
        One result for each part.

    Raises
    ------
    Exception
        The function's own, with a note that names the rows; parts that have not run are cancelled.

    Examples
    --------
    >>> import numpy as np
    >>> from compute.local_backend import LocalBackend
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     distributed_apply(np.sum, np.arange(10), partition_size=4, manager=manager, combine=sum)
    np.int64(45)
    """
    return apply_parts(_on_part, function, data, partition_size, manager, combine, options)


def apply_parts(
    task: Callable[..., Any],
    function: Callable[..., Any],
    data: Any,
    partition_size: int | None,
    manager: ComputeManager | None,
    combine: Callable[[list[Any]], Any] | None,
    options: dict[str, Any],
) -> Any:
    """Run ``task(function, part or (whole, start, stop), start, rows)`` for each part, in workers."""
    if partition_size is not None and partition_size < 1:
        raise InvalidField(f"partition_size is {partition_size!r}", hint="Give a number of rows, 1 or more.")
    manager = manager or get_compute_manager()
    data = _sliceable(data)
    rows = len(data)
    if partition_size is None:
        cpus = manager.resources()["limits"]["cpu"] or manager.resources()["total"]["cpu"] or 1
        partition_size = max(1, -(-rows // max(1, int(cpus * PARTS_PER_CPU))))
    bounds = [(start, min(start + partition_size, rows)) for start in range(0, rows, partition_size)]
    if len(bounds) > 1 and _shareable(data):
        handle = manager.put(data)
        calls: Iterable[tuple[Any, ...]] = ((handle, start, stop, start, rows) for start, stop in bounds)
    else:
        calls = ((_cut(data, start, stop), 0, stop - start, start, rows) for start, stop in bounds)
    # The function goes with the task's own, pickled once for all parts.
    results = run_all(manager, _Bound(task, function), calls, options)
    return results if combine is None else combine(results)


def run_all(
    manager: ComputeManager, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], options: dict[str, Any]
) -> list[Any]:
    """Run calls and return their results in order; whatever fails, no task is left behind."""
    task_ids = manager.submit_many(function, calls, **options)
    done = False
    try:
        results = manager.gather_results(task_ids)
        done = True
    finally:
        manager.drop(task_ids, cancel=not done)
    return results


class _Bound:
    """A task and the function it is for, pickled together."""

    def __init__(self, task: Callable[..., Any], function: Callable[..., Any]) -> None:
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.task = task
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.task(self.function, *args)


def _on_part(function: Callable[[Any], Any], whole: Any, start: int, stop: int, first: int, rows: int) -> Any:
    part = whole if start == 0 and stop == len(whole) else _cut(whole, start, stop)
    try:
        return function(part)
    except Exception as error:
        error.add_note(f"In rows {first} to {first + stop - start - 1} of {rows}.")
        raise


def _cut(data: Any, start: int, stop: int) -> Any:
    if hasattr(data, "iloc"):
        return data.iloc[start:stop]
    if hasattr(data, "num_rows"):
        return data.slice(start, stop - start)
    return data[start:stop]


def _sliceable(data: Any) -> Any:
    if hasattr(data, "iloc") and hasattr(data, "npartitions"):
        raise DataError(
            "distributed_apply takes no Dask DataFrame", hint="Use its own map_partitions, or compute() it first."
        )
    if hasattr(data, "iloc") or hasattr(data, "num_rows"):
        return data
    if hasattr(data, "ndim"):
        if data.ndim == 0:
            raise DataError("an array without dimensions has no parts", hint="Give one with rows.")
        return data
    if isinstance(data, str | bytes | dict):
        raise DataError(f"a {type(data).__name__} has no rows", hint="Give a table, an array or a list.")
    if isinstance(data, list | tuple | range):
        return data
    try:
        return list(data)
    except TypeError:
        raise DataError(
            f"a {type(data).__qualname__} cannot be cut into parts", hint="Give a table, an array or an iterable."
        ) from None


def _shareable(data: Any) -> bool:
    """Whether workers read the data where it lies: else each would unpickle the whole to get its part."""
    if hasattr(data, "num_rows"):
        return bool(data.nbytes >= _WORTH_SHARING)
    if hasattr(data, "iloc"):
        dtypes: Sequence[Any] = list(data.dtypes) if data.ndim == 2 else [data.dtype]
        size = data.memory_usage(index=True)
        return (
            all(str(dtype) != "object" for dtype in dtypes)
            and int(getattr(size, "sum", lambda: size)()) >= _WORTH_SHARING
        )
    if hasattr(data, "ndim"):
        return bool(not data.dtype.hasobject and data.nbytes >= _WORTH_SHARING)
    return False
