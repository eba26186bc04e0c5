"""What travels between the manager and a worker: a call one way, a reply the other.

Workers import this, so it needs the standard library and nothing else.
"""

from __future__ import annotations

import pickle
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

ATOMS = frozenset({int, float, bool, str, bytes, type(None), complex})
"""Types that the C pickler writes as they are; everything else goes through cloudpickle, which knows ``__main__``."""

ATOM_SIZE = 64 * 1024
OUT_OF_BAND = 64 * 1024
"""Buffers of this many bytes and more travel beside the pickle, without being copied into it."""


class Call(NamedTuple):
    """A function and its arguments on their way to a worker."""

    body: bytes
    """Pickle of ``(function as bytes, arguments, keyword arguments)``."""
    lifted: tuple[Any, ...] = ()
    """Handles from ``put`` among the arguments; the engine replaces them by their values."""
    nested: tuple[Any, ...] = ()
    """Things that only the engine can send (Ray's references, handles of actors), found inside the arguments."""
    buffered: bool = False
    """Whether the last of ``lifted`` is the list of buffers that belong to the body."""


class Reply(NamedTuple):
    """What came of a call."""

    code: int
    started_at: float
    seconds: float
    body: bytes
    buffers: Sequence[Any] = ()
    nested: Sequence[Any] = ()
    reports: bytes = b""
    """What the task said of its progress: see `compute.progress`."""


VALUE, ERROR, UNSENDABLE, TIMED_OUT, INTERRUPTED = range(5)

_HEADER = struct.Struct("<BddI")


def pack(reply: Reply) -> bytes:
    """Return a reply that has neither buffers nor nested things as one piece.

    Examples
    --------
    >>> unpack(pack(Reply(VALUE, 1.0, 0.5, b"body"))).body
    b'body'
    """
    head = _HEADER.pack(reply.code, reply.started_at, reply.seconds, len(reply.reports))
    return head + reply.reports + reply.body


def unpack(data: bytes) -> Reply:
    """Undo `pack`."""
    code, started_at, seconds, size = _HEADER.unpack_from(data)
    start = _HEADER.size + size
    return Reply(code, started_at, seconds, data[start:], reports=data[_HEADER.size : start])


def as_reply(value: Any) -> Reply:
    """Return the reply in what an engine holds: one piece, a packed head with the rest beside it, or as it is."""
    if type(value) is bytes:
        return unpack(value)
    if isinstance(value, Reply):
        return value
    head, body, buffers, nested = value
    return unpack(head)._replace(body=bytes(body), buffers=buffers, nested=nested)


class Slot(NamedTuple):
    """Stands in the arguments for ``lifted[number]``."""

    number: int


class ReplySlot(NamedTuple):
    """Stands in the arguments for the value in the reply ``lifted[number]``: the result of another task."""

    number: int


class Awaited(NamedTuple):
    """Among ``lifted``, until the task of this id has ended: its reply comes here."""

    task_id: str


_unpickling = threading.local()


def take_nested(index: int) -> Any:
    """Return what the engine carried for the pickle that is being read; the pickle calls this."""
    return _unpickling.nested[index]


def loads(body: bytes, buffers: Sequence[Any] = (), nested: Sequence[Any] = ()) -> Any:
    """Read a pickle that our own picklers wrote, in this project's other process."""
    if not nested:
        return pickle.loads(body, buffers=buffers)  # noqa: S301
    before = getattr(_unpickling, "nested", ())
    _unpickling.nested = nested
    try:
        return pickle.loads(body, buffers=buffers)  # noqa: S301
    finally:
        _unpickling.nested = before


def is_atom(value: Any) -> bool:
    """Whether the C pickler may write this value, and it is small.

    Examples
    --------
    >>> is_atom(3), is_atom([3]), is_atom(b"x" * 100_000)
    (True, False, False)
    """
    kind = type(value)
    return kind in ATOMS and (kind not in (str, bytes) or len(value) < ATOM_SIZE)


class Pickled(NamedTuple):
    """A value as bytes, buffers and what only the engine can send."""

    body: bytes
    buffers: list[pickle.PickleBuffer]
    nested: list[Any]


class Pickler(NamedTuple):
    """Makes values into bytes with the engine's own flavour of cloudpickle."""

    split: Callable[[Any], Pickled]
    """Large buffers, and what only the engine can send, apart."""
    dumps: Callable[[Any], bytes]
    """All in one piece."""


def plain_pickler() -> Pickler:
    """Return cloudpickle, for engines that have nothing of their own to send."""
    import cloudpickle

    def split(value: Any) -> Pickled:
        buffers: list[pickle.PickleBuffer] = []
        return Pickled(cloudpickle.dumps(value, protocol=5, buffer_callback=keep_large(buffers)), buffers, [])

    return Pickler(split, cloudpickle.dumps)


def keep_large(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return a buffer callback that appends large buffers to the list and leaves small ones in the pickle."""

    def callback(buffer: pickle.PickleBuffer) -> bool:
        try:
            large = buffer.raw().nbytes >= OUT_OF_BAND
        except BufferError:
            # Not contiguous: only the pickler can write it.
            return True
        if large:
            buffers.append(buffer)
        return not large

    return callback
