"""Where work is done: in this process, or over a Ray cluster; decided by numbers, and told with them.

Small data never pays for a cluster, and no plan is made whose peak memory does not fit.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, Literal

from compute import Config
from compute.errors import CapabilityMissing, ResourcesUnavailable
from jobs import cluster, node

logger = logging.getLogger(__name__)

Mode = Literal["single", "distributed"]

# Of what is free, so that an estimate that is a fifth too low does no harm.
_USABLE = 0.8
# Boosting: cells (rows x features x rounds) that one thread goes through in a second; measured on 327,346 x 8 x 100.
_CELLS_A_SECOND = 1.3e8
# Seconds before the first round of a Ray Train run (its processes start one after another), and its efficiency after.
_TRAIN_START = 30.0
_TRAIN_EFFICIENCY = 0.6
# Rows that one thread reads, scores and writes in a second.
_ROWS_A_SECOND = 6e5
# Seconds that distributed scoring costs before it scores anything: its workers import the libraries.
_SCORE_START = 8.0
# A cluster must be this much faster before it is used unasked: it has other users.
_WORTHWHILE = 2.0


@dataclass(frozen=True)
class Load:
    """What is to be done: rows (None when only reading tells), bytes as a frame, and bytes at the peak.

    ``peak_bytes`` is for one process; ``shared_bytes`` is the total over all workers when the work is spread.
    """

    rows: int | None
    bytes: int
    peak_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Plan:
    """Where the work is done, why, and the numbers behind it."""

    mode: Mode
    reason: str
    rows: int | None
    bytes: int
    peak_bytes: int
    limit_bytes: int
    threads: int
    workers: int = 1

    def summary(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)


def plan_training(
    load: Load,
    *,
    cells: float | None,
    distribute: bool | None,
    distributes: bool,
    model_type: str,
    num_workers: int | None,
    config: Config,
) -> Plan:
    """Plan a training run.

    Parameters
    ----------
    load : Load
        The data and its memory.
    cells : float or None
        Rows x features x rounds, None when the rows are not known.
    distribute : bool or None
        What the caller asked for; None leaves the choice here.
    distributes : bool
        Whether this model type can be trained over several nodes.
    model_type : str
        For messages.
    num_workers : int or None
        What the caller asked for, for a distributed run.
    config : Config
        Its limits on CPUs and memory.

    Raises
    ------
    CapabilityMissing
        When ``distribute`` is True and the model type trains on one node only.
    ResourcesUnavailable
        When nothing fits, or the workers asked for can never be placed.
    BackendUnavailable
        When ``distribute`` is True and no Ray cluster answers.
    """
    if distribute and not distributes:
        raise CapabilityMissing(
            f"{model_type} models train on one node",
            hint="Leave distribute_data out (they use all of the node's cores), or choose xgboost or lightgbm.",
        )
    if distribute:
        cluster.connect(config)
        return _spread(load, "distribute_data=True was asked for", num_workers, config)
    single = _single(load, config)
    if distribute is False or not distributes or not cluster.connected():
        why = "distribute_data=False was asked for" if distribute is False else ""
        if not why:
            why = f"{model_type} models train on one node" if not distributes else "no cluster is connected"
        return _fitting(single, f"{why}; {_fit(single)}")
    if single.peak_bytes > single.limit_bytes:
        return _spread(load, f"one process does not suffice: {_fit(single)}", num_workers, config)
    if cells is not None:
        here = cells / (_CELLS_A_SECOND * single.threads)
        total = sum(item.cpus for item in cluster.nodes())
        there = _TRAIN_START + cells / (_CELLS_A_SECOND * _TRAIN_EFFICIENCY * max(total, 1))
        times = f"about {here:.1f} s in this process with {single.threads} threads, {there:.0f} s on the cluster"
        if here > _WORTHWHILE * there:
            return _spread(load, times, num_workers, config)
        return _fitting(single, f"{times}; {_fit(single)}")
    return _fitting(single, _fit(single))


def plan_scoring(load: Load, *, distribute: bool | None, config: Config) -> Plan:
    """Plan a scoring run; its arguments are those of `plan_training`.

    Raises
    ------
    ResourcesUnavailable
        When nothing fits.
    """
    single = _single(load, config)
    total = sum(item.cpus for item in cluster.nodes())
    if distribute:
        workers = max(1, int(total or config.compute.local_workers))
        engine = "Ray" if total else "local processes"
        return _fitting(single, f"distributed=True was asked for; {workers} workers ({engine})", "distributed", workers)
    if distribute is None and load.rows is not None and total:
        here = load.rows / (_ROWS_A_SECOND * single.threads)
        there = _SCORE_START + load.rows / (_ROWS_A_SECOND * total)
        times = f"about {here:.1f} s in this process with {single.threads} threads, {there:.1f} s on the cluster"
        if here > _WORTHWHILE * there:
            return _fitting(single, times, "distributed", int(total))
        return _fitting(single, f"{times}; {_fit(single)}")
    why = "distributed=False was asked for; " if distribute is False else ""
    return _fitting(single, why + _fit(single))


def _single(load: Load, config: Config) -> Plan:
    free = int(node.memory().available * _USABLE)
    limit = min(free, config.compute.memory_limit) if config.compute.memory_limit else free
    return Plan("single", "", load.rows, load.bytes, load.peak_bytes, limit, node.threads(config))


def _fit(plan: Plan) -> str:
    return f"the peak of about {size(plan.peak_bytes)} against {size(plan.limit_bytes)} usable here"


def _fitting(plan: Plan, reason: str, mode: Mode = "single", workers: int = 1) -> Plan:
    if plan.peak_bytes > plan.limit_bytes:
        raise ResourcesUnavailable(
            f"the work does not fit into memory: {reason}",
            hint="Use fewer columns or rows, raise compute.memory_limit, or connect to a cluster with larger nodes.",
            context={"peak_bytes": plan.peak_bytes, "limit_bytes": plan.limit_bytes, "rows": plan.rows},
        )
    chosen = Plan(mode, reason, plan.rows, plan.bytes, plan.peak_bytes, plan.limit_bytes, plan.threads, workers)
    logger.info("plan=%s workers=%d threads=%d reason=%r", mode, workers, plan.threads, reason)
    return chosen


def _spread(load: Load, why: str, num_workers: int | None, config: Config) -> Plan:
    """Lay workers over the nodes: one a node, two when there is but one node, and a CPU left for Ray Data on each."""
    found = cluster.nodes()
    per_node = 2 if len(found) == 1 and found[0].cpus >= 3 else 1
    workers = num_workers or per_node * len(found)
    total = int(sum(item.cpus for item in found))
    # Ray Data needs a CPU to read with while the workers hold theirs.
    if not found or workers + 1 > total:
        raise ResourcesUnavailable(
            f"{workers} training workers and 1 CPU to read with can never be placed: the cluster has {total} CPUs",
            hint="Ask for fewer workers (num_workers), add nodes, or leave out distribute_data.",
            context={"workers": workers, "cluster_cpus": total},
        )
    threads = max(1, int(min(item.cpus for item in found) - 1) // -(-workers // len(found)))
    share = load.shared_bytes // workers
    limit = int(min(item.memory for item in found) * _USABLE) // -(-workers // len(found))
    if config.compute.memory_limit:
        limit = min(limit, config.compute.memory_limit // workers)
    if share > limit:
        raise ResourcesUnavailable(
            f"{why}; and each of {workers} workers would need about {size(share)} and may have {size(limit)}",
            hint="Add nodes, ask for more workers (num_workers), or use fewer columns or rows.",
            context={"worker_bytes": share, "limit_bytes": limit, "workers": workers, "rows": load.rows},
        )
    reason = f"{why}; {workers} workers of {threads} CPUs, about {size(share)} each of {size(limit)}"
    logger.info("plan=distributed workers=%d threads=%d reason=%r", workers, threads, reason)
    return Plan("distributed", reason, load.rows, load.bytes, share, limit, threads, workers)


def size(count: int) -> str:
    """Return a number of bytes as a person reads it.

    Examples
    --------
    >>> size(1536), size(5 * 2**30)
    ('1.5 KiB', '5.0 GiB')
    """
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):  # noqa: B007  (the unit that was reached is used)
        if value < 1024:
            break
        value /= 1024
    return f"{value:.1f} {unit}"
