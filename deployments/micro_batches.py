"""Requests for one model that arrive together are scored in one call, where that is cheaper; nobody waits for others.

What arrives in one turn of the event loop is together: under load that is what came while the last turn was scored.
There is no timer. A request that is alone is scored at once; the next are put together when the last turn had several.
Whether it pays is measured as it goes: a call of scikit-learn costs 70 microseconds for 1 row or 64, one of Treelite
13 for each. Whether a row's answer depends on the rows beside it is looked at, too, again and again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from registry import LoadedModel

logger = logging.getLogger(__name__)

MOST = 64
"""Requests in one call."""
_COST = 10e-6
"""Seconds it takes to put a request with others: a future, and a turn of the loop. Its share of a call is on top."""
_QUIET = 7
"""Requests that are not looked at once two turns running had only one: looking is a turn of the loop, too."""
_RISE, _FALL = 1.02, 0.999
"""Times are the least of the recent ones: each new one may be so much longer. What does not pay is tried again."""
_SAME = 1e-6
_TOGETHER = (np.ndarray, list)
"""What rows can be put together in; an Arrow table comes for many rows at once."""

Found = tuple[NDArray[Any] | None, NDArray[Any] | None]
"""Labels and probabilities, as `LoadedModel.answer` gives them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a model: rows as `LoadedModel.answer` takes them, and which answers are wanted."""

    rows: Any
    labels: bool
    proba: bool

    def of(self, model: LoadedModel) -> Found:
        """Ask a model this alone."""
        return model.answer(self.rows, labels=self.labels, proba=self.proba)


class MicroBatches:
    """Scores what is asked, alone or with what arrived together with it. Belongs to one event loop."""

    def __init__(self) -> None:
        self._paces: WeakKeyDictionary[LoadedModel, _Pace] = WeakKeyDictionary()

    def answer(self, model: LoadedModel, asked: Asked) -> Found | asyncio.Future[Found]:
        """Return what a model answers, or a future of it when it is scored with others.

        Raises
        ------
        Exception
            What `LoadedModel.answer` raises; in the future, if there is one. It is that of the request alone.
        """
        pace = self._paces.get(model)
        if pace is None:
            pace = self._paces[model] = _Pace()
        if not isinstance(asked.rows, _TOGETHER) or (pace.turn is None and not pace.pays):
            return pace.alone(model, asked)
        if pace.turn is None:
            if pace.quiet:
                pace.quiet -= 1
                return pace.alone(model, asked)
            pace.turn = []
            asyncio.get_running_loop().call_soon(_end_turn, model, pace)
            if not pace.crowded:
                return pace.alone(model, asked)
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        pace.turn.append((asked, future))
        return future


class _Pace:
    """What a model's calls cost, and who is in its present turn."""

    def __init__(self) -> None:
        self.turn: list[tuple[Asked, asyncio.Future[Found]]] | None = None
        self.crowded = False
        self.quiet = 0
        self.independent = True
        self._alone = float("inf")
        self._together = 0.0
        self._batches = 0

    @property
    def pays(self) -> bool:
        return self.independent and self._together + _COST < self._alone

    def alone(self, model: LoadedModel, asked: Asked) -> Found:
        began = time.perf_counter()
        found = asked.of(model)
        self._alone = min(time.perf_counter() - began, self._alone * _RISE)
        self._together *= _FALL
        return found

    def together(self, model: LoadedModel, batch: list[Asked]) -> list[Found]:
        """Score a batch; raises when one of them cannot be."""
        began = time.perf_counter()
        rows: Any = (
            np.concatenate([asked.rows for asked in batch])
            if isinstance(batch[0].rows, np.ndarray)
            else [row for asked in batch for row in asked.rows]
        )
        wanted = {"labels": any(asked.labels for asked in batch), "proba": any(asked.proba for asked in batch)}
        labels, chances = model.answer(rows, **wanted)
        found: list[Found] = []
        end = 0
        for asked in batch:
            begin, end = end, end + len(asked.rows)
            found.append(
                (
                    labels[begin:end] if labels is not None and asked.labels else None,
                    chances[begin:end] if chances is not None and asked.proba else None,
                )
            )
        share = (time.perf_counter() - began) / len(batch)
        self._together = min(share, self._together * _RISE) if self._together else share
        self._batches += 1
        if self._batches & (self._batches - 1) == 0:  # the first, the second, the fourth, ...
            return self._checked(model, batch, found)
        return found

    def _checked(self, model: LoadedModel, batch: list[Asked], found: list[Found]) -> list[Found]:
        expected = [asked.of(model) for asked in batch]
        largest = max(_largest(answer) for answer in expected)
        if not all(_same(one, other, largest) for one, other in zip(expected, found, strict=True)):
            self.independent = False
            logger.warning("event=micro_batches_left_out model=%s reason=rows_depend", model.record.model_id)
        return expected


def _end_turn(model: LoadedModel, pace: _Pace) -> None:
    turn, pace.turn = pace.turn or [], None
    several = len(turn) > (1 if pace.crowded else 0)  # the first is among them only if it waited
    if not several and not pace.crowded:
        pace.quiet = _QUIET
    pace.crowded = several
    waiting = [(asked, future) for asked, future in turn if not future.done()]  # others have gone
    for start in range(0, len(waiting), MOST):
        _score(model, pace, waiting[start : start + MOST])


def _score(model: LoadedModel, pace: _Pace, waiting: list[tuple[Asked, asyncio.Future[Found]]]) -> None:
    if len(waiting) > 1 and pace.independent:
        try:
            answers = pace.together(model, [asked for asked, _ in waiting])
        except Exception as error:  # noqa: BLE001  (each gets its own, below)
            logger.debug("event=micro_batch_failed model=%s error=%r", model.record.model_id, error)
        else:
            for (_, future), found in zip(waiting, answers, strict=True):
                future.set_result(found)
            return
    for asked, future in waiting:
        try:
            future.set_result(pace.alone(model, asked))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is this request's)
            future.set_exception(error)


def _largest(found: Found) -> float:
    """Return the largest number among labels that are amounts; probabilities are at most 1."""
    labels = found[0]
    if labels is None or labels.dtype.kind != "f" or not labels.size:
        return 1.0
    return float(np.nanmax(np.abs(labels), initial=0.0))


def _same(one: Found, other: Found, largest: float) -> bool:
    for expected, found in zip(one, other, strict=True):
        if expected is None or found is None:
            if expected is not found:
                return False
        elif expected.dtype.kind == "f":
            # Sums that cancel are as exact as their parts.
            if not np.allclose(expected, found, rtol=_SAME, atol=_SAME * largest, equal_nan=True):
                return False
        elif not np.array_equal(expected, found):
            return False
    return True
