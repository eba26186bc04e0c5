"""Which waiting task goes next: by priority, by age, and by what fits. Plain data, no threads, no clock of its own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from compute.resources import Limits, Resources

AGE = 60.0
"""Seconds of waiting that outweigh one step of priority: a task is overtaken by higher ones, but not for ever."""

PATIENCE = 5.0
"""Seconds for which smaller tasks may pass the next one in line while it does not fit."""


class Waiting(Protocol):
    """What the queue asks of a task."""

    need: Resources
    priority: int
    queued_at: float


T = TypeVar("T", bound=Waiting)


class WaitingQueue(Generic[T]):
    """Waiting tasks, in one heap for each kind of need.

    The order within a heap never changes: all tasks age at the same rate, so ``queued_at - AGE * priority`` sorts
    them once and for all. Those that need the same fit or do not fit together, so the next task is found by looking
    at the first of each heap, of which there are few.

    Examples
    --------
    >>> from types import SimpleNamespace as Task
    >>> queue = WaitingQueue()
    >>> for name, priority in ("first", 0), ("urgent", 5):
    ...     queue.push(Task(name=name, need=Resources(), priority=priority, queued_at=0.0))
    >>> queue.pop(lambda task: True, now=0.0).name
    'urgent'
    """

    def __init__(self, age: float = AGE, patience: float = PATIENCE) -> None:
        self._age = age
        self._patience = patience
        self._heaps: dict[Resources, list[tuple[float, int, T]]] = {}
        self._numbers = itertools.count()
        self._gone: set[int] = set()
        self._size = 0
        self._blocked: tuple[int, float] | None = None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        """Yield every waiting task, in no order."""
        return (task for heap in self._heaps.values() for _, _, task in heap if id(task) not in self._gone)

    def push(self, task: T) -> None:
        """Add a task."""
        entry = (task.queued_at - self._age * task.priority, next(self._numbers), task)
        heapq.heappush(self._heaps.setdefault(task.need, []), entry)
        self._size += 1

    def discard(self, task: T) -> None:
        """Take a task out that is in the queue."""
        self._gone.add(id(task))
        self._size -= 1

    def pop(self, fits: Callable[[T], bool], now: float) -> T | None:
        """Take out the next task that fits; None when none does, or when the next in line has waited too long."""
        heads = sorted((heap[0] for heap in self._live()), key=lambda entry: entry[:2])
        for position, (_, number, task) in enumerate(heads):
            if fits(task):
                if position == 0:
                    self._blocked = None
                heapq.heappop(self._heaps[task.need])
                self._size -= 1
                return task
            if position == 0:
                if self._blocked is None or self._blocked[0] != number:
                    self._blocked = (number, now)
                elif now - self._blocked[1] > self._patience:
                    # What becomes free is saved up for it from now on.
                    return None
        return None

    def pop_like(self, task: T, suits: Callable[[T], bool]) -> T | None:
        """Take out the next task that needs the same as another one, if it suits."""
        heap = self._clean(task.need)
        if not heap or not suits(heap[0][2]):
            return None
        self._size -= 1
        return heapq.heappop(heap)[2]

    def _live(self) -> Iterator[list[tuple[float, int, T]]]:
        return (heap for need in list(self._heaps) if (heap := self._clean(need)))

    def _clean(self, need: Resources) -> list[tuple[float, int, T]]:
        """Return the heap of a need, its head a task that is there; an empty one is let go."""
        heap = self._heaps.get(need, [])
        while heap and id(heap[0][2]) in self._gone:
            self._gone.remove(id(heapq.heappop(heap)[2]))
        if not heap:
            self._heaps.pop(need, None)
        return heap


class Share:
    """What is taken once by tasks that run one after the other; by one, as a rule."""

    __slots__ = ("estimate", "left", "need")

    def __init__(self, need: Resources, estimate: float) -> None:
        self.need = need
        self.estimate = estimate
        self.left = 0
        """How many of them have not ended."""


class Usage:
    """What the tasks that are with the engine take together, against what they may.

    Parameters
    ----------
    limits : Limits
        What may be in use at once.
    slots : int or None
        Tasks at once, whatever they take.
    ahead : float or None
        Seconds of work per CPU that may be handed over beyond ``cpus``, to wait in the engine; None: nothing may.
    cpus : float
        What the engine runs at once, when ``ahead`` is given.
    """

    def __init__(
        self, limits: Limits, slots: int | None = None, ahead: float | None = None, cpus: float | None = None
    ) -> None:
        self.count = 0
        self.cpu = 0.0
        self.memory = 0
        self.gpu = 0.0
        self.work = 0.0
        """Seconds of CPU that are expected of what is under way."""
        self.resize(limits, slots, ahead, cpus)

    def resize(
        self, limits: Limits, slots: int | None = None, ahead: float | None = None, cpus: float | None = None
    ) -> None:
        """Go by other limits from now on; what is in use stays."""
        self.limits = limits
        self.slots = slots
        self.ahead = ahead
        self.cpus = cpus

    def fits(self, need: Resources, estimate: float = 0.0) -> bool:
        """Whether a task may be handed over now."""
        limits = self.limits
        # Sums of fractions: 0.1 ten times is 0.9999999999999999 or more than 1, and is meant to be 1.
        if limits.cpu is not None and self.cpu + need.cpu > limits.cpu + 1e-9:
            return False
        if limits.memory is not None and self.memory + need.memory > limits.memory:
            return False
        if limits.gpu is not None and self.gpu + need.gpu > limits.gpu + 1e-9:
            return False
        if self.slots is not None and self.count >= self.slots:
            return False
        if self.cpus is None or self.cpu + need.cpu <= self.cpus + 1e-9:
            return True
        if self.count == 0:
            # Larger than what is there now, in a cluster that may grow: the engine has to see that it is wanted.
            return True
        return self.ahead is not None and self.work + estimate <= self.ahead * self.cpus

    def take(self, need: Resources, estimate: float = 0.0) -> None:
        """Count a task in."""
        self.count += 1
        self.cpu += need.cpu
        self.memory += need.memory
        self.gpu += need.gpu
        self.work += estimate

    def give(self, need: Resources, estimate: float = 0.0) -> None:
        """Count a task out."""
        self.count -= 1
        if self.count == 0:
            # No rounding error outlives the last task.
            self.cpu = self.gpu = self.work = 0.0
            self.memory = 0
            return
        self.cpu -= need.cpu
        self.memory -= need.memory
        self.gpu -= need.gpu
        self.work -= estimate
