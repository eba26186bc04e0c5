"""A replica's part in the traffic of a name: it chooses the arm of each request, and reports what the arms did."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compute.errors import ComputeError
from deployments.freshness import Fresh
from deployments.threads import Threads
from registry import SHADOW, Traffic, latency_bucket, pick_arm

if TYPE_CHECKING:
    from deployments.question import Sticky
    from registry import ModelRegistry

logger = logging.getLogger(__name__)

FOLLOWED_WITHIN = 1.0
"""Seconds after which a change of the traffic counts, at the latest."""
_REPORT_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Choice:
    """The arm that answers a request, and the shadow that is asked as well."""

    name: str
    revision: int
    arm: str
    shadow: str | None

    @property
    def reference(self) -> str:
        """What the registry takes for the arm."""
        return _reference(self.name, self.arm)

    @property
    def shadow_reference(self) -> str:
        """What the registry takes for the shadow."""
        assert self.shadow is not None  # else nobody asks
        return _reference(self.name, self.shadow)


class Arms:
    """Knows the traffic of all names, at most `FOLLOWED_WITHIN` out of date.

    Parameters
    ----------
    registry : ModelRegistry
        Whom to ask, and to tell.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._call = Threads(2, "traffic").call
        self._plans: Fresh[None, dict[str, Traffic]] = Fresh(
            lambda _: self._call(registry.traffic), ttl=FOLLOWED_WITHIN, grace=60.0
        )
        self._counts: dict[tuple[str, int], dict[str, Counter[str]]] = {}
        self._reporting: asyncio.Task[None] | None = None

    async def choose(self, reference: str, sticky: Sticky) -> Choice | None:
        """Return the arm for a request to a name; None when its traffic is not shared out, or a version is named."""
        plans = await self._plans.get(None)
        traffic = plans.get(reference) if plans else None
        if traffic is None or traffic.plan is None:
            return None
        plan = traffic.plan
        key = sticky(plan.sticky) if plan.sticky is not None else None
        mirrored = plan.shadow is not None and random.random() < plan.shadow_fraction  # noqa: S311
        arm = pick_arm(plan, traffic.name, key)
        return Choice(traffic.name, traffic.revision, arm, plan.shadow if mirrored else None)

    @contextmanager
    def counting(self, choice: Choice, *, shadow: bool = False) -> Iterator[None]:
        """Count what is done here as a request to the arm, or to the shadow, of a choice."""
        started = time.perf_counter()
        counts: Counter[str] = Counter(requests=1)
        try:
            yield
        except asyncio.CancelledError:
            counts.clear()  # who asked has gone; that tells nothing of the arm
            raise
        except BaseException:
            counts["errors"] += 1
            raise
        finally:
            if counts:
                counts[latency_bucket(time.perf_counter() - started)] += 1
                self.count(choice, counts, shadow=shadow)

    def count(self, choice: Choice, counts: Counter[str], *, shadow: bool) -> None:
        """Add to the counts of an arm, or of the shadow."""
        arm = f"{SHADOW}{choice.shadow}" if shadow else choice.arm
        arms = self._counts.setdefault((choice.name, choice.revision), {})
        arms.setdefault(arm, Counter()).update(counts)
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.get_running_loop().create_task(self._report_soon())

    async def report(self) -> None:
        """Tell the registry what was counted since the last time."""
        counts, self._counts = self._counts, {}
        for (name, revision), arms in counts.items():
            plain = {arm: dict(each) for arm, each in arms.items()}
            try:
                await self._call(self._registry.report_traffic, name, revision, plain)
            except ComputeError as error:
                logger.warning("event=traffic_not_reported name=%s action=counts_are_lost error=%s", name, error)

    async def _report_soon(self) -> None:
        while self._counts:
            await asyncio.sleep(_REPORT_EVERY)
            await self.report()


def _reference(name: str, target: str) -> str:
    return f"{name}:{target}" if target.isdecimal() else f"{name}@{target}"
