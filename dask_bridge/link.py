"""The connection to a Dask scheduler, which may be restarted: whoever answers then knows nothing of us.

Dask is imported inside functions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

RETURN = 60.0
"""Seconds that a scheduler may be away."""
_LOOK = 0.1
_COLLECT = 0.001


class Link:
    """Introduces a client to every scheduler it meets at its address: our plugins, and who listens to what.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    topic : str
        Where workers tell what happens.
    listener : callable
        Takes each event of the topic; called in the client's loop.
    """

    def __init__(self, client: Any, topic: str, listener: Callable[[Any], None]) -> None:
        self._client = client
        self._topic = topic
        self._listener = listener
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[], None], Callable[[str], None]]] = []
        # Given to the client for its first connection, that it gives up a wrong address soon, and kept for all others.
        client._timeout = RETURN
        self._introduce()

    @property
    def up(self) -> bool:
        """Whether the scheduler is there, and knows us."""
        return bool(self._client.status == "running" and self._client.scheduler_comm is self._known)

    @property
    def gone(self) -> bool:
        """Whether nobody tries any more to reach it."""
        return self._client.status not in ("running", "connecting")

    def when_up(self, action: Callable[[], None], give_up: Callable[[str], None]) -> None:
        """Run an action now, or when the scheduler is back; or ``give_up`` with the reason when it does not return."""
        if self.up:
            action()
            return
        with self._lock:
            self._waiting.append((action, give_up))
            first = len(self._waiting) == 1
        if first:
            threading.Thread(target=self._return, name="compute-dask-return", daemon=True).start()

    def _introduce(self) -> None:
        from dask_bridge.plugins import RunOnce, StopUnwanted

        known = self._client.scheduler_comm
        # The client collects what it sends for ten milliseconds, for which every single task would wait.
        known.interval = _COLLECT
        self._client.register_plugin(RunOnce())
        self._client.register_plugin(StopUnwanted())
        self._client.subscribe_topic(self._topic, self._listener)
        self._known = known

    def _return(self) -> None:
        """Wait for the scheduler, and then do what waited for it."""
        logger.warning("backend=dask event=scheduler_away")
        while not self.up and not self.gone:
            try:
                if self._client.status == "running":
                    self._introduce()
            except OSError:
                logger.info("backend=dask event=scheduler_away_again", exc_info=True)
            time.sleep(_LOOK)
        logger.warning("backend=dask event=%s", "scheduler_gone" if self.gone else "scheduler_back")
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for action, give_up in waiting:
            if self.gone:
                give_up("the Dask scheduler did not come back")
                continue
            try:
                action()
            except Exception as error:  # noqa: BLE001  (gone again, above all; nobody else would hear of it)
                give_up(f"it could not be handed over ({type(error).__name__}: {error})")
