"""Data that can be cut into consecutive parts, and how a part reaches the worker that needs it.

A source says where rows lie: ``place(start, stop)`` gives the arguments of a task, in which ``take`` makes the part
of them. pandas, pyarrow and Ray are imported by those who pass their objects.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from compute.errors import DataError

if TYPE_CHECKING:
    from compute.manager import ComputeManager

Take = Callable[[int, int, Sequence[Any]], Any]
"""Gives the rows from ``start`` to ``stop`` of pieces that lie one after the other."""

_WORTH_SHARING = 256 * 1024


class Placed(NamedTuple):
    """Where to find rows: from ``start`` to ``stop`` in the pieces, which travel as handles or as they are."""

    start: int
    stop: int
    pieces: tuple[Any, ...]


class Source(Protocol):
    """Rows in order."""

    rows: int
    take: Take

    def place(self, start: int, stop: int) -> Placed:
        """Say how a task gets at these rows."""
        ...


class Held:
    """Data in this process.

    Parameters
    ----------
    data : sliceable
        From `sliceable`.
    handle : object, optional
        From `ComputeManager.put`: tasks slice what lies there. Else every part travels with its task.
    """

    def __init__(self, data: Any, handle: Any = None) -> None:
        self.rows = len(data)
        self.take: Take = _from_whole
        self._data = data
        self._handle = handle

    def place(self, start: int, stop: int) -> Placed:
        """Name the rows of what was put, or cut them out."""
        if self._handle is not None:
            return Placed(start, stop, (self._handle,))
        return Placed(0, stop - start, (cut(self._data, start, stop),))


class Blocks:
    """Pieces that lie with the engine; a part may reach over several.

    Parameters
    ----------
    handles : sequence
        Of the pieces, in order.
    lengths : sequence of int
        Their rows.
    take : callable
        Joins them.
    """

    def __init__(self, handles: Sequence[Any], lengths: Sequence[int], take: Take) -> None:
        self._handles = handles
        self._ends = list(itertools.accumulate(lengths))
        self.rows = self._ends[-1] if self._ends else 0
        self.take: Take = take

    def place(self, start: int, stop: int) -> Placed:
        """Name the pieces that the rows lie in.

        Examples
        --------
        >>> Blocks("abc", [10, 10, 10], cut).place(8, 20)
        Placed(start=8, stop=20, pieces=('a', 'b'))
        """
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_left(self._ends, stop)
        before = self._ends[first - 1] if first else 0
        return Placed(start - before, stop - before, tuple(self._handles[first : last + 1]))


def source_of(data: Any, manager: ComputeManager) -> Source:
    """Return the rows of a table, an array, an iterable or a Ray Dataset.

    Raises
    ------
    DataError
        When it has no rows, or they cannot be reached.
    """
    if is_ray_dataset(data):
        from compute.ray_blocks import blocks_of

        return blocks_of(data, manager)
    data = sliceable(data)
    return Held(data, manager.put(data) if _shareable(data) else None)


def is_ray_dataset(data: Any) -> bool:
    """Whether it is one, by name: who made it has imported the library."""
    kind = type(data)
    return kind.__module__.startswith("ray.data.") and kind.__name__ in ("Dataset", "MaterializedDataset")


def cut(data: Any, start: int, stop: int) -> Any:
    """Return rows as what they are rows of, without a copy where the type allows."""
    if hasattr(data, "iloc"):
        return data.iloc[start:stop]
    if hasattr(data, "num_rows"):
        return data.slice(start, stop - start)
    return data[start:stop]


def sliceable(data: Any) -> Any:
    """Return data that has a length and slices; an iterable as a list."""
    if hasattr(data, "__dask_graph__"):
        raise DataError(
            f"compute.distributed_apply takes no {type(data).__name__} of Dask",
            hint="dask_bridge.distributed_apply does.",
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


def _from_whole(start: int, stop: int, pieces: Sequence[Any]) -> Any:
    (whole,) = pieces
    return whole if start == 0 and stop == len(whole) else cut(whole, start, stop)


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
