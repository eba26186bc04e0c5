"""Grow a random forest in the warm workers of a cluster: each some of its trees, from all rows.

The rows go to the object store once, and the workers of a node read them there. The seed of a tree comes from its place
in the forest, so the model is the one that a single process makes. When a worker dies, only trees that were not done
are grown again. ray is imported inside functions.

Ray's own backend of joblib sends all rows again with each batch of trees, and starts processes that import
scikit-learn anew: benchmarks/jobs/forest.py has both side by side.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compute import Config
from jobs import warm_pool
from jobs.families import Family, Problem
from jobs.family_sklearn import fit_estimator, make_forest, settled
from jobs.planner import Plan

if TYPE_CHECKING:
    from jobs.families import Matrix


def over_workers(family: Family, plan: Plan, config: Config) -> Family:
    """Return the family that grows its trees as the plan says."""
    return replace(family, fit=functools.partial(_fit, plan, config))


def _fit(
    plan: Plan, config: Config, matrix: Matrix, target: Matrix, problem: Problem, *, weights: Matrix | None = None
) -> Any:
    import ray

    forest = make_forest(replace(problem, threads=plan.threads))
    asked = forest.get_params()
    parts = _parts(forest.n_estimators, plan.workers)
    rows = [ray.put(matrix), ray.put(target), None if weights is None else ray.put(weights)]
    grown: dict[int, Any] = {}

    def work(crew: warm_pool.Crew) -> None:
        missing = [number for number in range(len(parts)) if number not in grown]
        calls = [(_grow, forest, problem, *parts[number], *rows) for number in missing]
        for place, part in crew.as_each_ends(calls, range(len(missing))):
            grown[missing[place]] = part

    warm_pool.with_workers(work, len(parts), plan, config)
    whole = grown[0]
    whole.estimators_ = [tree for number in range(len(parts)) for tree in grown[number].estimators_]
    return settled(whole.set_params(n_estimators=asked["n_estimators"], warm_start=asked["warm_start"]))


def _parts(trees: int, workers: int) -> Sequence[tuple[int, int]]:
    """Cut the trees for so many workers: of each part its first tree, and the one after its last.

    Examples
    --------
    >>> _parts(5, 2), _parts(1, 4)
    ([(0, 2), (2, 5)], [(0, 1)])
    """
    count = min(trees, workers)
    cuts = [trees * number // count for number in range(count + 1)]
    return list(itertools.pairwise(cuts))


def _grow(
    _state: dict[str, Any],
    forest: Any,
    problem: Problem,
    first: int,
    end: int,
    matrix: Matrix,
    target: Matrix,
    weights: Matrix | None,
) -> Any:
    """Grow some trees: as scikit-learn goes on from a forest of the first ones, whose seeds it passes over."""
    forest.set_params(warm_start=True, n_estimators=end)
    forest.estimators_ = [None] * first
    with warnings.catch_warnings():
        # It warns of rows that may differ between the calls; they are the same.
        warnings.filterwarnings("ignore", "class_weight presets", UserWarning)
        fit_estimator(forest, matrix, target, problem, sample_weight=weights)
    forest.estimators_ = forest.estimators_[first:]
    return forest
