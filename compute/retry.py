"""Whether an attempt is repeated, and after what pause."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

BASE = 0.25
LONGEST = 60.0


def pause(attempt: int, factor: float, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait after a failed attempt.

    The bound grows by ``factor`` with each attempt, and the pause is drawn evenly below it ("full jitter"), so that
    tasks that failed together do not come back together. See M. Brooker, "Exponential backoff and jitter", AWS
    Architecture Blog, 2015.

    Parameters
    ----------
    attempt : int
        Number of the attempt that failed, from 1.
    factor : float
        ``task_defaults.backoff_factor``.
    draw : callable
        Gives numbers from 0 to 1.

    Examples
    --------
    >>> [pause(attempt, 2.0, draw=lambda: 1.0) for attempt in (1, 2, 3)]
    [0.25, 0.5, 1.0]
    """
    # By logarithms, since 1.5 ** 1751 is too large for a float.
    return min(LONGEST, BASE * math.exp(min(50.0, (attempt - 1) * math.log(factor)))) * draw()
