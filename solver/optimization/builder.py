"""Collects variables and constraints by name, one after another, for the readers of formats that come so."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from solver.optimization.program import Choices, Program, make_program

MAX_NOTES = 20


class Builder:
    """A program in the making.

    Examples
    --------
    >>> builder = Builder()
    >>> builder.add([("x", 1.0), ("y", 2.0)], high=4.0, name="limit")
    >>> builder.objective = [("x", -1.0)]
    >>> builder.program().size
    (1, 2)
    """

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.integer: list[bool] = []
        self.objective: list[tuple[str, float]] = []
        self.quadratic: list[tuple[str, str, float]] = []
        self.maximize = False
        self.semicontinuous: list[int] = []
        self.sets: list[tuple[int, tuple[int, ...]]] = []
        self.indicators: list[tuple[int, int, bool]] = []
        self.offset = 0.0
        self.notes: list[str] = []
        self._noted = 0
        self._entries: tuple[list[int], list[int], list[float]] = ([], [], [])
        self._sides: list[tuple[float, float]] = []
        self._names: list[str] = []

    def place(self, name: str, lower: float = 0.0, upper: float = math.inf, *, integer: bool = False) -> int:
        """Return the number of a variable; a new one has these bounds."""
        place = self.places.get(name)
        if place is None:
            place = self.places[name] = len(self.lower)
            self.lower.append(lower)
            self.upper.append(upper)
            self.integer.append(integer)
        return place

    def add(
        self, terms: Iterable[tuple[str, float]], low: float = -math.inf, high: float = math.inf, name: str = ""
    ) -> None:
        """Add a constraint."""
        rows, columns, values = self._entries
        row = len(self._sides)
        for variable, value in terms:
            rows.append(row)
            columns.append(self.place(variable))
            values.append(value)
        self._sides.append((low, high))
        self._names.append(name)

    @property
    def height(self) -> int:
        """The number of constraints so far."""
        return len(self._sides)

    def note(self, text: str) -> None:
        """Say something of what was read; of many such, the first and how many there are."""
        self._noted += 1
        if self._noted <= MAX_NOTES:
            self.notes.append(text)

    def program(self, name: str = "") -> Program:
        """Return the program that was collected."""
        linear = np.zeros(len(self.lower))
        for variable, value in self.objective:
            linear[self.places[variable]] += value
        more = self._noted - len(self.notes)
        rows, columns, values = self._entries
        quadratic, given = self.quadratic, set(self._names)
        for row, label in enumerate(self._names):
            if not label:
                label = f"c{row}"
                while label in given:
                    label = f"_{label}"
                self._names[row] = label
        return make_program(
            linear=linear,
            lower=np.array(self.lower, np.float64),
            upper=np.array(self.upper, np.float64),
            integer=np.array(self.integer, np.bool_),
            rows=np.array(rows, np.int64),
            columns=np.array(columns, np.int64),
            values=np.array(values, np.float64),
            row_lower=np.array([low for low, _ in self._sides], np.float64),
            row_upper=np.array([high for _, high in self._sides], np.float64),
            quadratic=(
                np.array([self.places[first] for first, _, _ in quadratic], np.int64),
                np.array([self.places[second] for _, second, _ in quadratic], np.int64),
                np.array([value for _, _, value in quadratic], np.float64),
            ),
            maximize=self.maximize,
            offset=self.offset,
            name=name,
            variables=tuple(self.places),
            constraints=tuple(self._names),
            choices=Choices(tuple(self.semicontinuous), tuple(self.sets), tuple(self.indicators)),
            notes=(*self.notes, *([f"and {more} more"] if more else [])),
        )
