"""Constraints on intervals of time."""

# ruff: noqa: D102  (the base class says what the methods do)
from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from solver.optimization.constraints.program import Affine, Constraint, ConstraintProgram, Point, Target


@dataclass(frozen=True, kw_only=True)
class NoOverlap(Constraint):
    """Of the intervals that are there, no two have time in common."""

    kind = "no_overlap"
    intervals: tuple[int, ...]

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        places = [program.intervals[number].at(x) for number in self.intervals]
        # One of no duration may not be inside another, either, as CP-SAT has it.
        busy = sorted(place for place in places if place is not None)
        return all(first[1] <= second[0] for first, second in pairwise(busy))

    def post(self, target: Target) -> Any:
        return target.model.add_no_overlap([target.interval(number) for number in self.intervals])


@dataclass(frozen=True, kw_only=True)
class NoOverlap2D(Constraint):
    """Rectangles, whose sides are intervals, have no area in common."""

    kind = "no_overlap_2d"
    x_intervals: tuple[int, ...]
    y_intervals: tuple[int, ...]

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        sides = [
            (program.intervals[first].at(x), program.intervals[second].at(x))
            for first, second in zip(self.x_intervals, self.y_intervals, strict=True)
        ]
        boxes = [(*wide, *high) for wide, high in sides if wide is not None and high is not None]
        return all(a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2] for a, b in combinations(boxes, 2))

    def post(self, target: Target) -> Any:
        return target.model.add_no_overlap_2d(
            [target.interval(number) for number in self.x_intervals],
            [target.interval(number) for number in self.y_intervals],
        )


@dataclass(frozen=True, kw_only=True)
class Cumulative(Constraint):
    """At no time the intervals that are there demand more than the capacity."""

    kind = "cumulative"
    intervals: tuple[int, ...]
    demands: tuple[Affine, ...]
    capacity: Affine

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        steps = []
        for number, demand in zip(self.intervals, self.demands, strict=True):
            place = program.intervals[number].at(x)
            if place is not None and place[0] < place[1]:
                steps += [(place[0], demand.at(x)), (place[1], -demand.at(x))]
        level, capacity = 0, self.capacity.at(x)
        # What ends at a time has ended when something begins then.
        for _, change in sorted(steps):
            level += change
            if level > capacity:
                return False
        return capacity >= 0

    def post(self, target: Target) -> Any:
        return target.model.add_cumulative(
            [target.interval(number) for number in self.intervals],
            [target.expression(demand) for demand in self.demands],
            target.expression(self.capacity),
        )
