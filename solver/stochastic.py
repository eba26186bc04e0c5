"""A program under scenarios: one plan now, what is settled later for each, and what not knowing costs.

The extensive form of a two-stage program, and CVaR as a linear program (Rockafellar and Uryasev, J. Risk 2 (2000) 21).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compute.errors import InvalidField
from solver.optimization.judge import Solution
from solver.optimization.program import Flags, Floats, Program, make_program
from solver.optimization.words import names_of
from solver.stochastic_query import Uncertainty

Solve = Callable[[Program], Solution]


def later_variables(program: Program, names: Sequence[str]) -> Flags:
    """Return which variables are settled when the truth is known.

    Raises
    ------
    InvalidField
        When one is not there, or the program has a quadratic objective.
    """
    if len(program.quadratic.rows):
        raise InvalidField("under scenarios the objective is linear", context={"field": "query_data.uncertainty"})
    known = {name: place for place, name in enumerate(names_of(program)[0])}
    later = np.zeros(program.size[1], np.bool_)
    for name in names:
        if name not in known:
            raise InvalidField(
                f"query_data.uncertainty.later names the variable {name[:100]!r}, which the program does not have",
                context={"field": "query_data.uncertainty.later"},
            )
        later[known[name]] = True
    return later


def extensive(programs: Sequence[Program], later: Flags, uncertainty: Uncertainty) -> Program:
    """Return one program for all scenarios.

    Its variables are those of now, in their order; then those of later, scenario by scenario; then, for CVaR, the
    value at risk and each scenario's excess over it.

    Parameters
    ----------
    programs : sequence of Program
        One for each scenario, of one shape and direction.
    later : ndarray of bool, shape (n,)
        See `later_variables`.
    uncertainty : Uncertainty
        The measure.
    """
    first, count = programs[0], len(programs)
    sign = -1.0 if first.maximize else 1.0
    now = np.flatnonzero(~later)
    after = np.flatnonzero(later)
    width = len(now) + count * len(after)
    risk = uncertainty.measure == "cvar"
    total = width + (1 + count if risk else 0)
    linear, offset = np.zeros(total), 0.0
    lower, upper, integer = np.full(total, -np.inf), np.full(total, np.inf), np.zeros(total, np.bool_)
    lower[: len(now)] = np.max([program.lower[now] for program in programs], axis=0)
    upper[: len(now)] = np.min([program.upper[now] for program in programs], axis=0)
    integer[: len(now)] = first.integer[now]
    rows, columns, values, row_lower, row_upper = [], [], [], [], []
    height = 0
    for number, program in enumerate(programs):
        start = len(now) + number * len(after)
        place = np.empty(program.size[1], np.int64)
        place[now], place[after] = np.arange(len(now)), np.arange(start, start + len(after))
        lower[place[after]], upper[place[after]] = program.lower[after], program.upper[after]
        integer[place[after]] = program.integer[after]
        rows.append(np.repeat(np.arange(program.size[0]), np.diff(program.matrix.starts)) + height)
        columns.append(place[program.matrix.columns])
        values.append(program.matrix.values)
        row_lower.append(program.row_lower)
        row_upper.append(program.row_upper)
        height += program.size[0]
        if risk:  # excess + value at risk >= cost of this scenario, as something to be minimised
            costs = np.flatnonzero(program.linear)
            rows.append(np.full(len(costs) + 2, height))
            columns.append(np.concatenate([place[costs], [width, width + 1 + number]]))
            values.append(np.concatenate([-sign * program.linear[costs], [1.0, 1.0]]))
            row_lower.append(np.array([sign * program.offset]))
            row_upper.append(np.array([np.inf]))
            height += 1
        else:
            np.add.at(linear, place, program.linear / count)
            offset += program.offset / count
    if risk:
        linear[width] = sign
        linear[width + 1 :] = sign / ((1 - uncertainty.alpha) * count)
        lower[width + 1 :] = 0.0
    names = names_of(first)[0]
    labels = [names[place] for place in now.tolist()]
    labels += [f"{names[place]}[{number}]" for number in range(count) for place in after.tolist()]
    labels += ["value_at_risk", *(f"excess[{number}]" for number in range(count))] if risk else []
    return make_program(
        linear=linear,
        lower=lower,
        upper=upper,
        integer=integer,
        rows=np.concatenate(rows),
        columns=np.concatenate(columns),
        values=np.concatenate(values),
        row_lower=np.concatenate(row_lower),
        row_upper=np.concatenate(row_upper),
        maximize=first.maximize,
        offset=offset,
        name=first.name,
        variables=tuple(labels),
    )


def compare(
    whole: Program,
    found: Solution,
    point: Program,
    programs: Sequence[Program],
    later: Flags,
    uncertainty: Uncertainty,
    solve: Solve,
) -> dict[str, Any]:
    """Say what the plan is worth beside the one from point predictions, and beside knowing the truth.

    Parameters
    ----------
    whole, found
        The extensive form and its solution.
    point : Program
        With the predictions themselves.
    programs, later, uncertainty
        As of `extensive`.
    solve : callable
        Solves a program.

    Returns
    -------
    dict
        ``stochastic_objective``; ``point_plan`` with its ``variable_values``, the ``predicted_objective`` that it
        promises, and the ``objective_value`` that it has over the scenarios (None where it breaks a constraint in
        one); ``value_of_stochastic_solution``, how much better the plan is; ``wait_and_see``, the measure when each
        scenario is known beforehand, and ``cost_of_uncertainty``, how much worse the plan is than that.
    """
    sign = -1.0 if whole.maximize else 1.0
    names = names_of(point)[0]
    now = np.flatnonzero(~later)
    value = None if found.check is None else found.check.objective
    planned = solve(point)
    told: dict[str, Any] = {"stochastic_objective": value, "point_plan": None}
    worth = None
    if planned.x is not None and planned.check is not None:
        fixed = np.where(point.integer, np.round(planned.x), planned.x)[now]
        tried = _fixed(whole, fixed)
        lived = None if tried is None else solve(tried)
        worth = lived.check.objective if lived is not None and lived.reason == "OPTIMAL" and lived.check else None
        told["point_plan"] = {
            "variable_values": {names[place]: float(x) for place, x in zip(now.tolist(), fixed.tolist(), strict=True)},
            "predicted_objective": planned.check.objective,
            "objective_value": worth,
        }
    known = [solve(program) for program in programs]
    outcomes = [sign * one.check.objective for one in known if one.reason == "OPTIMAL" and one.check is not None]
    seen = sign * _measured(np.array(outcomes), uncertainty) if len(outcomes) == len(programs) else None
    told["value_of_stochastic_solution"] = None if worth is None or value is None else sign * (worth - value)
    told["wait_and_see"] = seen
    told["cost_of_uncertainty"] = None if seen is None or value is None else sign * (value - seen)
    return told


def _fixed(whole: Program, values: Floats) -> Program | None:
    """Return the extensive form with the plan of now fixed; None when that is outside of its bounds."""
    lower, upper = whole.lower.copy(), whole.upper.copy()
    count = len(values)
    slack = 1e-6 * np.maximum(1.0, np.abs(values))
    if ((values < lower[:count] - slack) | (values > upper[:count] + slack)).any():
        return None
    lower[:count] = upper[:count] = values
    return replace(whole, lower=lower, upper=upper)


def _measured(outcomes: Floats, u: Uncertainty) -> float:
    """Return the measure of what is to be small."""
    if u.measure == "mean":
        return float(outcomes.mean())
    ordered = np.sort(outcomes)[::-1]
    mass = (1 - u.alpha) * len(ordered)
    whole = int(mass)
    rest = (mass - whole) * ordered[whole] if whole < len(ordered) else 0.0
    return float((ordered[:whole].sum() + rest) / mass)
