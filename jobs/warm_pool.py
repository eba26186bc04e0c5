"""The warm workers of a Ray cluster: detached actors on each node, found by name, started when first asked for.

They take no CPUs while they wait; a run takes its CPUs and memory from Ray for as long as it lasts (`lease`). Ray
starts one that dies anew, and the run is repeated (`with_workers`). ray is imported inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compute import Config
from compute.errors import ResourcesUnavailable, TaskFailed, TaskTimeout, WorkerLost
from jobs import cluster
from jobs.planner import Plan
from jobs.warm_worker import WarmWorker

logger = logging.getLogger(__name__)

T = TypeVar("T")

NAMESPACE = "warm-workers"
# What a worker keeps imported of this package: another version of it needs other workers.
_ROOMS = ("compute", "registry", "jobs")
# Seconds to wait for workers that others use, or for CPUs and memory.
_PATIENCE = 600.0
_ASK_AGAIN = 0.05
# Seconds of waiting for CPUs and memory that are worth telling of.
_TELL = 5.0
# Seconds that a run may take: so many times as estimated, and not less than.
_LENIENCY, _LEAST = 10.0, 300.0
# Seconds that the others have to end by themselves when one has failed.
_GRACE = 3.0


@dataclass(frozen=True)
class Member:
    """A warm worker: its actor, and the node that it is on."""

    actor: Any
    name: str
    node: str

    def call(self, run: str, function: Any, *args: Any) -> Any:
        """Have the worker call a function; gives Ray's reference."""
        return self.actor.call.options(concurrency_group="work").remote(run, function, *args)


@dataclass(frozen=True)
class Crew:
    """Workers that one run has to itself, until it should be over."""

    members: Sequence[Member]
    run: str
    patience: float
    until: float

    def each(self, calls: Sequence[tuple[Any, ...]], places: Sequence[int] | None = None) -> list[Any]:
        """Call workers, those at the places or all, each with what is meant for it; return what they give."""
        found = dict(self.as_each_ends(calls, places))
        return [found[number] for number in range(len(calls))]

    def as_each_ends(
        self, calls: Sequence[tuple[Any, ...]], places: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Call workers, and give the number of each call with its result as it ends.

        When one fails, those that wait for it in vain are ended.
        """
        import ray

        chosen = self.members if places is None else [self.members[place] for place in places]
        numbers = {
            member.call(self.run, *call): number
            for number, (member, call) in enumerate(zip(chosen, calls, strict=True))
        }
        waiting = list(numbers)
        try:
            while waiting:
                done, waiting = ray.wait(waiting, timeout=max(0.0, self.until - time.monotonic()))
                self._check_time(done)
                yield numbers[done[0]], ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            self._end(chosen, numbers)
            cause = error.cause
            raise cause from cause.__cause__
        except BaseException:  # also when the driver is interrupted: nobody is to go on
            self._end(chosen, numbers)
            raise

    def _check_time(self, done: Sequence[Any]) -> None:
        if not done:
            raise TaskTimeout(
                f"warm workers did not do their part in {self.patience:.0f} s",
                hint="See what they wait for in Ray's dashboard. distribute_data=False has no such limit, nor has "
                "Ray Train, which trains boosters: num_workers=(2, 2).",
                context={"run": self.run},
            )

    def _end(self, chosen: Sequence[Member], references: Iterable[Any]) -> None:
        import ray

        calls = list(references)
        _, stuck = ray.wait(calls, num_returns=len(calls), timeout=_GRACE)
        replace([member for member, one in zip(chosen, calls, strict=True) if one in stuck])


def with_workers(work: Callable[[Crew], T], count: int, plan: Plan, config: Config) -> T:
    """Do work with so many workers, again when one of them dies.

    Raises
    ------
    TaskFailed
        When workers died more often than ``task_defaults.retries`` says.
    TaskTimeout
        When it takes ten times as long as estimated.
    """
    import ray

    patience = max(_LEAST, _LENIENCY * (plan.seconds or 0.0))
    for attempt in range(config.task_defaults.retries + 1):
        chosen, run = members(config, count), uuid.uuid4().hex
        try:
            with lease(chosen, run, plan.cpus, plan.peak_bytes):
                return work(Crew(chosen, run, patience, time.monotonic() + patience))
        except (ray.exceptions.RayActorError, WorkerLost) as error:
            lost: Exception = error
            logger.warning("run=%s attempt=%d event=worker_lost reason=%r", run, attempt + 1, str(error)[:300])
    raise TaskFailed(
        f"warm workers died in each of {config.task_defaults.retries + 1} attempts: {lost}",
        hint="See their logs in Ray's dashboard: memory is the most likely reason; or use distribute_data=False.",
    ) from lost


def members(config: Config, count: int) -> list[Member]:
    """Return so many workers, evenly over the nodes that have room; those that are not there start up.

    Gives at most ``compute.warm_workers`` a node. Does not wait for them.
    """
    nodes = cluster.nodes()
    room = cluster.with_room(nodes)
    rest = [node for node in nodes if node not in room]
    places = [(node.id, slot) for part in (room, rest) for slot in range(config.compute.warm_workers) for node in part]
    return [_member(config, node, slot) for node, slot in places[:count]]


def _member(config: Config, node: str, slot: int) -> Member:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name = _name(config, node, slot)
    remote: Any = ray.remote  # its overloads do not know concurrency groups
    actor = (
        remote(concurrency_groups={"work": 1})(WarmWorker)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(config.compute.warm_idle, config.compute.warm_memory)
    )
    return Member(actor, name, node)


def _name(config: Config, node: str, slot: int) -> str:
    """Tell this code, its environment and its settings from others: who changes them must not meet what was before."""
    import ray

    environment = dict(ray.get_runtime_context().runtime_env)
    settings = [environment, config.compute.warm_idle, config.compute.warm_memory, _code()]
    version = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return f"warm-{version}-{node[:16]}-{slot}"


@functools.cache
def _code() -> str:
    root = Path(__file__).parents[1]
    stamps = []
    for room in _ROOMS:
        for file in sorted((root / room).glob("*.py")):
            status = file.stat()
            stamps.append(f"{file.name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(stamps)


@contextlib.contextmanager
def lease(chosen: Sequence[Member], run: str, cpus: float, memory: int) -> Iterator[None]:
    """Have the workers to oneself, and for each of them the CPUs and the memory of its node.

    Raises
    ------
    ResourcesUnavailable
        When others have them for ten minutes.
    RayActorError
        When one of them dies.
    """
    from ray.util import placement_group, remove_placement_group

    until = time.monotonic() + _PATIENCE
    # In the order of their names, so that two runs cannot wait for each other.
    held: list[Member] = []
    group: Any = None
    try:
        for member in sorted(chosen, key=lambda member: member.name):
            while not _reserved(member, run):
                if time.monotonic() > until:
                    raise _busy("other runs have the warm workers, or these do not start", run)
                time.sleep(_ASK_AGAIN)
            held.append(member)
        bundles = [{"CPU": cpus, "memory": memory} for _ in chosen]
        selectors = [{"ray.io/node-id": member.node} for member in chosen]
        group = placement_group(bundles, bundle_label_selector=selectors)
        wanted = f"{cpus:g} free CPUs and {memory} bytes for each of {len(chosen)}"
        if not group.wait(_TELL):
            logger.warning("run=%s event=waiting for=%r", run, wanted)
            if not group.wait(max(1.0, until - time.monotonic())):
                raise _busy(f"the cluster has not {wanted}", run)
        yield
    finally:
        for member in held:
            member.actor.release.remote(run)
        if group is not None:
            remove_placement_group(group)


def _reserved(member: Member, run: str) -> bool:
    import ray

    try:
        return bool(ray.get(member.actor.reserve.remote(run)))
    except ray.exceptions.ActorUnavailableError:  # it died, and Ray is starting it anew
        return False


def _busy(what: str, run: str) -> ResourcesUnavailable:
    return ResourcesUnavailable(
        f"{what}, after {_PATIENCE:g} s of waiting",
        hint="Try again when less is running, or train with distribute_data=False.",
        context={"run": run},
    )


def replace(chosen: Sequence[Member]) -> None:
    """End workers at once, whatever they do; Ray starts them anew."""
    import ray

    for member in chosen:
        with contextlib.suppress(ray.exceptions.RayActorError):
            ray.kill(member.actor, no_restart=False)
