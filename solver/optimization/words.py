"""What was found, in JSON's values and the names of MathOpt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from solver.optimization.constraints.program import ConstraintProgram
from solver.optimization.judge import Solution
from solver.optimization.model import Model
from solver.optimization.program import Floats, Program

LISTED = 10_000
"""Variables or constraints up to which every value is in the answer; of more, those that are not zero."""


def as_answer(program: Model, solution: Solution) -> dict[str, Any]:
    """Return the answer in JSON's values, in the names of MathOpt."""
    variables, constraints = names_of(program)
    whole = isinstance(program, ConstraintProgram)
    sign = -1.0 if program.maximize else 1.0
    check, run = solution.check, solution.run
    result: dict[str, Any] = {
        "termination": {"reason": solution.reason, "limit": solution.limit, "detail": solution.detail},
        "objective_value": None if check is None else _number(check.objective),
        "best_objective_bound": _number(solution.bound),
        "relative_gap": _number(solution.gap),
        "variable_values": None if solution.x is None else _values(variables, solution.x, whole=whole),
        "dual_values": None if solution.duals is None else _values(constraints, solution.duals),
        "reduced_costs": None if solution.reduced_costs is None else _values(variables, solution.reduced_costs),
        "check": None,
        "infeasible_subsystem": None,
        "engine": {
            "name": solution.engine,
            "version": run.version,
            "seconds": round(run.seconds, 3),
            "seed": run.options.seed,
            "search": run.options.search,
        },
        "attempts": [{**attempt._asdict(), "seconds": round(attempt.seconds, 3)} for attempt in solution.attempts],
        "incumbents": [
            {
                "seconds": round(one.seconds, 3),
                "objective_value": _number(sign * one.objective),
                "bound": _number(None if one.bound is None else sign * one.bound),
            }
            for one in run.incumbents
        ],
        "counts": dict(run.outcome.counts),
        "log": run.log,
    }
    if isinstance(program, ConstraintProgram) and solution.x is not None:
        result["intervals"] = program.placed(solution.x)
    if solution.pool:
        result["solution_pool"] = [
            {"objective_value": _number(value), "variable_values": _values(variables, x, whole=whole)}
            for x, value in solution.pool
        ]
    if check is not None:
        proof = solution.proof
        result["check"] = {
            "feasible": check.feasible,
            "bound_violation": _number(check.bound_violation),
            "constraint_violation": _number(check.constraint_violation),
            "relative_violation": _number(check.relative_violation),
            "integrality_violation": _number(check.integrality_violation),
            "violated_constraints": list(check.broken),
            "kkt_residual": _number(check.kkt_residual),
            "proven_by_duals": None if proof is None else proof.optimal,
            "dual_violation": None if proof is None else _number(proof.dual_violation),
        }
    if run.conflict is not None and solution.reason == "INFEASIBLE":
        result["infeasible_subsystem"] = {
            "constraints": [constraints[row] for row in run.conflict.constraints.tolist()],
            "variable_bounds": [variables[column] for column in run.conflict.variables.tolist()],
            "irreducible": run.conflict.irreducible,
        }
    return result


def names_of(program: Model) -> tuple[Sequence[str], Sequence[str]]:
    """Return the names of the variables and of the constraints: x0, x1, ... and c0, c1, ... where there are none."""
    if not isinstance(program, Program):
        return program.names
    height, width = program.size
    return (
        program.variables or [f"x{number}" for number in range(width)],
        program.constraints or [f"c{number}" for number in range(height)],
    )


def placed(program: Model, given: Mapping[str, float]) -> Floats:
    """Return values by the number of each variable; NaN where none is given. Other names are left out."""
    return np.array([given.get(name, np.nan) for name in names_of(program)[0]], dtype=np.float64)


def _values(names: Sequence[str], values: Floats, *, whole: bool = False) -> dict[str, float]:
    everything = len(names) <= LISTED
    if whole:
        return {name: round(value) for name, value in zip(names, values.tolist(), strict=True) if everything or value}
    pairs = zip(names, np.asarray(values).tolist(), strict=True)
    return {name: value + 0.0 for name, value in pairs if everything or value != 0}


def _number(value: float | None) -> float | None:
    """Return a number that JSON has."""
    return None if value is None or not math.isfinite(value) else float(value)
