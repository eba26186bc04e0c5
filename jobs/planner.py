"""Where work is done: in this process, or over a Ray cluster; decided by numbers, and told with them.

Small data never pays for a cluster, and no plan is made whose peak memory does not fit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from compute import Config
from compute.errors import CapabilityMissing, InvalidField, ResourcesUnavailable
from jobs import cluster, node
from jobs.cluster import Node

logger = logging.getLogger(__name__)

Mode = Literal["single", "distributed"]
Place = Literal["process", "warm_group", "ray_train", "workers"]
Workers = int | tuple[int, int]

# Of what is free, so that an estimate that is a fifth too low does no harm.
_USABLE = 0.8
# Boosting: cells (rows x features x rounds) that one thread goes through in a second; measured on 327,346 x 8 x 100.
_CELLS_A_SECOND = 1.3e8
# Seconds before the first round of a Ray Train run (its processes start one after another), and of one of warm workers
# (that may have to start up); and the efficiency of both after.
_TRAIN_START = 30.0
_GROUP_START = 5.0
_EFFICIENCY = 0.6
# Seconds that warm workers train at most: what takes longer must survive a failure without starting again.
_SHORT = 300.0
# Rows that one thread reads, scores and writes in a second.
_ROWS_A_SECOND = 6e5
# Seconds that distributed scoring costs before it scores anything: its workers import the libraries.
_SCORE_START = 8.0
# Of a CPU, what a worker takes at least where others hold all: it waits for them to end.
_LEAST_CPUS = 0.5
# A cluster must be this much faster before it is used unasked: it has other users.
_WORTHWHILE = 2.0


@dataclass(frozen=True)
class Load:
    """What is to be done: rows (None when only reading tells), bytes as a frame, and bytes at the peak.

    ``peak_bytes`` is for one process; ``shared_bytes`` is the total over all workers when the work is spread, and
    ``spilled_bytes`` the same when the rows are kept on their disks; None when they cannot be. ``each_bytes`` is what
    each worker needs where none has a share of the rows, but all of them; None otherwise.
    """

    rows: int | None
    bytes: int
    peak_bytes: int
    shared_bytes: int
    spilled_bytes: int | None = None
    each_bytes: int | None = None


@dataclass(frozen=True)
class Plan:
    """Where the work is done, why, and the numbers behind it.

    ``place`` is this process, the group of warm workers, Ray Train, or the workers that hold or score the data. With
    ``least`` below ``workers`` a run goes on with fewer when a node is lost; ``on_disk`` says that the workers keep
    their rows on disk; ``seconds`` is an estimate. Each worker of a distributed training takes ``cpus`` of Ray, less
    than one where others hold a part of each.
    """

    mode: Mode
    reason: str
    rows: int | None
    bytes: int
    peak_bytes: int
    limit_bytes: int
    threads: int
    workers: int = 1
    place: Place = "process"
    least: int = 1
    on_disk: bool = False
    seconds: float | None = None
    cpus: float = 1.0

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
    num_workers: Workers | None,
    config: Config,
    here: str | None = None,
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
    num_workers : int, (int, int) or None
        What the caller asked for, for a distributed run; with a range, Ray Train goes on with fewer or more workers
        as nodes go and come.
    config : Config
        Its limits on CPUs and memory.
    here : str, optional
        What was asked for that only one process can do.

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
            hint="Leave distribute_data out (they use all of the node's cores), or choose xgboost, lightgbm or "
            "random_forest.",
        )
    _check_workers(num_workers)
    if distribute:
        cluster.connect(config)
        if load.each_bytes is not None:
            _fitting(_single(load, config), "the matrix is made in this process")
        return _spread(load, "distribute_data=True was asked for", num_workers, cells, config)
    single = _single(load, config)
    if distribute is False:
        return _fitting(single, f"distribute_data=False was asked for; {_fit(single)}")
    if here is not None:
        return _fitting(single, f"{here} is for training in one process; {_fit(single)}")
    if not distributes or not cluster.connected():
        why = "no cluster is connected" if distributes else f"{model_type} models train on one node"
        return _fitting(single, f"{why}; {_fit(single)}")
    if single.peak_bytes > single.limit_bytes and load.each_bytes is None:
        return _spread(load, f"one process does not suffice: {_fit(single)}", num_workers, cells, config)
    if cells is not None:
        alone = cells / (_CELLS_A_SECOND * single.threads)
        there = _seconds_spread(cells, sum(item.cpus for item in cluster.nodes()))
        times = f"about {alone:.1f} s in this process with {single.threads} threads, {there:.0f} s on the cluster"
        # Trees are not grown elsewhere when they cannot be, since they can here.
        if alone > _WORTHWHILE * there and (
            load.each_bytes is None
            or isinstance(_group(load, times, num_workers, cells, cluster.nodes(), config), Plan)
        ):
            return _spread(load, times, num_workers, cells, config)
        return _fitting(replace(single, seconds=round(alone, 2)), f"{times}; {_fit(single)}")
    return _fitting(single, _fit(single))


def _check_workers(asked: Workers | None) -> None:
    numbers = () if asked is None else asked if isinstance(asked, tuple) else (asked,)
    fine = all(isinstance(number, int) and number > 0 for number in numbers)
    if not fine or len(numbers) > 2 or (fine and list(numbers) != sorted(numbers)):
        raise InvalidField(
            f"num_workers is {asked!r}, and must be a number of processes, or the least and the most of them",
            hint="2 trains with two processes; (2, 4) with four, and with fewer when a node is lost.",
            context={"num_workers": asked},
        )


def _seconds_spread(cells: float, cpus: float) -> float:
    """Estimate what the cluster needs: short runs go to warm workers."""
    fitting = cells / (_CELLS_A_SECOND * _EFFICIENCY * max(cpus, 1))
    return fitting + (_GROUP_START if fitting <= _SHORT else _TRAIN_START)


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
        why = f"distributed=True was asked for; {workers} workers ({engine})"
        return _fitting(replace(single, mode="distributed", place="workers", workers=workers), why)
    if distribute is None and load.rows is not None and total:
        here = load.rows / (_ROWS_A_SECOND * single.threads)
        there = _SCORE_START + load.rows / (_ROWS_A_SECOND * total)
        times = f"about {here:.1f} s in this process with {single.threads} threads, {there:.1f} s on the cluster"
        if here > _WORTHWHILE * there:
            return _fitting(replace(single, mode="distributed", place="workers", workers=int(total)), times)
        return _fitting(single, f"{times}; {_fit(single)}")
    why = "distributed=False was asked for; " if distribute is False else ""
    return _fitting(single, why + _fit(single))


def _single(load: Load, config: Config) -> Plan:
    free = int(node.memory().available * _USABLE)
    limit = min(free, config.compute.memory_limit) if config.compute.memory_limit else free
    return Plan("single", "", load.rows, load.bytes, load.peak_bytes, limit, node.threads(config))


def _fit(plan: Plan) -> str:
    return f"the peak of about {size(plan.peak_bytes)} against {size(plan.limit_bytes)} usable here"


def _fitting(plan: Plan, reason: str) -> Plan:
    if plan.peak_bytes > plan.limit_bytes:
        raise ResourcesUnavailable(
            f"the work does not fit into memory: {reason}",
            hint="Use fewer columns or rows, raise compute.memory_limit, or connect to a cluster with larger nodes.",
            context={"peak_bytes": plan.peak_bytes, "limit_bytes": plan.limit_bytes, "rows": plan.rows},
        )
    return _chosen(replace(plan, reason=reason))


def _chosen(plan: Plan) -> Plan:
    logger.info(
        "plan=%s place=%s workers=%d threads=%d reason=%r",
        plan.mode, plan.place, plan.workers, plan.threads, plan.reason,
    )  # fmt: skip
    return plan


def _spread(load: Load, why: str, num_workers: Workers | None, cells: float | None, config: Config) -> Plan:
    """Lay workers over the nodes: one a node, and two when there is but one; warm ones when the run is short."""
    found = cluster.nodes()
    group = _group(load, why, num_workers, cells, found, config)
    if isinstance(group, Plan):
        return _chosen(group)
    if load.each_bytes is not None:
        raise ResourcesUnavailable(
            f"{why}; and only warm workers grow trees: {group}",
            hint="Ask for fewer workers (num_workers), raise compute.warm_workers, or leave out distribute_data.",
            context={"workers": num_workers, "warm_workers": config.compute.warm_workers * len(found)},
        )
    return _chosen(_ray_train(load, f"{why}; not warm workers: {group}", num_workers, cells, found, config))


def _group(
    load: Load, why: str, num_workers: Workers | None, cells: float | None, found: Sequence[Node], config: Config
) -> Plan | str:
    """Plan for warm workers, or say why Ray Train is to do it."""
    if isinstance(num_workers, tuple):
        return "their number cannot change during a run"
    found = cluster.with_room(found)
    workers = num_workers or (2 if len(found) == 1 and found[0].cpus >= 2 else len(found))
    warm = config.compute.warm_workers * len(found)
    if not found or workers > warm:
        return f"there are {warm} (compute.warm_workers), and {workers} are needed"
    per_node = -(-workers // len(found))
    if min(item.cpus for item in found) < per_node:
        return f"the smallest node has {min(item.cpus for item in found):g} CPUs for {per_node}"
    threads, cpus = _cpus_each(found, per_node)
    seconds = None if cells is None else cells / (_CELLS_A_SECOND * _EFFICIENCY * threads * workers)
    # Trees that are done are not grown again.
    if seconds is not None and seconds > _SHORT and load.each_bytes is None:
        return f"about {seconds:.0f} s of training must survive a failure"
    share = load.shared_bytes // workers if load.each_bytes is None else load.each_bytes
    limit = _limit(found, per_node, workers, config)
    if share > limit:
        return f"each would need about {size(share)} and may have {size(limit)}"
    reason = f"{why}; {workers} warm workers of {cpus:g} CPUs, about {size(share)} each of {size(limit)}"
    if seconds is not None:
        reason += f", about {seconds:.1f} s"
    return Plan(
        "distributed", reason, load.rows, load.bytes, share, limit, threads, workers, "warm_group", workers,
        seconds=None if seconds is None else round(seconds, 2), cpus=cpus,
    )  # fmt: skip


def _cpus_each(found: Sequence[Node], per_node: int, reading: int = 0) -> tuple[int, float]:
    """Return the threads of each worker, and the CPUs that it takes of Ray.

    What is left on a node may be no whole number: the applications of Serve hold a tenth each, and for good.
    """
    share = (min(min(item.cpus, item.free) for item in found) - reading) / per_node
    if share >= 1:
        return int(share), float(int(share))
    return 1, max(_LEAST_CPUS, math.floor(share * 100) / 100)


def _limit(found: Sequence[Node], per_node: int, workers: int, config: Config) -> int:
    """Return the bytes that each worker may have."""
    limit = int(min(item.memory for item in found) * _USABLE) // per_node
    return min(limit, config.compute.memory_limit // workers) if config.compute.memory_limit else limit


def _ray_train(
    load: Load, why: str, num_workers: Workers | None, cells: float | None, found: Sequence[Node], config: Config
) -> Plan:
    asked = num_workers or (2 if len(found) == 1 and found[0].cpus >= 3 else len(found))
    least, workers = asked if isinstance(asked, tuple) else (asked, asked)
    total = int(sum(item.cpus for item in found))
    # Ray Data needs a CPU to read with while the workers hold theirs.
    if not found or least + 1 > total:
        raise ResourcesUnavailable(
            f"{least} training workers and 1 CPU to read with can never be placed: the cluster has {total} CPUs; {why}",
            hint="Ask for fewer workers (num_workers), add nodes, or leave out distribute_data.",
            context={"workers": least, "cluster_cpus": total},
        )
    # Of a range, what may come later is not here yet to be reckoned with.
    here = min(workers, max(least, total - 1))
    per_node = -(-here // len(found))
    threads, cpus = _cpus_each(found, per_node, reading=1)
    limit = _limit(found, per_node, here, config)
    share, on_disk = load.shared_bytes // least, False
    if share > limit and load.spilled_bytes is not None:
        share, on_disk = load.spilled_bytes // least, True
    if share > limit:
        raise ResourcesUnavailable(
            f"{why}; and each of {least} workers would need about {size(share)} and may have {size(limit)}",
            hint="Add nodes, ask for more workers (num_workers), or use fewer columns or rows.",
            context={"worker_bytes": share, "limit_bytes": limit, "workers": least, "rows": load.rows},
        )
    count = f"{workers}" if least == workers else f"{least} to {workers}"
    kept = ", with the rows on disk" if on_disk else ""
    reason = f"{why}; {count} workers of {cpus:g} CPUs under Ray Train, about {size(share)} each of {size(limit)}{kept}"
    seconds = None if cells is None else _TRAIN_START + cells / (_CELLS_A_SECOND * _EFFICIENCY * threads * here)
    return Plan(
        "distributed", reason, load.rows, load.bytes, share, limit, threads, workers, "ray_train", least, on_disk,
        None if seconds is None else round(seconds, 2), cpus,
    )  # fmt: skip


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
