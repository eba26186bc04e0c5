"""Constraint programs as CP-SAT's models."""

from __future__ import annotations

from typing import Any

from ortools.sat.python import cp_model

from solver.optimization.constraints.program import Affine, ConstraintProgram, Domain, Target


def of_constraints(program: ConstraintProgram) -> tuple[Any, list[Any]]:
    """Return CP-SAT's model of a program to be minimised, and its variables."""
    posting = _Posting(program)
    for constraint in program.constraints:
        posted = constraint.post(posting)
        if constraint.condition:
            posted.only_enforce_if([posting.literal(literal) for literal in constraint.condition])
    if program.target is not None:
        posting.model.minimize(posting.expression(program.target))
    return posting.model, posting.variables


class _Posting(Target):
    def __init__(self, program: ConstraintProgram) -> None:
        self.model = cp_model.CpModel()
        self.variables = [
            self.model.new_int_var_from_domain(cp_model.Domain.from_intervals([list(one) for one in domain]), "")
            for domain in program.domains
        ]
        self._intervals: list[Any] = []
        for interval in program.intervals:
            parts = (self.expression(part) for part in (interval.start, interval.duration, interval.end))
            if interval.present is None:
                self._intervals.append(self.model.new_interval_var(*parts, interval.name))
            else:
                present = self.literal(interval.present)
                self._intervals.append(self.model.new_optional_interval_var(*parts, present, interval.name))

    def expression(self, affine: Affine) -> Any:
        variables = [self.variables[column] for column in affine.columns]
        if not variables:
            return affine.constant
        if len(variables) == 1:
            return affine.coefficients[0] * variables[0] + affine.constant
        return cp_model.LinearExpr.weighted_sum(variables, affine.coefficients) + affine.constant

    def literal(self, literal: int) -> Any:
        return self.variables[literal] if literal >= 0 else self.variables[~literal].negated()

    def interval(self, number: int) -> Any:
        return self._intervals[number]

    def within(self, affine: Affine, domain: Domain) -> Any:
        return self.model.add_linear_expression_in_domain(
            cp_model.LinearExpr.weighted_sum([self.variables[column] for column in affine.columns], affine.coefficients)
            + affine.constant,
            cp_model.Domain.from_intervals([list(one) for one in domain]),
        )
