"""`distributed_map`, `distributed_filter`, `distributed_reduce`: the functions of these names, over workers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from compute.apply import even_parts, run_all, run_parts
from compute.connect import get_compute_manager
from compute.manager import ComputeManager
from compute.part_tasks import apply_to_items, check_items, reduce_items
from compute.parts import source_of

T = TypeVar("T")
R = TypeVar("R")

_MISSING: Any = object()
_ARITY = 8


def distributed_map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    partition_size: int | None = None,
    manager: ComputeManager | None = None,
    **options: Any,
) -> list[R]:
    """Return ``[function(item) for item in items]``, computed by workers, several items a task.

    Parameters
    ----------
    function : callable
        Of one argument.
    items : iterable
        Read whole; `ComputeManager.map` takes one without end.
    partition_size : int, optional
        Items a task; by default so that there are four tasks for each CPU.
    manager : ComputeManager, optional
        By default `get_compute_manager()`.
    **options
        As for `ComputeManager.submit_task`; they apply to each task, not to each item.

    Raises
    ------
    Exception
        The function's own, with a note that names the item.

    Examples
    --------
    >>> from compute.local_backend import LocalBackend
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     distributed_map(abs, [-1, 2, -3], manager=manager)
    [1, 2, 3]
    """
    parts: list[list[R]] = _run(apply_to_items, function, list(items), partition_size, manager, options)
    return [result for part in parts for result in part]


def distributed_filter(
    function: Callable[[T], Any] | None,
    items: Iterable[T],
    *,
    partition_size: int | None = None,
    manager: ComputeManager | None = None,
    **options: Any,
) -> list[T]:
    """Return the items for which the function is true, in order; parameters as for `distributed_map`.

    Examples
    --------
    >>> from compute.local_backend import LocalBackend
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     distributed_filter(str.isupper, ["a", "B"], manager=manager)
    ['B']
    """
    held = list(items)
    # Only the answers travel back: the items are here.
    parts: list[list[bool]] = _run(check_items, function or bool, held, partition_size, manager, options)
    answers = (answer for part in parts for answer in part)
    return [item for item, answer in zip(held, answers, strict=True) if answer]


def distributed_reduce(
    function: Callable[[Any, Any], Any],
    items: Iterable[Any],
    initial: Any = _MISSING,
    *,
    partition_size: int | None = None,
    manager: ComputeManager | None = None,
    **options: Any,
) -> Any:
    """Return ``functools.reduce(function, items[, initial])``, as a tree of tasks.

    Parameters
    ----------
    function : callable
        Of two arguments; associative, else the result differs from that of `functools.reduce`. The order of the
        items is kept, so it need not be commutative.
    items : iterable
        Read whole.
    initial : object, optional
        Comes before the first item, once.
    partition_size, manager, **options
        As for `distributed_map`.

    Raises
    ------
    TypeError
        When there are no items and no initial value, as `functools.reduce` does.

    Examples
    --------
    >>> from compute.local_backend import LocalBackend
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     distributed_reduce(str.__add__, "abcdef", ">", partition_size=2, manager=manager)
    '>abcdef'
    """
    held = list(items)
    if initial is not _MISSING:
        held.insert(0, initial)
    if not held:
        raise TypeError("distributed_reduce() of empty iterable with no initial value")
    manager = manager or get_compute_manager()
    partial: list[Any] = _run(reduce_items, function, held, partition_size, manager, options)
    while len(partial) > 1:
        groups = [partial[start : start + _ARITY] for start in range(0, len(partial), _ARITY)]
        partial = run_all(
            manager, functools.partial(functools.reduce, function), ((group,) for group in groups), options
        )
    return partial[0]


def _run(
    task: Callable[..., Any],
    function: Callable[..., Any],
    items: list[Any],
    partition_size: int | None,
    manager: ComputeManager | None,
    options: dict[str, Any],
) -> list[Any]:
    manager = manager or get_compute_manager()
    parts = even_parts(len(items), partition_size, manager)
    return run_parts(task, function, source_of(items, manager), parts, manager, options)
