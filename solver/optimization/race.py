"""Several engines race for one program: what one finds hard, another often does not.

The first runs alone for a few seconds, since most programs are solved by then. Then others run beside it, one on each
further CPU: of those that were asked for, or of those that are idle. An engine that can search in another way does,
beside the first, and with more CPUs than engines they run again, each time with the next seed. The first answer that
settles the question, and that our check confirms, ends the race; the others stop and leave their best solution.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from solver.optimization.engine import Options, Search
from solver.optimization.job import Incumbent, Job
from solver.optimization.judge import SETTLED, UNSETTLED, Solution, judge
from solver.optimization.model import Model
from solver.optimization.process import Run, run_job
from solver.optimization.spare import take_cpu

ALONE = 3.0
"""Seconds for which the first engine runs alone, from when its process is up."""
MOST_SPARE = 3
"""Engines that run on idle CPUs, at most."""
_SEARCHES: Mapping[str, Sequence[Search]] = {"scip": ("branching", "default")}
"""Of those that have more than one way, in the order in which they are tried beside another engine."""
_MOST = 8
"""Processes that race for one program: each holds a copy of it, and the ninth seed seldom finds what eight did not."""
_SEEDS = 2**31
_LEAST_SECONDS = 0.5
_LOOK = 0.05
_ASK_AGAIN = 2.0

Progress = Callable[[float, Incumbent | None], None]
Found = tuple[str, Run, Solution]


def race(
    program: Model,
    options: Options,
    engines: Sequence[str],
    *,
    memory: int | None = None,
    progress: Progress | None = None,
    spare: bool = False,
) -> list[Found]:
    """Let engines race, as many at once as there are threads.

    Parameters
    ----------
    program : Model
        To be minimised.
    options : Options
        Each engine has one of the threads.
    engines : sequence of str
        In the order in which they begin.
    memory : int, optional
        Bytes that each process may take.
    progress : callable, optional
        Told of the best solution of all.
    spare : bool
        Whether to use CPUs that are idle, besides.

    Returns
    -------
    list of (engine, run, solution)
        In the order in which they ended.
    """
    return _Race(program, options, engines, memory, progress, spare=spare).run()


class _Race:
    def __init__(
        self,
        program: Model,
        options: Options,
        engines: Sequence[str],
        memory: int | None,
        progress: Progress | None,
        *,
        spare: bool,
    ) -> None:
        self._program, self._options, self._memory, self._progress = program, options, memory, progress
        self._spare = spare
        self._waiting = deque(_entrants(options, engines, options.threads + (MOST_SPARE if spare else 0)))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._resisted = threading.Event()
        self._found: list[Found] = []
        self._best: Incumbent | None = None
        self._started = time.monotonic()
        self._begun = math.inf

    def run(self) -> list[Found]:
        lanes = min(self._options.threads, len(self._waiting))
        more = min(len(self._waiting) - lanes, MOST_SPARE) if self._spare else 0
        with ThreadPoolExecutor(lanes + more, thread_name_prefix="race") as threads:
            try:
                futures = [threads.submit(self._lane, first=number == 0) for number in range(lanes)]
                futures += [threads.submit(self._spare_lane) for _ in range(more)]
                for future in futures:
                    future.result()
            finally:
                # Also when the wait was interrupted: the engines stop, and nothing is left behind.
                self._over.set()
        return self._found

    def _lane(self, *, first: bool) -> None:
        """Run engines on a CPU that is ours."""
        if first or self._hard():
            self._engines()

    def _spare_lane(self) -> None:
        """Run engines on a CPU that is idle, when there is one."""
        if not self._hard():
            return
        while self._wanted():
            give = take_cpu(self._wanted)
            if give is not None:
                try:
                    self._engines()
                finally:
                    give()
                return
            if self._over.wait(_ASK_AGAIN):
                return

    def _hard(self) -> bool:
        """Wait until the program has resisted for long enough; False when it has not, and the race is over."""
        while time.monotonic() < self._begun + ALONE and not self._resisted.is_set():
            if self._over.wait(_LOOK) or not self._waiting:
                return False
        return True

    def _wanted(self) -> bool:
        return bool(self._waiting) and not self._over.is_set() and self._left() > _LEAST_SECONDS

    def _left(self) -> float:
        return self._started + self._options.time_limit - time.monotonic()

    def _engines(self) -> None:
        """Run one engine after another while there are some, and none has settled it."""
        while not self._over.is_set():
            left = self._left()
            with self._lock:
                if not self._waiting or (left < _LEAST_SECONDS and self._found):
                    return
                engine, options = self._waiting.popleft()
            options = options._replace(time_limit=max(left, _LEAST_SECONDS))
            job = Job(self._program, engine, options, self._memory)
            run = run_job(job, progress=self._tell, stopped=self._over.is_set, ready=self._begin)
            solution = judge(self._program, run, self._options)
            with self._lock:
                self._found.append((engine, run, solution))
                if solution.reason in UNSETTLED:
                    # Another seed would meet the same.
                    self._waiting = deque(one for one in self._waiting if one[0] != engine)
            if solution.reason in SETTLED:
                self._over.set()
            elif solution.reason in UNSETTLED:
                self._resisted.set()

    def _begin(self) -> None:
        self._begun = min(self._begun, time.monotonic())

    def _tell(self, _: float, best: Incumbent | None) -> None:
        with self._lock:
            if best is not None and (self._best is None or best.objective < self._best.objective):
                self._best = best
            leading = self._best
        if self._progress is not None:
            self._progress(time.monotonic() - self._started, leading)


def _entrants(options: Options, engines: Sequence[str], least: int) -> list[tuple[str, Options]]:
    """Return each engine once, and again with other seeds and ways of searching while there are CPUs for them."""
    found = []
    for number in range(max(min(least, _MOST), len(engines))):
        turn, place = divmod(number, len(engines))
        # The one that begins has its way already: in later turns it is the last.
        engine = engines[place if turn == 0 else (place + 1) % len(engines)]
        searches = _SEARCHES.get(engine, ("default",)) if number else ("default",)
        search = searches[turn % len(searches)]
        found.append((engine, options._replace(threads=1, seed=(options.seed + turn) % _SEEDS, search=search)))
    return found
