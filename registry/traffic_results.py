"""What the arms of each name did, as the replicas report it, and the rollbacks that follow from it.

Measurements, not state: they are of the present revision of a name's traffic, and begin anew with its next one, or when
the process that keeps them ends. What is decided from them is a change of the registry like any other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from compute.errors import ComputeError, RevisionMismatch
from registry.traffic import SHADOW, Counts, Traffic, give_up, judge, summary

logger = logging.getLogger(__name__)

Report = Mapping[str, Mapping[str, float]]
"""Counts by arm, since the report before."""


@dataclass
class _Name:
    revision: int
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    total: dict[str, Counts] = field(default_factory=dict)
    recent: deque[tuple[float, Report]] = field(default_factory=deque)


class TrafficResults:
    """Takes reports; safe to use from several threads.

    Parameters
    ----------
    current : callable
        Returns the traffic of a name now.
    change : callable
        Makes a plan that of a name, if its traffic is still at a revision, and notes the reason.
    """

    def __init__(self, current: Callable[[str], Traffic | None], change: Callable[..., Any]) -> None:
        self._current = current
        self._change = change
        self._names: dict[str, _Name] = {}
        self._lock = threading.Lock()

    def report(self, name: str, revision: int, arms: Report) -> None:
        """Take what the arms of a name did at a revision; what is of another one by now is left aside."""
        traffic = self._current(name)
        if traffic is None or traffic.plan is None or traffic.revision != revision:
            return
        window = traffic.plan.rollback.window if traffic.plan.rollback is not None else 0.0
        now = time.monotonic()
        with self._lock:
            kept = self._names.get(name)
            if kept is None or kept.revision != revision:
                kept = self._names[name] = _Name(revision)
            _add(kept.total, arms)
            kept.recent.append((now, arms))
            while kept.recent and kept.recent[0][0] < now - window:
                kept.recent.popleft()
            recent: dict[str, Counts] = {}
            for _, each in kept.recent:
                _add(recent, each)
        verdict = judge(traffic.plan, recent)
        if verdict is None:
            return
        arm, reason = verdict
        try:
            self._change(name, give_up(traffic.plan, arm), revision=revision, reason=reason)
        except RevisionMismatch:
            return  # someone was faster
        except ComputeError:
            logger.exception("event=rollback_failed name=%s arm=%s action=next_report_tries_again", name, arm)
            return
        logger.warning("event=rolled_back name=%s arm=%s reason=%r", name, arm, reason)

    def of(self, traffic: Traffic) -> dict[str, Any]:
        """Return what the arms of a name did since its traffic was last changed."""
        with self._lock:
            kept = self._names.get(traffic.name)
            if kept is None or kept.revision != traffic.revision:
                return {"since": None, "arms": {}, "shadow": None}
            arms = {arm: summary(counts) for arm, counts in kept.total.items() if not arm.startswith(SHADOW)}
            shadow = [summary(counts) for arm, counts in kept.total.items() if arm.startswith(SHADOW)]
            return {"since": kept.since.isoformat(), "arms": arms, "shadow": shadow[0] if shadow else None}


def _add(total: dict[str, Counts], arms: Report) -> None:
    for arm, counts in arms.items():
        total.setdefault(arm, Counter()).update(counts)
