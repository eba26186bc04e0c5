"""What a question of the type `optimization` looks like, and how it is to be answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from compute.config import parse_bytes
from solver.optimization.constraints.kinds import KINDS
from solver.stochastic_query import Uncertainty
from solver.task_parameters import TaskParameters

DEFAULT_TIME_LIMIT = 60.0

SOURCES = ("expressions", "constraints", "model", "uri")

EngineName = Literal["highs", "scip", "cp-sat", "clarabel", "slsqp", "trust-constr", "cobyqa", "differential-evolution"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class OptimizationQuery(_Strict):
    """The best values of variables under constraints: linear, quadratic, nonlinear, of whole numbers, of intervals.

    The program is given in one of four ways: as `expressions` that a person reads, as `constraints` in the names of
    CP-SAT, as a `model` of arrays in the names of MathOpt, or as a file at a `uri` (`.mps`, `.qps`, `.lp`, `.nl`,
    `.opb`, `.cnf`, `.txt` of a job shop, `.rcp`, `.tsp`; also `.gz` and `.xz` of these).
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "optimization",
                    "expressions": {
                        "variables": {"chairs": {"lower": 0, "integer": True}, "tables": {"lower": 0, "integer": True}},
                        "maximize": "45*chairs + 80*tables",
                        "subject_to": ["wood: 5*chairs + 20*tables <= 400", "work: 10*chairs + 15*tables <= 450"],
                    },
                },
                {
                    "type": "optimization",
                    "expressions": {
                        "variables": {"radius": {"lower": 0.1, "upper": 10}, "height": {"lower": 0.1, "upper": 10}},
                        "minimize": "2*pi*radius**2 + 2*pi*radius*height",
                        "subject_to": ["volume: pi*radius**2*height >= 1"],
                    },
                },
                {
                    "type": "optimization",
                    "constraints": {
                        "horizon": 30,
                        "variables": {"end": {"lower": 0, "upper": 30}, "overtime": {"boolean": True}},
                        "intervals": {
                            "saw": {"duration": 4},
                            "glue": {"duration": 6},
                            "paint": {"duration": 3},
                            "polish": {"duration": 5, "optional": True},
                        },
                        "constraints": [
                            "glue.start >= saw.end",
                            {"no_overlap": ["saw", "paint", "polish"]},
                            {
                                "cumulative": {
                                    "intervals": ["saw", "glue", "paint", "polish"],
                                    "demands": [2, 1, 1, 1],
                                    "capacity": "2 + overtime",
                                }
                            },
                            {"bool_or": ["overtime", "polish.present"]},
                            {"linear": "paint.start >= glue.end", "if": "not overtime"},
                            {"max_equality": {"target": "end", "expressions": ["glue.end", "paint.end", "polish.end"]}},
                        ],
                        "minimize": "end + 3*overtime",
                    },
                },
                {
                    "type": "optimization",
                    "model": {
                        "variables": {"names": ["x", "y"], "lower_bounds": 0, "upper_bounds": None},
                        "objective": {"maximize": True, "linear_coefficients": [3, 2]},
                        "linear_constraints": {"lower_bounds": None, "upper_bounds": [4, 6]},
                        "linear_constraint_matrix": {
                            "row_ids": [0, 0, 1, 1],
                            "column_ids": [0, 1, 0, 1],
                            "coefficients": [1, 1, 1, 3],
                        },
                    },
                },
            ]
        }
    )

    type: Literal["optimization"]
    expressions: dict[str, Any] | None = Field(
        None,
        description="`variables` {name: {lower, upper, integer}}, `minimize` or `maximize`, `subject_to` "
        "[...]: of numbers, variables, + - * / ** and functions such as exp, log, sqrt, sin, abs, min, floor.",
    )
    constraints: dict[str, Any] | None = Field(
        None,
        description="`variables` {name: {lower, upper} or {values} or {boolean: true}}, `intervals` {name: {start, "
        "duration, end, present or optional}}, `horizon`, `constraints` [texts of comparisons, and objects with one of "
        f"{', '.join(KINDS)}; also `name` and `if`], `minimize` or `maximize`.",
    )
    model: dict[str, Any] | None = Field(
        None,
        description="`variables` {names, lower_bounds, upper_bounds, integers}, `objective` {maximize, offset, "
        "linear_coefficients, quadratic_coefficients}, `linear_constraints` {names, lower_bounds, upper_bounds}, "
        "`linear_constraint_matrix` {row_ids or row_starts, column_ids, coefficients}. Scalars stand for arrays of "
        'them; null and "inf" are no bounds; {dtype, base64} is an array, too.',
    )
    uri: str | None = Field(None, min_length=1, description="The URI of a file.")

    @model_validator(mode="after")
    def _one_source(self) -> OptimizationQuery:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are both given" if given else "none of them is given"
            raise ValueError(f"a program is given as one of {', '.join(SOURCES)}; {found}")
        return self


class DecisionQuery(_Strict):
    """The best plan when what it depends on is predicted: an optimization in whose arrays predictions may stand.

    Any array of numbers in the `model` may be `{"$predict": {"model": "demand@champion", "rows": [...]}}`: what that
    model predicts of the rows. The version is pinned when the question is accepted, and told in the answer.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "decision",
                    "model": {
                        "variables": {
                            "names": ["early", "late"],
                            "lower_bounds": 0,
                            "upper_bounds": 1,
                            "integers": True,
                        },
                        "objective": {
                            "linear_coefficients": {
                                "$predict": {
                                    "model": "delays@champion",
                                    "rows": [
                                        {"distance": 1400, "carrier": "UA", "night": False},
                                        {"distance": 700, "carrier": "WN", "night": True},
                                    ],
                                }
                            }
                        },
                        "linear_constraints": {"lower_bounds": [1]},
                        "linear_constraint_matrix": {
                            "row_ids": [0, 0],
                            "column_ids": [0, 1],
                            "coefficients": [1, 1],
                        },
                    },
                }
            ]
        }
    )

    type: Literal["decision"]
    model: dict[str, Any] = Field(description="As of an optimization.")
    uncertainty: Uncertainty | None = Field(
        None, description="Left out: what is predicted is taken for the truth. Else the plan is good over scenarios."
    )


class WarmStart(_Strict):
    """Another task's answer, to begin with."""

    task: str = Field(description="Its id. Variables that only one of the two programs has are left out.")
    values: dict[str, float] | None = Field(None, description="Its answer; filled in when the question is accepted.")


class OptimizationParameters(TaskParameters):
    """How the answer is to be found."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"time_limit": 10, "engines": ["highs", "scip"]}]})

    time_limit: float = Field(
        DEFAULT_TIME_LIMIT, gt=0, le=86_400, description="Seconds; what is best then is the answer."
    )
    relative_gap: float = Field(1e-4, ge=0, lt=1, description="To the bound, at which whole numbers are good enough.")
    threads: int | None = Field(
        None, ge=1, le=256,
        description="CPUs that the engines may use; left out: one, and idle ones of the node for engines that race.",
    )  # fmt: skip
    seed: int = Field(0, ge=0, lt=2**31)
    engines: list[EngineName] | None = Field(
        None,
        min_length=1,
        description="To be asked in this order: each when the one before has no good answer, or to race with it.",
    )
    hint: dict[str, float] | None = Field(None, description="Values of variables to begin with, by name.")
    warm_start: WarmStart | None = Field(None, description="A task to begin where it ended; `hint` goes before it.")
    solutions: int = Field(
        1, ge=1, le=1000, description="Above 1, `solution_pool` has as many different ones, as far as they were found."
    )
    memory: Annotated[int, BeforeValidator(parse_bytes)] | None = Field(
        None, ge=2**28, description='What the process of an engine may take, such as "4g".'
    )
    validation_only: bool = Field(False, description="Check the program, and tell its size; solve nothing.")
