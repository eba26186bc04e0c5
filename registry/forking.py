"""What is to happen to locks and threads when this process is forked."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forked(Protocol):
    """An object whose locks may be held by other threads at the moment of a fork."""

    def before_fork(self) -> None:
        """Wait until it is in no state that must not be copied, and keep it from changing."""

    def after_fork(self, *, in_child: bool) -> None:
        """Let it change again; in the child, without the threads that used it."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()
_forking = threading.local()


def survive_forks(forked: Forked) -> None:
    """Tell an object of every fork of this process, as long as it lives."""
    _known.add(forked)


def _before() -> None:
    _forking.told = list(_known)
    for forked in _forking.told:
        forked.before_fork()


def _after(*, in_child: bool) -> None:
    for forked in _forking.told:
        forked.after_fork(in_child=in_child)
    _forking.told = []


os.register_at_fork(
    before=_before,
    after_in_parent=lambda: _after(in_child=False),
    after_in_child=lambda: _after(in_child=True),
)
