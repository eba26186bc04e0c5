"""The functions of `compute` with a manager on Dask as their default; collections of Dask are data, too.

Dask is imported by those who pass its collections, and by the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import compute
from compute import ComputeManager, Config, gather_with_bar, load_config
from compute.errors import InvalidField


def get_compute_manager(cluster: str | None = None, config: Config | None = None) -> ComputeManager:
    """Return the manager on Dask: on the cluster at ``compute.dask_address``, else on Dask-on-Ray.

    Parameters
    ----------
    cluster : str, optional
        A name from ``clusters`` in the configuration; its own ``type`` applies.
    config : Config, optional
        By default what `load_config` finds; ``compute.backend`` counts as ``"dask"``.
    """
    config = config or load_config()
    section = config.compute.model_copy(update={"backend": "dask"})
    return compute.get_compute_manager(cluster, config.model_copy(update={"compute": section}))


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
    """As `compute.distributed_apply`; a Dask DataFrame, Series or Bag is taken by its own partitions.

    A partition is computed in the task that applies the function to it, so none passes through this process.
    """
    manager = manager or get_compute_manager()
    if not hasattr(data, "__dask_graph__"):
        return compute.distributed_apply(
            function,
            data,
            partition_size,
            by=by,
            manager=manager,
            combine=combine,
            return_exceptions=return_exceptions,
            **options,
        )
    if by is not None:
        raise InvalidField(
            "by does not apply to a Dask collection: its groups lie in several partitions",
            hint="Use its own groupby(...).apply(...).",
        )
    if partition_size is not None:
        raise InvalidField(
            "partition_size does not apply to a Dask collection, which has its own partitions",
            hint="Use its repartition() and leave partition_size out.",
        )
    if not hasattr(data, "to_delayed"):
        raise InvalidField(f"a {type(data).__qualname__} of Dask has no partitions", hint="Use its to_delayed().")
    parts = data.to_delayed()
    flat = parts.ravel().tolist() if hasattr(parts, "ravel") else list(parts)
    calls = ((function, part, index, len(flat)) for index, part in enumerate(flat))
    task_ids = manager.submit_many(_on_partition, calls, **options)
    label = getattr(function, "__qualname__", type(function).__qualname__)
    done = False
    try:
        results = gather_with_bar(manager, task_ids, label, return_exceptions=return_exceptions)
        done = True
    finally:
        manager.drop(task_ids, cancel=not done)
    return results if combine is None else combine(results)


def distributed_transform(function: Callable[..., Any], data: Any, *args: Any, meta: Any = None, **kwargs: Any) -> Any:
    """Apply a function to each partition of a Dask DataFrame or Series; what comes is one of Dask again, and lazy.

    Parameters
    ----------
    function : callable
        Takes a partition, a pandas object, and gives one.
    data : dask DataFrame or Series
        It is computed on the cluster that the result is computed on: the manager's, while one is open.
    *args, **kwargs
        Passed on to the function.
    meta : pandas object, dict or tuple, optional
        An empty example of a result; by default the function is tried on two made-up rows.
    """
    if not hasattr(data, "map_partitions"):
        raise InvalidField(
            f"a {type(data).__qualname__} has no partitions to transform lazily",
            hint="Give a Dask DataFrame or Series, or use distributed_apply.",
        )
    given = {} if meta is None else {"meta": meta}
    return data.map_partitions(function, *args, **given, **kwargs)


def distributed_map(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    partition_size: int | None = None,
    manager: ComputeManager | None = None,
    **options: Any,
) -> list[Any]:
    """As `compute.distributed_map`."""
    manager = manager or get_compute_manager()
    return compute.distributed_map(function, items, partition_size=partition_size, manager=manager, **options)


def distributed_filter(
    function: Callable[[Any], Any] | None,
    items: Iterable[Any],
    *,
    partition_size: int | None = None,
    manager: ComputeManager | None = None,
    **options: Any,
) -> list[Any]:
    """As `compute.distributed_filter`."""
    manager = manager or get_compute_manager()
    return compute.distributed_filter(function, items, partition_size=partition_size, manager=manager, **options)


def distributed_reduce(
    function: Callable[[Any, Any], Any],
    items: Iterable[Any],
    *initial: Any,
    partition_size: int | None = None,
    manager: ComputeManager | None = None,
    **options: Any,
) -> Any:
    """As `compute.distributed_reduce`: ``distributed_reduce(function, items[, initial])``."""
    manager = manager or get_compute_manager()
    return compute.distributed_reduce(
        function, items, *initial, partition_size=partition_size, manager=manager, **options
    )


def _on_partition(function: Callable[[Any], Any], part: Any, index: int, count: int) -> Any:
    try:
        # Here and now: the parallelism is that of the tasks.
        return function(part.compute(scheduler="synchronous"))
    except Exception as error:
        error.add_note(f"In partition {index} of {count}.")
        raise
