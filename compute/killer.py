"""A timer that ends the worker's process: for functions that neither return nor let themselves be interrupted."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time


class Killer:
    """Ends this process at a time, whatever it is doing then, the interpreter's lock held or not.

    On Linux a timer of the kernel that sends SIGKILL: 2 microseconds to set. Elsewhere faulthandler's thread.
    """

    def __init__(self) -> None:
        self._timer: ctypes.c_void_p | None = None
        self._owner = 0

    def arm(self, seconds: float) -> None:
        """Set the time."""
        if sys.platform != "linux":
            faulthandler.dump_traceback_later(seconds, exit=True)
            return
        if self._owner != os.getpid():
            self._create()
        self._set(seconds)

    def disarm(self) -> None:
        """Call it off."""
        if sys.platform != "linux":
            faulthandler.cancel_dump_traceback_later()
        else:
            self._set(0.0)

    def _create(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # struct sigevent: a value, the signal, how to notify (0: by the signal), filled up to 64 bytes.
        event = (ctypes.c_int * 16)()
        event[2] = signal.SIGKILL
        timer = ctypes.c_void_p()
        if self._libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise OSError(ctypes.get_errno(), "timer_create failed")
        self._timer, self._owner = timer, os.getpid()

    def _set(self, seconds: float) -> None:
        # struct itimerspec: an interval and a value, each seconds and nanoseconds; zero disarms.
        spec = (ctypes.c_long * 4)(0, 0, int(seconds), int(seconds % 1 * 1e9))
        if self._libc.timer_settime(self._timer, 0, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timer_settime failed")
