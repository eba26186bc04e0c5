"""Asks the shadow of a name what was just answered, beside the requests, and compares.

It has one thread and a bounded number of questions: what is beyond is skipped and counted, and never waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deployments.arms import Arms, Choice
    from deployments.question import Answer, Question
    from registry import LoadedModel

logger = logging.getLogger(__name__)

WAITING = 32
"""Questions to shadows that a replica holds at once."""
_TOLERANCE = 1e-6
"""Relative difference up to which two numbers are one."""


class Shadows:
    """Asks shadows.

    Parameters
    ----------
    model : callable
        Gives the model of a reference.
    arms : Arms
        Takes the counts.
    """

    def __init__(self, model: Callable[[str], Awaitable[LoadedModel]], arms: Arms) -> None:
        self._model = model
        self._arms = arms
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow")
        self._asking: set[asyncio.Task[None]] = set()

    def ask_soon(
        self,
        choice: Choice,
        question: Question[Answer],
        answer: Answer,
        told: Callable[[LoadedModel, Answer], None] | None = None,
    ) -> None:
        """Ask the shadow of a choice when the present request is answered; `told` gets what it says."""
        asyncio.get_running_loop().call_soon(self._begin, choice, question, answer, told)

    def _begin(self, choice: Choice, question: Question[Any], answer: Any, told: Any) -> None:
        if len(self._asking) >= WAITING:
            self._arms.count(choice, Counter(skipped=1), shadow=True)
            return
        task = asyncio.get_running_loop().create_task(self._ask(choice, question, answer, told))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, choice: Choice, question: Question[Any], answer: Any, told: Any) -> None:
        try:
            model = await self._model(choice.shadow_reference)  # loading it is not the shadow's latency
            with self._arms.counting(choice, shadow=True):
                other = await asyncio.get_running_loop().run_in_executor(self._thread, question.answer, model)
        except Exception as error:  # noqa: BLE001  (whatever the shadow fails with: it is counted, and nobody waits)
            logger.warning("event=shadow_failed name=%s shadow=%s error=%r", choice.name, choice.shadow, error)
            return
        self._arms.count(choice, compare(question.outputs(answer), question.outputs(other)), shadow=True)
        if told is not None:
            told(model, other)


def compare(answer: Mapping[str, Any], other: Mapping[str, Any]) -> Counter[str]:
    """Return how many rows were compared, how many differ, and of numbers the sum of the differences.

    Examples
    --------
    >>> compare({"predict": [1.0, 2.0]}, {"predict": [1.0, 2.5]})
    Counter({'rows': 2, 'disagreed': 1, 'difference': 0.5})
    >>> compare({"predict": ["a", "b"]}, {"predict": ["a", "c"]})
    Counter({'rows': 2, 'disagreed': 1})
    """
    name = next((name for name in answer if name in other), None)
    if name is None:
        return Counter()
    ours, theirs = np.asarray(answer[name]), np.asarray(other[name])
    if ours.shape != theirs.shape:
        return Counter(rows=len(ours), disagreed=len(ours))
    if ours.dtype.kind in "iuf" and theirs.dtype.kind in "iuf":
        gaps = np.abs(ours.astype(float) - theirs.astype(float)).reshape(len(ours), -1).max(axis=1, initial=0.0)
        sizes = np.abs(ours.astype(float)).reshape(len(ours), -1).max(axis=1, initial=0.0)
        counts: Any = Counter(rows=len(ours), disagreed=int((gaps > _TOLERANCE * np.maximum(sizes, 1.0)).sum()))
        counts["difference"] = float(gaps.sum())
        return counts  # type: ignore[no-any-return]
    return Counter(rows=len(ours), disagreed=int((ours != theirs).reshape(len(ours), -1).any(axis=1).sum()))
