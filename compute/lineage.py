"""Who submitted what: the tasks that an attempt submitted are cancelled when it is interrupted or overdue.

Where an interruption ends the process, its managers end with it. This is for processes that live on: their managers
are shared by all that runs there. Workers import this; it needs the standard library only.
"""

from __future__ import annotations

import contextvars
import weakref
from typing import Protocol


class Manager(Protocol):
    """What submits tasks."""

    def cancel_family(self, family: Family) -> None:
        """Cancel what the attempt submitted and has not ended."""


class Family:
    """The tasks that one attempt submits; made where it begins, in the thread that runs it."""

    __slots__ = ("__weakref__", "_managers", "_token")

    def __init__(self) -> None:
        self._managers: weakref.WeakSet[Manager] | None = None
        self._token = _current.set(self)

    def join(self, manager: Manager) -> None:
        """Remember a manager through which it submits."""
        if self._managers is None:
            self._managers = weakref.WeakSet()
        self._managers.add(manager)

    def close(self, *, cancel: bool) -> None:
        """End the attempt, and with ``cancel`` what it submitted."""
        _current.reset(self._token)
        if cancel:
            for manager in list(self._managers or ()):
                manager.cancel_family(self)


def current() -> Family | None:
    """Return the family of the attempt that this thread runs."""
    return _current.get()


_current: contextvars.ContextVar[Family | None] = contextvars.ContextVar("compute_family", default=None)
