"""What questions of the types `simulation` and `sweep` look like, and how they are to be answered."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from solver.task_parameters import Strict, TaskParameters

_SHOP: Any = {
    "variables": {"chairs": {"lower": 0}, "tables": {"lower": 0}},
    "maximize": "45*chairs + price*tables",
    "subject_to": ["5*chairs + 20*tables <= wood", "10*chairs + 15*tables <= 450"],
}


class SimulationQuery(Strict):
    """What comes out when the inputs are not known: Monte Carlo over a formula, a registered model or an optimization.

    `inputs` are numbers, or distributions by SciPy's names; a Gaussian copula gives them `correlations`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "simulation",
                    "formula": "price * min(demand, 120) - 300",
                    "inputs": {
                        "demand": {"distribution": "norm", "loc": 100, "scale": 20},
                        "price": {"distribution": "uniform", "loc": 4, "scale": 2},
                    },
                    "correlations": [{"of": ["demand", "price"], "is": -0.5}],
                },
                {
                    "type": "simulation",
                    "model": "delays@champion",
                    "row": {"carrier": "UA", "night": False},
                    "inputs": {"distance": {"distribution": "gamma", "a": 4, "scale": 300}},
                },
                {
                    "type": "simulation",
                    "optimization": {"expressions": _SHOP},
                    "inputs": {"wood": {"distribution": "norm", "loc": 400, "scale": 40}, "price": 80},
                },
            ]
        }
    )

    type: Literal["simulation"]
    inputs: dict[str, Any] = Field(
        description='For each name a number, or {"distribution": "norm", "loc": 100, "scale": 20}.'
    )
    correlations: list[dict[str, Any]] = Field([], description='[{"of": ["demand", "price"], "is": -0.5}]')
    formula: str | None = Field(None, description="Of the inputs; + - * / **, comparisons, min, max, where, exp, ...")
    model: str | None = Field(None, min_length=1, description="A regression; the inputs are features of it.")
    row: dict[str, Any] = Field({}, description="With `model`: the features that are no inputs.")
    optimization: dict[str, Any] | None = Field(
        None,
        description='`expressions`, in which inputs stand by name, or a `model` with {"$input": name} in its arrays; '
        "the outcome is the objective's value.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> SimulationQuery:
        given = [name for name in ("formula", "model", "optimization") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of formula, model and optimization; {len(given)} are given")
        return self


class SimulationParameters(TaskParameters):
    """How the answer is to be found."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"samples": 20_000, "tolerance": 0.01, "seed": 7}]})

    samples: int = Field(10_000, ge=10, le=5_000_000, description="At most.")
    tolerance: float | None = Field(
        None, gt=0, description="Stop when the mean's confidence interval is no wider to either side, relative to it."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the interval of the mean.")
    quantiles: list[float] = Field([0.05, 0.25, 0.5, 0.75, 0.95], max_length=100)
    bins: int = Field(30, ge=1, le=1000, description="Of the histogram.")
    seed: int = Field(0, ge=0, description="The same seed gives the same numbers, however many workers there are.")


class SweepQuery(Strict):
    """An optimization solved for each of many scenarios, by each of several options."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "sweep",
                    "optimization": {"expressions": _SHOP},
                    "scenarios": [{"wood": 300, "price": 80}, {"wood": 400, "price": 80}, {"wood": 400, "price": 20}],
                    "options": [{}, {"engines": ["scip"]}],
                }
            ]
        }
    )

    type: Literal["sweep"]
    optimization: dict[str, Any] | None = Field(None, description="As of a simulation; inputs are what scenarios name.")
    scenarios: list[dict[str, float]] = Field([], max_length=100_000, description="The values of the inputs.")
    instances: list[dict[str, Any]] = Field(
        [], max_length=10_000, description="Instead: optimizations, each as `expressions` or as `model`."
    )
    options: list[dict[str, Any]] = Field(
        [{}], min_length=1, max_length=100, description="`time_limit`, `relative_gap`, `seed`, `engines` of each solve."
    )

    @model_validator(mode="after")
    def _one_source(self) -> SweepQuery:
        if (self.optimization is not None and bool(self.scenarios)) == bool(self.instances):
            raise ValueError("give an optimization and scenarios, or instances")
        if self.scenarios and any(set(one) != set(self.scenarios[0]) for one in self.scenarios):
            raise ValueError("scenarios: each names the same inputs")
        return self


class SweepParameters(TaskParameters):
    """How the answers are to be found."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"time_limit": 10}]})

    time_limit: float = Field(60.0, gt=0, le=86_400, description="Seconds of each solve, where options say nothing.")
    variables: bool = Field(False, description="Also the values of the variables of each solve.")
