"""What can be solved: a program of arrays, one of constraints, or a nonlinear one."""

from __future__ import annotations

from dataclasses import replace

from solver.optimization.check import Check, check_point
from solver.optimization.constraints.program import ConstraintProgram
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.program import Floats, Program

Model = Program | ConstraintProgram | NonlinearProgram


def minimised(program: Model) -> Model:
    """Return the same program to be minimised."""
    if not isinstance(program, Program):
        return program.minimised()
    if not program.maximize:
        return program
    turned = program.quadratic._replace(coefficients=-program.quadratic.coefficients)
    return replace(program, maximize=False, linear=-program.linear, offset=-program.offset, quadratic=turned)


def checked(program: Model, x: Floats) -> Check:
    """Check a point against all that a program says."""
    return check_point(program, x) if isinstance(program, Program) else program.check(x)
