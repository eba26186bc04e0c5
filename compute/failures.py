"""Exceptions on their way from a worker: type, attributes, cause, notes and traceback all arrive.

A plain pickle loses the cause and the traceback, and fails for every class whose constructor takes other arguments
than it hands to `Exception`. Workers import this.
"""

from __future__ import annotations

import os
import pickle
import platform
import traceback
from collections.abc import Callable
from typing import Any

_CHAIN = 8


class RemoteFailure:
    """An exception taken apart; `rebuild` puts it together.

    Parameters
    ----------
    kind : str
        The class's name, for when it cannot be brought back.
    text : str
        The traceback.
    parts : bytes or None
        Pickle of the exception and its causes; None when it cannot be pickled.
    """

    __slots__ = ("kind", "parts", "reason", "summary", "text", "where")

    def __init__(self, kind: str, summary: str, text: str, where: str, parts: bytes | None, reason: str) -> None:
        self.kind = kind
        self.summary = summary
        self.text = text
        self.where = where
        self.parts = parts
        self.reason = reason

    def rebuild(self) -> BaseException:
        """Return the exception as it was, with the worker's traceback as a note, or `TaskFailed` with its text."""
        from compute.errors import TaskFailed

        reason = self.reason
        if self.parts is not None:
            try:
                chain = pickle.loads(self.parts)  # noqa: S301  (from our own worker)
                error = _join(chain)
            except Exception as problem:  # noqa: BLE001  (whatever the classes do when they are made again)
                reason = f"{type(problem).__name__}: {problem}"
            else:
                error.add_note(f"Traceback in the worker ({self.where}):\n{self.text}")
                return error
        failed = TaskFailed(
            f"the task raised {self.kind}: {self.summary}",
            hint=f"The exception itself could not be brought back ({reason}); its traceback is below.",
            context={"exception": self.kind},
        )
        failed.add_note(f"Traceback in the worker ({self.where}):\n{self.text}")
        return failed


def take_apart(error: BaseException, dumps: Callable[[Any], bytes]) -> bytes:
    """Return a pickled `RemoteFailure`."""
    # The first frames are ours, from the worker's loop to the function.
    text = "".join(traceback.format_exception(type(error), error, _skip_ours(error))).rstrip()
    where = f"process {os.getpid()} on {platform.node()}"
    kind, summary = type(error).__qualname__, _summary(error)
    parts: bytes | None = None
    reason = ""
    if isinstance(error, SystemExit):
        # Raised again where the result is asked for, it would end that process.
        reason = "SystemExit would end your process"
    else:
        try:
            parts = dumps(_split(error, _CHAIN, dumps))
        except Exception as problem:  # noqa: BLE001  (whatever the class does when it is pickled)
            reason = f"{type(problem).__name__}: {problem}"
    return pickle.dumps(RemoteFailure(kind, summary, text, where, parts, reason))


def _skip_ours(error: BaseException) -> Any:
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and "compute.attempt" in _module(frames):
        frames = frames.tb_next
    return frames


def _module(frames: Any) -> str:
    return str(frames.tb_frame.f_globals.get("__name__", ""))


def _summary(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:  # noqa: BLE001  (a __str__ that itself fails)
        return f"<its __str__ raised {type(problem).__name__}>"


def _split(error: BaseException, depth: int, dumps: Callable[[Any], bytes]) -> tuple[Any, ...]:
    """Return ``(whole, class, args, attributes, notes, cause)``; ``whole`` is a pickle that was seen to come back."""
    cause = None
    if depth and error.__cause__ is not None:
        cause = _split_cause(error.__cause__, depth - 1, dumps)
    notes = list(getattr(error, "__notes__", ()))
    try:
        whole = dumps(error)
        back = pickle.loads(whole)  # noqa: S301  (our own bytes, made on the line above)
        if type(back) is type(error) and _summary(back) == _summary(error):
            return whole, None, None, None, notes, cause
    except Exception:  # noqa: BLE001, S110  (its own __reduce__ or constructor; taken apart by hand instead)
        pass
    state = {key: value for key, value in vars(error).items() if key != "__notes__"}
    return None, type(error), error.args, state, notes, cause


def _split_cause(cause: BaseException, depth: int, dumps: Callable[[Any], bytes]) -> tuple[Any, ...]:
    parts = _split(cause, depth, dumps)
    try:
        dumps(parts)
    except Exception:  # noqa: BLE001  (whatever its class does: the error itself is to arrive anyway)
        from compute.errors import RemoteCause

        text = "".join(traceback.format_exception(cause)).rstrip()
        return _split(RemoteCause(type(cause).__qualname__, text), depth, dumps)
    return parts


def _join(parts: tuple[Any, ...]) -> BaseException:
    whole, kind, args, state, notes, cause = parts
    if whole is not None:
        error: BaseException = pickle.loads(whole)  # noqa: S301  (from our own worker)
    else:
        # Without its constructor, whose parameters nobody knows.
        error = kind.__new__(kind, *args)
        error.args = args
        vars(error).update(state)
    for note in notes:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    if cause is not None:
        error.__cause__ = _join(cause)
    return error
