"""One attempt at a task, in the worker: read the call, run the function, make a reply of what comes.

Every engine's worker runs this; it needs the standard library and cloudpickle, and must stay quick.
"""

from __future__ import annotations

import pickle
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from compute.failures import take_apart
from compute.lineage import Family
from compute.progress import Reports
from compute.wire import (
    ERROR,
    INTERRUPTED,
    TIMED_OUT,
    UNSENDABLE,
    VALUE,
    Pickler,
    Reply,
    ReplySlot,
    Slot,
    as_reply,
    is_atom,
    loads,
)


class Overdue(BaseException):
    """Raised in the function when its time is up; not an `Exception`, so that it is not caught by accident."""


_functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
_FUNCTIONS = 256


def run(
    body: bytes,
    lifted: Sequence[Any],
    nested: Sequence[Any],
    buffered: bool,
    pickler: Pickler,
    send: Callable[[bytes], None],
    guard: Callable[[Callable[[], Any]], Any] | None = None,
) -> Reply:
    """Run one call.

    Parameters
    ----------
    body, lifted, nested, buffered
        Of the `Call`, with the handles replaced by their values.
    pickler : Pickler
        The engine's.
    send : callable
        Takes what the function reports of its progress to the manager.
    guard : callable, optional
        Runs the function under a deadline; raises `Overdue` when it has passed.

    Returns
    -------
    Reply
        Whatever the function does.
    """
    started_at, clock = time.time(), time.perf_counter()
    code, result = VALUE, None
    reports = Reports(send)
    family = Family()
    try:
        function, args, kwargs = _read(body, lifted, nested, buffered)
        result = function(*args, **kwargs) if guard is None else guard(lambda: function(*args, **kwargs))
    except Overdue:
        code = TIMED_OUT
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:  # noqa: BLE001  (the task's own failure: it goes to who asks for the result)
        code, result = ERROR, take_apart(error, pickler.dumps)
    seconds = time.perf_counter() - clock
    told = reports.close()
    family.close(cancel=code in (TIMED_OUT, INTERRUPTED))
    if code == VALUE:
        reply = _reply(result, started_at, seconds, pickler)
    else:
        reply = Reply(code, started_at, seconds, result or b"")
    return reply._replace(reports=told) if told else reply


def _read(body: bytes, lifted: Sequence[Any], nested: Sequence[Any], buffered: bool) -> Any:
    if not lifted and not nested:
        blob, args, kwargs = pickle.loads(body)  # noqa: S301  (from our own manager)
    else:
        buffers = lifted[-1] if buffered else ()
        blob, args, kwargs = loads(body, buffers, nested)
        args = [_take(value, lifted) for value in args]
        kwargs = {key: _take(value, lifted) for key, value in kwargs.items()}
        if type(blob) is Slot:
            blob = lifted[blob.number]
    function = _functions.get(blob)
    if function is None:
        function = loads(blob)
        # Kept, so that a function called a thousand times is read once; its bytes hold all that it captured.
        _functions[blob] = function
        if len(_functions) > _FUNCTIONS:
            _functions.popitem(last=False)
    return function, args, kwargs


def _take(value: Any, lifted: Sequence[Any]) -> Any:
    if type(value) is Slot:
        return lifted[value.number]
    if type(value) is ReplySlot:
        reply = as_reply(lifted[value.number])
        return loads(reply.body, reply.buffers, reply.nested)
    return value


def _reply(value: Any, started_at: float, seconds: float, pickler: Pickler) -> Reply:
    if is_atom(value):
        return Reply(VALUE, started_at, seconds, pickle.dumps(value, 5))
    try:
        body, buffers, nested = pickler.split(value)
    except Exception as error:  # noqa: BLE001  (whatever the value's classes do when they are pickled)
        text = f"a {_path(type(value))} ({type(error).__name__}: {error})"
        return Reply(UNSENDABLE, started_at, seconds, text.encode())
    return Reply(VALUE, started_at, seconds, body, buffers, nested)


def _path(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
