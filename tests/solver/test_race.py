"""Engines race for a program that resists the first of them."""

from __future__ import annotations

import numpy as np
import pytest

from solver.optimization.engine import Options
from solver.optimization.files import read_program
from solver.optimization.model import minimised
from solver.optimization.race import ALONE, race
from solver.optimization.solve import solve_program
from solver.optimization.spare import take_cpu
from tests.solver.conftest import HARD, INSTANCES, solving, until


def test_an_easy_program_is_solved_by_one_engine_alone() -> None:
    solution = solve_program(read_program(INSTANCES / "p0033.mps.gz"), Options(time_limit=30, threads=2))
    assert (solution.reason, [attempt.engine for attempt in solution.attempts]) == ("OPTIMAL", ["highs"])


def test_an_engine_that_cannot_is_followed_at_once() -> None:
    program = read_program(INSTANCES / "p0033.mps.gz")
    found = race(program, Options(time_limit=60, threads=2), ["clarabel", "highs"])
    assert [(engine, solution.reason) for engine, _, solution in found] == [
        ("clarabel", "OTHER_ERROR"), ("highs", "OPTIMAL"),
    ]  # fmt: skip


def test_who_cannot_is_not_asked_with_another_seed() -> None:
    program = read_program(INSTANCES / "afiro.mps.gz")
    found = race(program, Options(time_limit=60, threads=4), ["cp-sat", "slsqp"])
    assert {solution.reason for _, _, solution in found} == {"OTHER_ERROR"}
    assert [(engine, run.options.seed) for engine, run, _ in found if engine == "cp-sat"] == [("cp-sat", 0)]


def test_a_hard_program_is_worked_on_by_several_and_the_best_of_all_is_kept() -> None:
    seen: list[float] = []
    solution = solve_program(
        read_program(HARD),
        Options(time_limit=8, threads=2),
        progress=lambda _, best: seen.append(np.inf if best is None else best.objective),
    )
    assert {attempt.engine for attempt in solution.attempts} >= {"highs", "scip"}
    assert (solution.reason, solution.limit) == ("FEASIBLE", "TIME")
    assert solution.check is not None
    assert solution.check.objective <= min(seen) + 1e-6
    assert seen == sorted(seen, reverse=True)


def test_beside_another_engine_scip_branches_at_once_and_more_cpus_mean_more_seeds() -> None:
    solution = solve_program(read_program(HARD), Options(time_limit=8, threads=5, seed=7))
    assert sorted((attempt.engine, attempt.seed, attempt.search) for attempt in solution.attempts) == [
        ("highs", 7, "default"), ("highs", 8, "default"),
        ("scip", 7, "branching"), ("scip", 8, "default"), ("scip", 9, "branching"),
    ]  # fmt: skip
    assert (solution.reason, solution.run.options.seed) in {("FEASIBLE", 7), ("FEASIBLE", 8), ("FEASIBLE", 9)}


@pytest.mark.slow
def test_the_first_proof_ends_the_race() -> None:
    # CP-SAT does not prove this one within a minute; HiGHS, which begins later, does within seconds.
    program = minimised(read_program(INSTANCES / "l152lav.mps.gz"))
    solve_program(read_program(INSTANCES / "p0033.mps.gz"), Options(), engines=["cp-sat"])  # its import takes seconds
    found = race(program, Options(time_limit=60, threads=2), ["cp-sat", "highs"])
    ended = {engine: solution for engine, _, solution in found}
    assert (ended["highs"].reason, ended["cp-sat"].limit) == ("OPTIMAL", "INTERRUPTED")
    seconds = {engine: run.seconds for engine, run, _ in found}
    # It began three seconds earlier, and stopped when the other ended.
    assert seconds["cp-sat"] - seconds["highs"] < ALONE + 2
    assert not solving()


@pytest.mark.slow
def test_engines_race_on_cpus_that_are_idle(ray_cluster: str) -> None:
    import ray

    program = minimised(read_program(INSTANCES / "l152lav.mps.gz"))
    alone = race(program, Options(time_limit=ALONE + 3), ["cp-sat", "highs"])
    assert [engine for engine, *_ in alone] == ["cp-sat"]
    found = race(program, Options(time_limit=60), ["cp-sat", "highs"], spare=True)
    assert next(engine for engine, _, solution in found if solution.reason == "OPTIMAL") == "highs"
    # On the CPUs that are left, both search with the next seed.
    assert {(engine, run.options.seed) for engine, run, _ in found} >= {("cp-sat", 0), ("highs", 0), ("highs", 1)}
    assert {solution.limit for _, _, solution in found if solution.reason != "OPTIMAL"} == {"INTERRUPTED"}
    until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"])


@pytest.mark.slow
def test_an_idle_cpu_is_taken_once_and_given_back(ray_cluster: str) -> None:
    import ray

    free = int(ray.cluster_resources()["CPU"])
    until(lambda: ray.available_resources().get("CPU") == free)
    taken = []
    for left in reversed(range(free)):
        taken.append(take_cpu(lambda: True))
        until(lambda left=left: ray.available_resources().get("CPU", 0.0) == left)  # type: ignore[misc]
    assert None not in taken
    assert take_cpu(lambda: True) is None
    for give in taken:
        assert give is not None
        give()
    until(lambda: ray.available_resources().get("CPU") == free)
    take_cpu(lambda: False)
    until(lambda: ray.available_resources().get("CPU") == free)
