"""The blocks of a Ray Dataset: they stay in the object store, and tasks take their rows from there.

NumPy, pandas and pyarrow are imported inside functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compute.errors import DataError
from compute.groups import group_numbers
from compute.parts import Blocks

if TYPE_CHECKING:
    from compute.manager import ComputeManager


def blocks_of(dataset: Any, manager: ComputeManager) -> Blocks:
    """Execute a Ray Dataset, and return its blocks, whose parts are pandas DataFrames.

    Raises
    ------
    DataError
        When the manager is not on Ray, whose workers alone can read them.
    """
    references = _references(dataset, manager)
    # Asked of the blocks themselves: a Dataset tells the rows of all of them together only.
    return _filled(references, _ask(manager, _count, references))


def grouped_blocks(dataset: Any, by: Sequence[str], manager: ComputeManager) -> tuple[Blocks, list[int]]:
    """Sort a Ray Dataset, and return its blocks and where each group ends in them."""
    import numpy as np
    import pandas as pd

    references = _references(dataset.sort(list(by)), manager)
    told = _ask(manager, functools.partial(_runs, by=by), references)
    lengths = [int(sum(runs)) for _, runs in told]
    if not sum(lengths):
        return _filled(references, lengths), []
    # A group that goes on in the next block is told by both.
    numbers = group_numbers(pd.concat([keys for keys, _ in told], ignore_index=True), by)
    rows = np.bincount(numbers, weights=np.concatenate([runs for _, runs in told]))
    return _filled(references, lengths), np.cumsum(rows.astype("int64")).tolist()


def _references(dataset: Any, manager: ComputeManager) -> list[Any]:
    from compute.ray_backend import RayBackend

    if not isinstance(manager.backend, RayBackend):
        raise DataError(
            f"a Ray Dataset lies in Ray's object store, and the manager is on {manager.backend.name}",
            hint="Use a manager on Ray, or give dataset.to_pandas().",
        )
    references: list[Any] = dataset.to_arrow_refs()
    return references


def _ask(manager: ComputeManager, question: Callable[[Any], Any], references: Sequence[Any]) -> list[Any]:
    asked = manager.submit_many(question, ((reference,) for reference in references))
    try:
        return manager.gather_results(asked)
    finally:
        manager.drop(asked, cancel=True)


def _filled(references: Sequence[Any], lengths: Sequence[int]) -> Blocks:
    filled = [(reference, rows) for reference, rows in zip(references, lengths, strict=True) if rows]
    return Blocks([reference for reference, _ in filled], [rows for _, rows in filled], _frame)


def _count(block: Any) -> int:
    return int(block.num_rows)


def _runs(block: Any, by: Sequence[str]) -> tuple[Any, Any]:
    """Return the keys of the groups of a sorted block, and their rows."""
    import numpy as np

    numbers = group_numbers(block, by)
    firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return block.select(list(by)).take(firsts).to_pandas(), np.bincount(numbers)


def _frame(start: int, stop: int, blocks: Sequence[Any]) -> Any:
    import pyarrow as pa
    from ray.data.block import BlockAccessor

    joined = pa.concat_tables(blocks, promote_options="permissive").slice(start, stop - start)
    # As the Dataset's own to_pandas(): it knows tensors, and objects that Arrow has no type for.
    return BlockAccessor.for_block(joined).to_pandas()
