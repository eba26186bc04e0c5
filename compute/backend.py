"""What the manager needs of an engine.

An adapter supplies this and nothing else: queueing, retries, cancellation and bookkeeping are the manager's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from compute.resources import Limits

if TYPE_CHECKING:
    from compute.pickling import Codec


class Ending(Enum):
    """How one attempt at a task ended."""

    VALUE = "value"
    ERROR = "error"
    """The function raised."""
    UNSENDABLE = "unsendable"
    """The function returned what cannot be pickled."""
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"
    """Stopped because `Backend.stop` asked for it."""
    LOST = "lost"
    """The worker, its node or the connection went away."""
    RETURNED = "returned"
    """Not begun: given back by a worker that has no time for it, or died before its turn. Not an attempt at all."""
    UNPLACEABLE = "unplaceable"
    """The engine cannot run this at all; another attempt would end the same way."""


class Outcome(NamedTuple):
    """What a backend reports of one attempt."""

    ending: Ending
    payload: Any = None
    """For VALUE and ERROR what `Codec.decode` takes (or what `Backend.fetch` exchanges for it), else a text."""
    started_at: float | None = None
    """Seconds since the epoch, by the worker's clock."""
    seconds: float | None = None
    """How long the function ran."""
    held: bool = False
    """Whether the payload is still in the engine and has to be fetched."""
    reports: bytes = b""
    """What the attempt said of its progress: see `compute.progress`."""


class Capabilities(NamedTuple):
    """What an engine can do; the manager refuses what it cannot, instead of pretending.

    `dask_bridge.capabilities` makes the README's table of them.
    """

    stops_running_tasks: bool = True
    """Whether a running task can be cancelled, and one that outlives its timeout be killed."""
    holds_results: bool = False
    """Whether large results stay with the engine until somebody asks for them."""
    queues: bool = False
    """Whether attempts beyond the capacity may be handed over: they wait in the engine, which saves a round trip."""
    bundles: bool = False
    """Whether short attempts may be handed over together, to run one after the other: see `Attempt.followers`."""
    keeps_notes: bool = False
    """Whether it is known which of those had ended, and which had begun, when their worker is lost."""


@dataclass(frozen=True)
class Capacity:
    """What the engine has now."""

    total: Limits
    """Of all nodes together; None in a field: not known, or without bound."""
    nodes: tuple[Limits, ...] = ()
    """Each node, or each that could be added; empty: not known."""
    slots: int | None = None
    """Attempts at once, whatever they take; None: without bound."""


@dataclass(slots=True)
class Attempt:
    """One attempt at a task, as the backend sees it."""

    key: str
    """Unique: the task's id and the attempt's number."""
    label: str
    """The function's name, for dashboards."""
    cpu: float
    memory: int
    gpu: float
    timeout: float | None
    payload: Any = field(repr=False)
    """What `Codec.encode_call` made."""
    report: Callable[[Attempt, Outcome], None] = field(repr=False)
    """To be called once, from any thread."""
    task: Any = field(default=None, repr=False)
    """The manager's own record."""
    share: Any = field(default=None, repr=False)
    """What it takes of the engine, perhaps together with its followers; the manager's own, too."""
    handle: Any = field(default=None, repr=False)
    """The backend's own."""
    followers: Sequence[Attempt] = field(default=(), repr=False)
    """Short ones that go along with it, to run after it in the same worker; only for an engine that `bundles`."""


class Backend(Protocol):
    """An engine that runs attempts.

    `start` and `stop` may be called from any thread and must not wait for the work. `Attempt.report` is called
    exactly once for each attempt that `start` accepted, and for each of its followers, whatever happens to its worker.
    """

    @property
    def name(self) -> str:
        """``"local"``, ``"ray"`` or the entry point's name."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def codec(self) -> Codec:
        """How calls are made into bytes, and outcomes out of them."""

    def capacity(self) -> Capacity:
        """Return what there is now; cheap, or remembered for a second or two."""

    def start(self, attempt: Attempt) -> None:
        """Begin the attempt; what goes wrong later is reported."""

    def stop(self, attempt: Attempt, *, force: bool) -> None:
        """Interrupt the attempt, or with ``force`` end its process; without effect when it has ended."""

    def started_at(self, attempt: Attempt) -> float | None:
        """Return when the attempt began to run, seconds since the epoch; None while it waits in the engine."""

    def reports(self, attempt: Attempt) -> bytes:
        """Return what an attempt under way has said of its progress so far; may be a moment old."""

    def fetch(self, payload: Any) -> Any:
        """Return the payload of an outcome that was ``held``."""

    def put(self, value: Any) -> Any:
        """Keep a value near the workers and return a handle that tasks take as an argument."""

    def wait(
        self,
        event: Callable[[float], bool],
        timeout: float | None,
        attempt: Attempt | None,
        under_way: Callable[[], Sequence[Attempt]],
    ) -> bool:
        """Wait until ``event(seconds)`` holds, at most ``timeout`` seconds; in a worker, let others use its CPU.

        ``attempt`` is the one that is waited for, if it is one; ``under_way`` gives all that are with the engine.
        """

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called when the capacity may have changed."""

    def alive(self) -> bool:
        """Whether the engine is still there; asked every second or so while work is under way."""

    def close(self) -> None:
        """Let go of the engine; ends what this backend started, and only that."""
