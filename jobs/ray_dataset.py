"""Ray Datasets: as an input, and as the way a table reaches the workers of a distributed run.

ray and ray.data are imported inside functions (they take seconds).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jobs.columns import check_names
from jobs.tables import Table, to_frame

if TYPE_CHECKING:
    import pandas as pd

    from jobs.tables import Batch


class DatasetTable:
    """A Ray Dataset, executed once: its blocks stay in the object store, which spills what does not fit.

    Every question about rows or sizes, and every pass over the data, would execute a lazy dataset again.
    """

    source = "the Ray Dataset"

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset.materialize()
        schema = self.dataset.schema()
        self.columns = check_names(list(schema.names) if schema is not None else [], self.source)
        self.rows: int | None = int(self.dataset.count())

    def size(self, columns: Sequence[str]) -> int:
        """Give the blocks' size, by the share of the columns."""
        return int(self.dataset.size_bytes() * len(columns) / len(self.columns))

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Bring the columns here."""
        import pandas as pd

        parts = [to_frame(batch) for batch in self.batches(columns, 1_000_000)]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Bring batch after batch here, in order."""
        chosen = self.dataset.select_columns(list(columns))
        yield from chosen.iter_batches(batch_size=rows, batch_format="pyarrow")

    def split(self, parts: int) -> Sequence[Table]:
        """Cut between blocks; every part can be read on another node."""
        return [DatasetTable(part) for part in self.dataset.split(min(parts, max(1, self.dataset.num_blocks())))]

    def shares(self, count: int) -> list[BlocksTable]:
        """Cut into as many tables, which workers read from the object store, without Ray Data."""
        import ray

        references = self.dataset.to_arrow_refs()
        # Blocks of pandas are converted by tasks: these must be over before the workers take the cluster's CPUs.
        ray.wait(references, num_returns=len(references), fetch_local=False)
        if len(references) < count:
            # Each maps the blocks and takes its rows of them.
            return [BlocksTable(references, self.columns, part, count) for part in range(count)]
        edges = [len(references) * number // count for number in range(count + 1)]
        return [BlocksTable(references[start:stop], self.columns) for start, stop in itertools.pairwise(edges)]

    def lineage(self) -> dict[str, Any]:
        """Name the kind."""
        return {"kind": "ray-dataset", "fingerprint": None}


class BlocksTable:
    """Blocks of a Ray Dataset by reference, or one part of so many of their rows."""

    def __init__(self, references: list[Any], columns: tuple[str, ...], part: int = 0, parts: int = 1) -> None:
        self.columns = columns
        self._references, self._part, self._parts = references, part, parts

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Convert the columns; the blocks themselves stay in the object store."""
        import pyarrow as pa
        import ray

        blocks = [block.select(list(columns)) for block in ray.get(self._references)]
        table = pa.concat_tables(blocks, promote_options="permissive")
        start, stop = (table.num_rows * number // self._parts for number in (self._part, self._part + 1))
        return to_frame(table[start:stop])


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame without pandas' categories: blocks with different ones do not go together."""
    import pandas as pd

    kinds = {name: frame[name].dtype for name in frame.columns}
    return frame.assign(
        **{
            name: frame[name].astype(kind.categories.dtype)
            for name, kind in kinds.items()
            if isinstance(kind, pd.CategoricalDtype)
        }
    )


def as_dataset(table: Table, columns: Sequence[str], parts: int) -> Any:
    """Return a lazy Ray Dataset of the table's columns, read by the same code as in one process."""
    import ray
    import ray.data

    if isinstance(table, DatasetTable):
        return table.dataset.select_columns(list(columns))
    pieces = [ray.put(part) for part in table.split(parts)]

    def read(batch: Any) -> Any:
        part: Table = ray.get(pieces[int(batch["id"][0])])
        return plain_frame(part.read(columns))

    return ray.data.range(len(pieces), override_num_blocks=len(pieces)).map_batches(read, batch_size=1)
