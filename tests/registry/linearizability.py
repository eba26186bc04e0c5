"""What many clients of one registry must have seen: the condition, and a checker of histories against it.

**The sequential object.** A registry holds models. ``register(name)`` gives the next version of the name, 1 for the
first, at revision 1; a version is never given again. ``patch(model, revision)`` changes a model that is at this
revision and not deleted, and adds one to the revision; ``delete(model, revision)`` likewise hides it. Both refuse when
the model is not there (`model-not-found`) or at another revision (`revision-mismatch`). ``get(model)`` and
``resolve(name)``, the newest version that is not deleted, answer with the record, or `model-not-found`.

**The condition.** The log of the store, read at the end, is one sequence of events. A history of operations, each with
the moments of its call and its return, is right if

1. every event of the log is legal in the state that the events before it make;
2. every acknowledged write has exactly one event, and its answer is the record right after it (or a later one: a call
   that was repeated when its actor died is told how things stand); every refused one has none, and one of which the
   client was told nothing has at most one;
3. every operation can be given a point: a write that of its event (of the record it was told), a read and a refusal any
   state of the sequence in which its answer is right, such that an operation that returned before another was called
   has the earlier point, or the same when the later one is a read or a refusal.

So writes are strictly serializable, and reads linearizable. With a ``staleness``, the third holds for reads without
what *other* sessions did in so many seconds before their call; what their own session did and read they always see. A
session is one replica of the state, however many clients ask it: a process with its own catalog, or an actor.

The points are found greedily: operations in the order of their calls, each at the earliest point that is allowed. An
earlier point never forbids what a later one would allow, so if any choice is right, this one is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any, Literal, NamedTuple

Kind = Literal["register", "patch", "delete", "get", "resolve"]
WRITES: tuple[Kind, ...] = ("register", "patch", "delete")
UNKNOWN = "unknown"


class Seen(NamedTuple):
    """What a client sees of a record."""

    model: str
    version: int
    revision: int
    count: int
    """What every patch adds one to."""


class Operation(NamedTuple):
    """A call and what came of it."""

    session: str
    kind: Kind
    about: str
    """The name for `register` and `resolve`, else the model."""
    change: str
    """What the event of a write carries: the id of the new model, or of the change."""
    revision: int
    """That was asked for, by `patch` and `delete`."""
    called: float
    returned: float
    """Infinite when the client did not live to see it."""
    code: str
    """Empty for success, that of a refusal, or `UNKNOWN` when the registry could not say."""
    seen: Seen | None
    """The answer, if it is a record."""


class Violation(AssertionError):
    """The history is not right."""


class States:
    """The states that a log goes through, by the answers to each question; raises `Violation` if one is not legal."""

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        self.points: dict[str, int] = {}
        """Of each change."""
        self._newest: dict[str, int] = defaultdict(int)
        self._alive: dict[str, dict[str, Seen]] = defaultdict(dict)
        self._answers: dict[str, list[tuple[int, Seen | None]]] = defaultdict(lambda: [(0, None)])
        for point, event in enumerate(events, start=1):
            self._apply(point, event)

    def at(self, about: str, point: int) -> Seen | None:
        """Return the answer for a model or a name at a point."""
        answers = self._answers[about]
        return answers[bisect_right(answers, point, key=lambda answer: answer[0]) - 1][1]

    def first(self, about: str, floor: int, right: Callable[[Seen | None], bool]) -> int | None:
        """Return the first point, at least the floor, at which the answer is right."""
        answers = self._answers[about]
        for begins, answer in answers[bisect_right(answers, floor, key=lambda answer: answer[0]) - 1 :]:
            if right(answer):
                return max(begins, floor)
        return None

    def _apply(self, point: int, event: dict[str, Any]) -> None:
        kind = event["kind"]
        record = event["record"] if kind == "registered" else event
        model, name, version = record["model_id"], record["name"], record["version"]
        change = model if kind == "registered" else event["change"]
        if change in self.points:
            raise Violation(f"{change} happened at {self.points[change]} and again at {point}")
        self.points[change] = point
        before = self._alive[name].get(model)
        if kind == "registered":
            if version != self._newest[name] + 1 or record["revision"] != 1:
                raise Violation(f"{name} goes from version {self._newest[name]} to {version} at {point}")
            self._newest[name] = version
            after: Seen | None = Seen(model, version, 1, 0)
        elif before is None:
            raise Violation(f"{model} is {kind} at {point}, where it is not")
        elif kind == "deleted":
            after = None
        else:
            after = before._replace(revision=before.revision + 1, count=event["fields"]["metadata"]["count"])
            if after.count != before.count + 1:
                raise Violation(f"an update of {model} was lost at {point}: from {before} to {after}")
        if after is None:
            del self._alive[name][model]
        else:
            self._alive[name][model] = after
        self._answers[model].append((point, after))
        newest = max(self._alive[name].values(), key=lambda seen: seen.version, default=None)
        self._answers[name].append((point, newest))


class _Floor:
    """The latest point among operations that returned before a moment; moments are asked for in order."""

    def __init__(self) -> None:
        self._pending: list[tuple[float, int]] = []
        self._floor = 0

    def add(self, returned: float, point: int) -> None:
        heappush(self._pending, (returned, point))

    def at(self, moment: float) -> int:
        while self._pending and self._pending[0][0] < moment:
            self._floor = max(self._floor, heappop(self._pending)[1])
        return self._floor


def check(history: Iterable[Operation], events: Iterable[dict[str, Any]], staleness: float = 0.0) -> States:
    """Raise `Violation` unless the history is right; return the states.

    Parameters
    ----------
    history : iterable of Operation
        Of all clients, in any order. Every write that was called is in it.
    events : iterable of dict
        All that the log holds.
    staleness : float
        Seconds; for reads.
    """
    states = States(events)
    operations = sorted(history, key=lambda operation: operation.called)
    if strangers := set(states.points) - {operation.change for operation in operations if operation.kind in WRITES}:
        raise Violation(f"nobody asked for {strangers}")
    strict, stale, own = _Floor(), _Floor(), defaultdict[str, _Floor](_Floor)
    for operation in operations:
        if operation.kind in WRITES and operation.code in ("", UNKNOWN):
            point = _written(operation, states, strict.at(operation.called))
        elif operation.code == UNKNOWN:
            point = None
        else:
            floor = strict.at(operation.called)
            if operation.kind not in WRITES:
                floor = max(stale.at(operation.called - staleness), own[operation.session].at(operation.called))
            point = _read(operation, states, floor)
        if point is not None:
            for floors in (strict, stale, own[operation.session]):
                floors.add(operation.returned, point)
    return states


def _written(operation: Operation, states: States, floor: int) -> int | None:
    """Check a write, and return the point that whoever comes later has to see."""
    point = states.points.get(operation.change)
    if point is None:
        if operation.code == UNKNOWN:
            return None
        raise Violation(f"acknowledged, and not in the log: {operation}")
    if point <= floor:
        raise Violation(f"at {point}, though what happened at {floor} had returned before the call: {operation}")
    if operation.kind == "register":
        model = operation.change
    else:
        model = operation.about
        before = states.at(model, point - 1)
        if before is None or before.revision != operation.revision:
            raise Violation(f"done at {point} to another revision, {before}: {operation}")
    if operation.code:
        return point
    told = states.first(model, point, lambda seen: seen == operation.seen)
    if told is None:
        raise Violation(f"answered otherwise than the log says, {states.at(model, point)}: {operation}")
    return told


def _read(operation: Operation, states: States, floor: int) -> int:
    """Check a read or a refusal, and return the first point at which it can have been."""
    if operation.kind in WRITES and operation.change in states.points:
        raise Violation(f"refused, and done nevertheless at {states.points[operation.change]}: {operation}")
    if operation.code not in ("", "model-not-found", "revision-mismatch"):
        raise Violation(f"no answer to expect: {operation}")

    def right(seen: Seen | None) -> bool:
        if operation.code == "revision-mismatch":
            return seen is not None and seen.revision != operation.revision
        return seen == operation.seen

    point = states.first(operation.about, floor, right)
    if point is None:
        raise Violation(f"right at no point from {floor} on, where {states.at(operation.about, floor)}: {operation}")
    return point
