"""Answers queries of the type `sweep`: one optimization for many scenarios, by several options, over the cluster."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import Any, get_args

from compute import Config, get_compute_manager
from compute.errors import InvalidField
from registry import TaskContext
from solver.chunks import in_order
from solver.optimization.engine import Options
from solver.optimization.query import EngineName
from solver.optimization.solve import solve_program
from solver.optimization.words import names_of
from solver.simulation_query import SweepParameters, SweepQuery
from solver.template import Template

_OPTIONS = ("time_limit", "relative_gap", "seed", "engines")


def prepare(query: SweepQuery, parameters: SweepParameters, config: Config) -> SweepQuery:  # noqa: ARG001
    """Check the options, and the program by the first scenario, or by all instances; raises InvalidField."""
    for number, given in enumerate(query.options):
        _options(given, parameters.time_limit, f"query_data.options[{number}]")
    if query.optimization is not None:
        Template(query.optimization, list(query.scenarios[0])).program(query.scenarios[0])
    for instance in query.instances:
        Template(instance, []).program({})
    return query


def needs(parameters: SweepParameters) -> dict[str, float]:  # noqa: ARG001
    """Return what a task takes of the cluster: its solves are in tasks of their own."""
    return {"cpu": 0.1}


def answer(query: SweepQuery, parameters: SweepParameters, context: TaskContext) -> dict[str, Any]:
    """Solve each scenario, or instance, by each option.

    Returns
    -------
    dict
        ``results``, one for each scenario and option, scenarios first: ``scenario`` (or ``instance``) and ``option`` by
        number, ``reason``, ``objective_value``, ``relative_gap``, ``engine``, ``seconds``; and ``terminations``, how
        often each reason was.
    """
    name = "scenario" if query.optimization is not None else "instance"
    width = len(query.options)
    count = width * (len(query.scenarios) or len(query.instances))
    started, results = time.perf_counter(), []
    shared = (query.model_dump(), parameters.model_dump())
    with closing(in_order(partial(get_compute_manager, config=context.config), _solve, shared, count)) as found:
        for number, result in enumerate(found):
            results.append({name: number // width, "option": number % width, **result})
            context.progress((number + 1) / count, f"{number + 1:,} of {count:,}")
    reasons = [result["reason"] for result in results]
    return {
        "results": results,
        "terminations": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "seconds": round(time.perf_counter() - started, 3),
    }


def solve_scenario(query: SweepQuery, parameters: SweepParameters, number: int) -> dict[str, Any]:
    """Solve one scenario, or instance, by one option, in this process."""
    place, option = divmod(number, len(query.options))
    if query.optimization is not None:
        values = query.scenarios[place]
        program = Template(query.optimization, list(values)).program(values)
    else:
        program = Template(query.instances[place], []).program({})
    options, engines = _options(query.options[option], parameters.time_limit, "query_data.options")
    started = time.perf_counter()
    solution = solve_program(program, options, engines=engines, here=True)
    result: dict[str, Any] = {
        "reason": solution.reason,
        "objective_value": None if solution.check is None else solution.check.objective,
        "relative_gap": solution.gap,
        "engine": solution.attempts[-1].engine,
        "seconds": round(time.perf_counter() - started, 4),
    }
    if parameters.variables and solution.x is not None:
        result["variable_values"] = dict(zip(names_of(program)[0], solution.x.tolist(), strict=True))
    return result


def _solve(shared: tuple[dict[str, Any], dict[str, Any]], number: int) -> dict[str, Any]:
    query, parameters = shared
    return solve_scenario(SweepQuery.model_construct(**query), SweepParameters.model_construct(**parameters), number)


def _options(given: dict[str, Any], time_limit: float, field: str) -> tuple[Options, list[str] | None]:
    for key in given:
        if key not in _OPTIONS:
            raise InvalidField(
                f"{field} has the unknown key {key[:80]!r}",
                hint=f"There are {', '.join(_OPTIONS)}.",
                context={"field": field},
            )
    engines = given.get("engines")
    known = get_args(EngineName)
    if engines is not None and (
        not isinstance(engines, list) or not engines or any(one not in known for one in engines)
    ):
        raise InvalidField(f"{field}.engines names none of {', '.join(known)}", context={"field": field})
    limits = {"time_limit": (1e-3, 86_400.0, time_limit), "relative_gap": (0.0, 1.0, 1e-4), "seed": (0, 2**31 - 1, 0)}
    values: dict[str, Any] = {}
    for key, (low, high, default) in limits.items():
        value = given.get(key, default)
        whole = key == "seed"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
            raise InvalidField(
                f"{field}.{key} is {value!r:.80}, not from {low:g} to {high:g}", context={"field": field}
            )
        values[key] = value
    return Options(**values), engines
