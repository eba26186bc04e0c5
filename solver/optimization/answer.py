"""Answers queries of the type `optimization`: reads the program, has it solved, and puts the answer into words."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from compute import Config
from compute.errors import DataNotFound, InvalidField, KeyNotFound
from registry import TaskContext, open_store
from solver.optimization.arrays import read_arrays
from solver.optimization.engine import Options
from solver.optimization.expressions import read_expressions
from solver.optimization.files import read_program
from solver.optimization.job import Incumbent
from solver.optimization.program import Floats, Program
from solver.optimization.query import OptimizationParameters, OptimizationQuery
from solver.optimization.solve import Solution, solve_program

LISTED = 10_000
"""Variables or constraints up to which every value is in the answer; of more, those that are not zero."""


def prepare(query: OptimizationQuery, parameters: OptimizationParameters, config: Config) -> OptimizationQuery:
    """Check the program before the question is accepted.

    Raises
    ------
    InvalidField
        Naming what is wrong with the program, and where.
    DataNotFound
        When there is no file at the URI.
    """
    hinted(read(query, config), parameters)
    return query


def needs(parameters: OptimizationParameters) -> dict[str, float]:
    """Return what a task takes of the cluster."""
    return {"cpu": float(parameters.threads)}


def answer(query: OptimizationQuery, parameters: OptimizationParameters, context: TaskContext) -> dict[str, Any]:
    """Solve the program, and say what was found."""
    program = read(query, context.config)
    options = Options(
        time_limit=parameters.time_limit,
        relative_gap=parameters.relative_gap,
        threads=parameters.threads,
        seed=parameters.seed,
        hint=hinted(program, parameters),
    )
    told: dict[str, Any] = {"program": {"name": program.name, **program.statistics(), "notes": list(program.notes)}}
    if parameters.validation_only:
        return {"termination": None, **told}
    solution = solve_program(
        program,
        options,
        engines=parameters.engines,
        memory=parameters.memory,
        progress=_telling(context, program, parameters.time_limit),
    )
    return {**_found(program, solution), **told, "seed": parameters.seed}


def read(query: OptimizationQuery, config: Config) -> Program:
    """Return the program that a question gives."""
    if query.expressions is not None:
        return read_expressions(query.expressions)
    if query.model is not None:
        return read_arrays(query.model)
    assert query.uri is not None, "the question has one source"
    return _read_uri(query.uri, config)


def hinted(program: Program, parameters: OptimizationParameters) -> Floats | None:
    """Return the hint by the number of each variable; NaN where there is none."""
    if parameters.hint is None:
        return None
    places = {name: number for number, name in enumerate(_names(program.variables, "x", program.size[1]))}
    values = np.full(program.size[1], np.nan)
    for name, value in parameters.hint.items():
        if name not in places:
            raise InvalidField(
                f"parameters.hint names the variable {name[:100]!r}, which the program does not have",
                context={"field": "parameters.hint"},
            )
        values[places[name]] = value
    return values


def _read_uri(uri: str, config: Config) -> Program:
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path) if parts.scheme else uri)
        if not path.is_file():
            raise DataNotFound(f"there is no file {uri}", context={"uri": uri})
        return read_program(path)
    folder, _, name = uri.rpartition("/")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        try:
            open_store(folder, config).download(name, path)
        except KeyNotFound as error:
            raise DataNotFound(f"there is no file {uri}", context={"uri": uri}) from error
        return read_program(path)


def _telling(context: TaskContext, program: Program, time_limit: float) -> Callable[[float, Incumbent | None], None]:
    sign = -1.0 if program.maximize else 1.0

    def tell(seconds: float, best: Incumbent | None) -> None:
        words = "no solution yet"
        if best is not None:
            bound = "" if best.bound is None else f", bound {sign * best.bound:.9g}"
            words = f"best {sign * best.objective:.9g}{bound}"
        context.progress(min(1.0, seconds / time_limit), f"{seconds:.0f} s: {words}")

    return tell


def _found(program: Program, solution: Solution) -> dict[str, Any]:
    """Return the answer in JSON's values, in the names of MathOpt."""
    variables = _names(program.variables, "x", program.size[1])
    constraints = _names(program.constraints, "c", program.size[0])
    sign = -1.0 if program.maximize else 1.0
    last, check, run = solution.attempts[-1], solution.check, solution.run
    result: dict[str, Any] = {
        "termination": {"reason": solution.reason, "limit": solution.limit, "detail": solution.detail},
        "objective_value": None if check is None else _number(check.objective),
        "best_objective_bound": _number(solution.bound),
        "relative_gap": _number(solution.gap),
        "variable_values": None if solution.x is None else _values(variables, solution.x),
        "dual_values": None if solution.duals is None else _values(constraints, solution.duals),
        "reduced_costs": None if solution.reduced_costs is None else _values(variables, solution.reduced_costs),
        "check": None,
        "infeasible_subsystem": None,
        "engine": {"name": last.engine, "version": last.version, "seconds": round(last.seconds, 3)},
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
    if check is not None:
        proof = solution.proof
        result["check"] = {
            "feasible": check.feasible,
            "bound_violation": _number(check.bound_violation),
            "constraint_violation": _number(check.constraint_violation),
            "relative_violation": _number(check.relative_violation),
            "integrality_violation": _number(check.integrality_violation),
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


def _names(names: Sequence[str], letter: str, count: int) -> Sequence[str]:
    return names or [f"{letter}{number}" for number in range(count)]


def _values(names: Sequence[str], values: Floats) -> dict[str, float]:
    everything = len(names) <= LISTED
    pairs = zip(names, np.asarray(values).tolist(), strict=True)
    return {name: value + 0.0 for name, value in pairs if everything or value != 0}


def _number(value: float | None) -> float | None:
    """Return a number that JSON has."""
    return None if value is None or not math.isfinite(value) else float(value)
