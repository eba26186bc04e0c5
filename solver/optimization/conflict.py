"""Why a program is infeasible: constraints and bounds that contradict each other, as few as are found, and checked.

HiGHS looks for them. What it gives is not believed: the part of the program that is left must be infeasible by itself.
Then each member is left out for a try (a deletion filter: Chinneck, Feasibility and Infeasibility in Optimization,
2008), so that what stays is irreducible, unless the time is over before.
"""

from __future__ import annotations

import time
from typing import Any

import highspy
import numpy as np

from solver.optimization.engine import Conflict, Options
from solver.optimization.engines.highs import make_highs
from solver.optimization.program import Integers, Program, make_program

_MOST_CONSTRAINTS = 20_000
_MOST_TRIED = 200
_INFEASIBLE, _FEASIBLE = highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kOptimal
_STRATEGY = int(highspy.IisStrategy.kIisStrategyFromLp) | int(highspy.IisStrategy.kIisStrategyIrreducible)


def find_conflict(program: Program, seconds: float = 10.0) -> Conflict | None:
    """Return a part of an infeasible program that is infeasible by itself; None when none is found in time.

    Examples
    --------
    >>> program = make_program(
    ...     linear=np.zeros(2), lower=np.zeros(2), upper=np.full(2, 9.0), integer=np.zeros(2, bool),
    ...     rows=np.array([0, 1, 1]), columns=np.array([0, 0, 1]), values=np.ones(3),
    ...     row_lower=np.array([10.0, -np.inf]), row_upper=np.array([np.inf, 5.0]),
    ... )
    >>> found = find_conflict(program)
    >>> found.constraints.tolist(), found.variables.tolist(), found.irreducible
    ([0], [0], True)
    """
    if program.size[0] > _MOST_CONSTRAINTS:
        return None
    end = time.monotonic() + seconds
    highs = make_highs(program, Options(time_limit=seconds))
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("iis_strategy", _STRATEGY)
    highs.setOptionValue("iis_time_limit", seconds)
    status, found = highs.getIis()
    if status == highspy.HighsStatus.kError:
        return None
    rows, columns = np.array(found.row_index_, np.int64), np.array(found.col_index_, np.int64)
    if _solved(program, rows, columns, end) != _INFEASIBLE:
        return None
    return _thinned(program, rows, columns, end)


def _thinned(program: Program, rows: Integers, columns: Integers, end: float) -> Conflict:
    """Take away each member without which it is infeasible still: what stays is needed."""
    if len(rows) + len(columns) > _MOST_TRIED:
        return Conflict(rows, columns, irreducible=False)
    needed = True
    for row in rows.tolist():
        fewer = rows[rows != row]
        status = _solved(program, fewer, columns, end)
        rows = fewer if status == _INFEASIBLE else rows
        needed &= status in (_INFEASIBLE, _FEASIBLE)
    for column in columns.tolist():
        fewer = columns[columns != column]
        status = _solved(program, rows, fewer, end)
        columns = fewer if status == _INFEASIBLE else columns
        needed &= status in (_INFEASIBLE, _FEASIBLE)
    return Conflict(rows, columns, irreducible=needed)


def _solved(program: Program, rows: Integers, columns: Integers, end: float) -> Any:
    """Solve for any point that satisfies these constraints, and these variables' bounds."""
    left = end - time.monotonic()
    if left <= 0:
        return None
    height, width = program.size
    lower, upper = np.full(width, -np.inf), np.full(width, np.inf)
    lower[columns], upper[columns] = program.lower[columns], program.upper[columns]
    row_lower, row_upper = np.full(height, -np.inf), np.full(height, np.inf)
    row_lower[rows], row_upper[rows] = program.row_lower[rows], program.row_upper[rows]
    part = make_program(
        linear=np.zeros(width), lower=lower, upper=upper, integer=program.integer,
        rows=np.repeat(np.arange(height), np.diff(program.matrix.starts)), columns=program.matrix.columns,
        values=program.matrix.values, row_lower=row_lower, row_upper=row_upper,
    )  # fmt: skip
    highs = make_highs(part, Options(time_limit=left))
    highs.setOptionValue("output_flag", False)
    highs.run()
    return highs.getModelStatus()
