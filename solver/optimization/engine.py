"""What an engine is given and what it gives back: the same for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from solver.optimization.model import Model
from solver.optimization.program import Floats, Integers

Reason = Literal[
    "OPTIMAL", "LOCALLY_OPTIMAL", "INFEASIBLE", "UNBOUNDED", "INFEASIBLE_OR_UNBOUNDED", "IMPRECISE", "FEASIBLE",
    "NO_SOLUTION_FOUND", "NUMERICAL_ERROR", "OTHER_ERROR",
]  # fmt: skip
"""As MathOpt names them: https://developers.google.com/optimization/math_opt"""
Search = Literal["default", "branching"]
"""How a program with whole numbers is searched: as the engine comes, or branching at once, with few cuts and no
heuristics, which proves in a minute what takes others that begin with much of both several."""
Limit = Literal["TIME", "ITERATION", "NODE", "MEMORY", "INTERRUPTED", "OTHER"]


class Options(NamedTuple):
    """How to solve."""

    time_limit: float = 60.0
    relative_gap: float = 1e-4
    """Between the solution and the bound, at which a program with whole numbers counts as solved."""
    threads: int = 1
    seed: int = 0
    hint: Floats | None = None
    """Values to begin with; those that are not known are NaN."""
    search: Search = "default"
    solutions: int = 1
    """How many different ones are wanted."""
    quiet: bool = False
    """Whether the engine is to print nothing."""


@dataclass(frozen=True)
class Outcome:
    """What an engine says; of a program to minimise."""

    reason: Reason
    limit: Limit | None = None
    detail: str = ""
    x: Floats | None = None
    bound: float | None = None
    """No solution is better, by the engine's word."""
    duals: Floats | None = None
    """Of the constraints: the change of the objective for a change of the bound."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Iterations, nodes."""
    pool: Sequence[Floats] = ()
    """Other solutions, if the engine has more than it told of on the way."""


class Conflict(NamedTuple):
    """Constraints, and variables by their bounds, that no point satisfies together."""

    constraints: Integers
    variables: Integers
    irreducible: bool
    """Whether each member was shown to be needed."""


class Events:
    """What an engine tells on the way, and hears.

    Parameters
    ----------
    found : callable
        Takes the objective, the point, and the bound or None, of each better solution.
    """

    def __init__(self, found: Callable[[float, Floats, float | None], None]) -> None:
        self.found = found
        self._stop = threading.Event()
        self._stoppers: list[Callable[[], None]] = []

    def on_stop(self, stopper: Callable[[], None]) -> None:
        """Have it called, from another thread, when the engine is to stop; at once if it is so already."""
        self._stoppers.append(stopper)
        if self._stop.is_set():
            stopper()

    def stop(self) -> None:
        """Ask the engine to stop and give what it has."""
        self._stop.set()
        for stopper in self._stoppers:
            stopper()

    @property
    def stopped(self) -> bool:
        """Whether the engine was asked to stop."""
        return self._stop.is_set()


class Engine(Protocol):
    """One module of `solver.optimization.engines` each; imported in the process that solves, and only there."""

    NAME: str

    @staticmethod
    def version() -> str:
        """Return the version of the library."""

    @staticmethod
    def refuses(program: Model) -> str | None:
        """Say why this program cannot be given to it; None: it solves such programs exactly."""

    @staticmethod
    def solve(program: Model, options: Options, events: Events) -> Outcome:
        """Solve a program that is to be minimised."""
