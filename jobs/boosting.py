"""Round by round: stop when watched rows get no better, keep what is reached, and go on from it.

A training that is kept is fitted in stretches, each from the model of the one before, whether or not it was interrupted
in between: so both give the same model. numpy is used through the arrays it is given.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compute import report_progress
from jobs.checkpoints import Checkpoints
from jobs.families import ROUNDS, Family, Problem

if TYPE_CHECKING:
    from jobs.families import Matrix

logger = logging.getLogger(__name__)


@dataclass
class Watch:
    """Rows that are not fitted: training stops when they have not been predicted better for so many rounds.

    ``scores`` has the watched metric after each round, ``higher`` whether more of it is better.
    """

    matrix: Matrix
    truth: Matrix
    weights: Matrix | None
    patience: int
    scores: list[float] = field(default_factory=list)
    higher: bool = False

    def add(self, score: float, *, higher: bool = False) -> bool:
        """Take the score after a round, and say whether it is time to stop.

        Examples
        --------
        >>> watch = Watch(None, None, None, patience=2)
        >>> [watch.add(score) for score in (3.0, 2.0, 2.5, 2.4)], watch.best
        ([False, False, False, True], 2)
        """
        self.scores.append(score)
        self.higher = higher
        return self.stopped

    @property
    def best(self) -> int:
        """How many rounds did best."""
        return 1 + self.scores.index((max if self.higher else min)(self.scores))

    @property
    def stopped(self) -> bool:
        """Whether there is no use in going on."""
        return bool(self.scores) and len(self.scores) - self.best >= self.patience


@dataclass(frozen=True)
class Course:
    """What comes with a fit besides the rows: where it starts, what is watched, and where it is kept."""

    start: Any = None
    watch: Watch | None = None
    checkpoints: Checkpoints | None = None


def boost(
    family: Family, matrix: Matrix, target: Matrix, problem: Problem, weights: Matrix | None, course: Course
) -> Any:
    """Fit a model, by stretches if it is kept, and cut it to the rounds that did best if some rows are watched."""
    options: dict[str, Any] = {"weights": weights} if weights is not None else {}
    if course.watch is not None:
        options["watch"] = course.watch
    first = () if course.start is None else (course.start,)
    boosting = family.boosting
    before = 0 if course.start is None or boosting is None else boosting.count(course.start)
    if course.checkpoints is None:
        model = family.fit(matrix, target, problem, *first, **options)
    else:
        model = _by_stretches(family, matrix, target, problem, course, course.checkpoints, options)
    if course.watch is not None and boosting is not None:
        model = boosting.first(model, before + course.watch.best)
        logger.info("rounds=%d of=%d stopped_early=%s", course.watch.best, family.rounds(problem.params),
                    course.watch.stopped)  # fmt: skip
    return model


def _by_stretches(
    family: Family,
    matrix: Matrix,
    target: Matrix,
    problem: Problem,
    course: Course,
    checkpoints: Checkpoints,
    options: dict[str, Any],
) -> Any:
    boosting, watch = family.boosting, course.watch
    assert boosting is not None  # checked with the request
    dump, load = boosting.dump, boosting.load
    assert dump is not None
    assert load is not None
    total, done, model = family.rounds(problem.params), 0, course.start
    kept = checkpoints.newest()
    if kept is not None:
        done, model = kept.rounds, load(kept.model)
        if watch is not None:
            watch.scores, watch.higher = list(kept.scores), kept.higher
        logger.info("event=resumed rounds=%d of=%d", done, total)
    params = {name: value for name, value in problem.params.items() if name not in ROUNDS}
    while done < total and not (watch is not None and watch.stopped):
        step = min(checkpoints.every, total - done)
        # Another seed for each stretch: the draws of the first would be repeated.
        stretch = replace(problem, params={**params, "num_boost_round": step}, seed=problem.seed + done)
        model = family.fit(matrix, target, stretch, *(() if model is None else (model,)), **options)
        done += step
        scores = [] if watch is None else watch.scores
        checkpoints.save(dump(model), done, scores, higher=watch is not None and watch.higher)
        report_progress(done / total, f"round {done} of {total}")
    return model
