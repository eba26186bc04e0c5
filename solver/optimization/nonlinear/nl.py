"""The .nl files of AMPL, in their text form: linear and nonlinear programs, with whole numbers or without.

D. Gay, Writing .nl Files, 2005, https://ampl.github.io/nlwrite.pdf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NoReturn

import numpy as np

from compute.errors import InvalidField
from solver.optimization.nonlinear.function import Function, Graph
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.program import MAX_NONZEROS, MAX_VARIABLES, Flags, Floats

_UNARY: Mapping[int, str] = {
    13: "floor", 14: "ceil", 15: "abs", 16: "neg", 37: "tanh", 38: "tan", 39: "sqrt", 40: "sinh", 41: "sin",
    42: "log10", 43: "log", 44: "exp", 45: "cosh", 46: "cos", 49: "atan", 51: "asin", 53: "acos",
}  # fmt: skip
_BINARY: Mapping[int, str] = {0: "+", 1: "-", 2: "*", 3: "/", 5: "**", 75: "**", 76: "**", 77: "**"}
_SEVERAL: Mapping[int, str] = {11: "min", 12: "max", 54: "+"}
_SQUARE = 76
"""A power of 2, which has one argument."""
_HEADER = 10


def read_nl(lines: Iterable[str]) -> NonlinearProgram:
    """Return the program of an .nl file; of several objectives the first.

    Raises
    ------
    InvalidField
        With the line, and what was expected there.

    Examples
    --------
    >>> program = read_nl('''g3 1 1 0
    ... 1 1 1 0 0
    ... 1 1
    ... 0 0
    ... 1 1 1
    ... 0 0 0 1
    ... 0 0 0 0 0
    ... 1 1
    ... 0 0
    ... 0 0 0 0 0
    ... C0
    ... o44
    ... v0
    ... O0 1
    ... o5
    ... v0
    ... n3
    ... r
    ... 1 4.5
    ... b
    ... 0 0 9'''.splitlines())
    >>> program.objective.value(np.array([2.0])), program.row_upper.tolist(), program.maximize
    (8.0, [4.5], True)
    """
    return _Reading(lines).program()


class _Reading:
    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._line = 0
        self._graph = Graph()
        self._linear: dict[int, dict[int, float]] = {}
        self._goal: dict[int, float] = {}

    def program(self) -> NonlinearProgram:
        """Read it all."""
        count, height, objectives = self._header()
        graph = self._graph
        steps = [graph.variable(column) for column in range(count)]
        common: dict[int, int] = {}
        rows: dict[int, int] = {}
        goal: int | None = None
        maximize = False
        row_lower, row_upper = np.full(height, -np.inf), np.full(height, np.inf)
        lower, upper = np.full(count, -np.inf), np.full(count, np.inf)
        start: Floats | None = None
        while line := self._next(end=True):
            kind, numbers = line[0], line[1:].split()
            if kind == "C":
                rows[self._whole(numbers, 0, height)] = self._expression(steps, common)
            elif kind == "O":
                number, sense = self._whole(numbers, 0, objectives), self._whole(numbers, 1, 2)
                step = self._expression(steps, common)
                if number == 0:
                    goal, maximize = step, sense == 1
            elif kind == "V":
                number = self._whole(numbers, 0, MAX_VARIABLES)
                linear = self._pairs(self._whole(numbers, 1, MAX_VARIABLES), count)
                parts = [graph.add("*", graph.number(value), steps[column]) for column, value in linear.items()]
                common[number] = graph.add("+", self._expression(steps, common), *parts)
            elif kind == "r":
                self._bounds(row_lower, row_upper)
            elif kind == "b":
                self._bounds(lower, upper)
            elif kind == "x":
                start = np.full(count, np.nan)
                for column, value in self._pairs(self._whole(numbers, 0, count + 1), count).items():
                    start[column] = value
            elif kind == "J":
                row, many = self._whole(numbers, 0, height), self._whole(numbers, 1, count + 1)
                self._linear[row] = self._pairs(many, count)
            elif kind == "G":
                number, many = self._whole(numbers, 0, objectives), self._whole(numbers, 1, count + 1)
                found = self._pairs(many, count)
                self._goal = found if number == 0 else self._goal
            elif kind in "dkS":
                # Duals to begin with, the lengths of columns, and what is for one solver only.
                for _ in range(self._whole(numbers, 1 if kind == "S" else 0, MAX_NONZEROS)):
                    self._next()
            else:
                self._refuse(f"{line[:20]!r} begins no segment that is taken: C, O, V, r, b, x, J, G, k, d or S")
        self._check(lower, upper, "variable")
        self._check(row_lower, row_upper, "constraint")
        functions: list[Function] = [graph.function(rows.get(row), 0.0, self._linear.get(row)) for row in range(height)]
        return NonlinearProgram(
            graph.function(goal, 0.0, self._goal),
            tuple(functions),
            row_lower,
            row_upper,
            lower,
            upper,
            self._integers(count),
            tuple(f"x{number}" for number in range(count)),
            tuple(f"c{number}" for number in range(height)),
            start=start,
            maximize=maximize,
        )

    def _header(self) -> tuple[int, int, int]:
        first = self._next()
        if not first.startswith("g"):
            self._refuse("the file does not begin with g: only the text form of .nl files is read (AMPL: write gNAME)")
        rows = [self._numbers(self._next()) for _ in range(1, _HEADER)]
        sizes, self._nonlinear, self._discrete = rows[0], rows[3], rows[5]
        if len(sizes) < 3 or len(self._nonlinear) < 3 or len(self._discrete) < 5:
            self._refuse("the header is too short")
        count, height, objectives = sizes[:3]
        if not 0 < count <= MAX_VARIABLES or not 0 <= height <= MAX_VARIABLES:
            self._refuse(f"{count:,} variables and {height:,} constraints are none, or more than {MAX_VARIABLES:,}")
        if len(sizes) > 5 and sizes[5]:
            self._refuse("it has logical constraints, which are not taken")
        if len(rows[4]) > 1 and rows[4][1]:
            self._refuse("it has functions of the user's own, which are not taken")
        return count, height, max(objectives, 0)

    def _integers(self, count: int) -> Flags:
        """Return which variables are whole: their order says so, by the counts in the header."""
        in_rows, in_goals, in_both = self._nonlinear[:3]
        binary, whole, of_both, of_rows, of_goals = self._discrete[:5]
        flags = np.zeros(count, np.bool_)
        ends = [(in_both, of_both), (max(in_rows, in_both), of_rows), (max(in_rows, in_goals), of_goals)]
        for end, many in [*ends, (count, binary + whole)]:
            flags[max(0, end - many) : end] = many > 0
        return flags

    def _expression(self, steps: list[int], common: Mapping[int, int]) -> int:
        """Return the step of an expression in prefix form; a stack, since it may nest deeply."""
        graph = self._graph
        open_: list[tuple[str, int, list[int]]] = []
        while True:
            line = self._next()
            kind, rest = line[0], line[1:].split()
            if kind == "n":
                done = graph.number(self._number(rest[:1]))
            elif kind == "v":
                number = self._whole(rest, 0, MAX_VARIABLES)
                if number >= len(steps) and number not in common:
                    self._refuse(f"there is no variable {number}")
                done = steps[number] if number < len(steps) else common[number]
            elif kind == "o":
                open_.append(self._operation(self._whole(rest, 0, 100)))
                continue
            else:
                self._refuse(f"expected n, v or o of an expression, found {line[:20]!r}")
            while open_:
                operation, many, arguments = open_[-1]
                arguments.append(done)
                if len(arguments) < many:
                    break
                open_.pop()
                if operation == "square":
                    operation, arguments = "**", [*arguments, graph.number(2.0)]
                done = graph.add(operation, *arguments)
            else:
                return done

    def _operation(self, code: int) -> tuple[str, int, list[int]]:
        if code == _SQUARE:
            return "square", 1, []
        if code in _UNARY:
            return _UNARY[code], 1, []
        if code in _BINARY:
            return _BINARY[code], 2, []
        if code in _SEVERAL:
            many = self._numbers(self._next())
            if len(many) != 1 or not 0 < many[0] <= MAX_VARIABLES:
                self._refuse("expected the number of arguments")
            return _SEVERAL[code], many[0], []
        return self._refuse(f"the operation o{code} is not taken")

    def _bounds(self, lower: Floats, upper: Floats) -> None:
        for place in range(len(lower)):
            words = self._next().split()
            kind = words[0]
            if kind == "3":
                continue
            if kind == "0" and len(words) > 2:
                lower[place], upper[place] = self._number(words[1:2]), self._number(words[2:3])
            elif kind == "1":
                upper[place] = self._number(words[1:2])
            elif kind == "2":
                lower[place] = self._number(words[1:2])
            elif kind == "4":
                lower[place] = upper[place] = self._number(words[1:2])
            else:
                self._refuse(f"{' '.join(words)[:40]!r} are no bounds that are taken: 0, 1, 2, 3 or 4, and numbers")

    def _pairs(self, many: int, count: int) -> dict[int, float]:
        found: dict[int, float] = {}
        for _ in range(many):
            words = self._next().split()
            found[self._whole(words, 0, count)] = self._number(words[1:2])
        return {column: value for column, value in found.items() if value} if many else found

    def _check(self, lower: Floats, upper: Floats, what: str) -> None:
        wrong = np.flatnonzero(lower > upper)
        if len(wrong):
            place = int(wrong[0])
            self._refuse(f"the {what} {place} has the bounds {lower[place]:g} and {upper[place]:g}")

    def _next(self, *, end: bool = False) -> str:
        """Return the next line that is not empty, without comments; the empty one at an end that may be."""
        for text in self._lines:
            self._line += 1
            if line := text.split("#", 1)[0].strip():
                return line
        return "" if end else self._refuse("the file is cut off there")

    def _numbers(self, line: str) -> list[int]:
        """Return the whole numbers of a line."""
        try:
            return [int(word[:18]) for word in line.split()]
        except ValueError:
            return self._refuse(f"expected whole numbers, found {line[:40]!r}")

    def _whole(self, words: list[str], place: int, count: int) -> int:
        """Return a whole number from 0 on, below a count."""
        if place >= len(words) or not words[place].isdecimal() or len(words[place]) > 18:
            self._refuse(f"expected a whole number, found {' '.join(words)[:40]!r}")
        number = int(words[place])
        if number >= count:
            self._refuse(f"{number} is not there: there are {count}, from 0 on")
        return number

    def _number(self, words: list[str]) -> float:
        try:
            value = float(words[0]) if words else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or "_" in words[0]:
            self._refuse(f"expected a number, found {' '.join(words)[:40]!r}")
        return value

    def _refuse(self, what: str) -> NoReturn:
        raise InvalidField(f"line {self._line} of the .nl file: {what}", context={"field": "uri", "line": self._line})
