"""A Dask DataFrame and the cluster that computes it, as a table.

Dask is imported by whoever made the frame; pandas inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from compute.errors import ResourcesUnavailable
from jobs.columns import check_names
from jobs.planner import Plan

if TYPE_CHECKING:
    import pandas as pd

    from jobs.tables import Batch, Table


class DaskTable:
    """A Dask DataFrame on a Dask cluster. Nothing is computed before it is asked for.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        Its partitions are computed by the cluster.
    client : distributed.Client
        Connected to the cluster.
    """

    source = "the Dask DataFrame"
    rows: int | None = None

    def __init__(self, frame: Any, client: Any) -> None:
        self.frame = frame
        self.client = client
        self.columns = check_names(list(frame.columns), self.source)

    def plan(self, num_workers: int | None) -> Plan:
        """Plan to train where the partitions are, with all threads of each worker.

        Raises
        ------
        ResourcesUnavailable
            When the cluster has fewer workers than were asked for, or none.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if len(workers) < (num_workers or 1):
            raise ResourcesUnavailable(
                f"{num_workers or 1} training workers were asked for, and the Dask cluster has {len(workers)}",
                hint="Start workers (`dask worker ADDRESS`), or ask for fewer.",
                context={"workers": num_workers, "cluster_workers": len(workers)},
            )
        threads = min(int(worker["nthreads"]) for worker in workers)
        limit = min(int(worker["memory_limit"]) for worker in workers)
        reason = f"a Dask DataFrame is trained on where its partitions are: {len(workers)} workers of {threads} threads"
        count = num_workers or len(workers)
        return Plan("distributed", reason, None, 0, 0, limit, threads, count, "workers", count)

    def size(self, columns: Sequence[str]) -> int:
        """Have the partitions tell their size, each in a worker."""
        chosen = self.frame[list(columns)]
        return sum(self.client.gather(self.client.map(_bytes_of, self.client.compute(chosen.to_delayed()), pure=False)))

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Bring the columns here."""
        frame: pd.DataFrame = self.client.compute(self.frame[list(columns)]).result()
        return frame.reset_index(drop=True)

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Bring partition after partition here, in slices of at most so many rows (0: whole)."""
        for part in self.frame[list(columns)].to_delayed():
            frame: pd.DataFrame = self.client.compute(part).result()
            step = rows or max(1, len(frame))
            yield from (frame.iloc[start : start + step] for start in range(0, len(frame), step))

    def split(self, parts: int) -> Sequence[Table]:
        """Cut between partitions."""
        count = self.frame.npartitions
        step = -(-count // parts)
        return [DaskTable(self.frame.partitions[start : start + step], self.client) for start in range(0, count, step)]

    def lineage(self) -> dict[str, Any]:
        """Name the kind."""
        return {"kind": "dask-dataframe", "fingerprint": None}


def _bytes_of(part: pd.DataFrame) -> int:
    return int(part.memory_usage(index=False, deep=True).sum())
