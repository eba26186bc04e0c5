"""How a decision takes into account that what was predicted is not sure."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from solver.task_parameters import Strict


class Uncertainty(Strict):
    """Scenarios of what was predicted, and what the plan is to be good at over them."""

    scenarios: int = Field(50, ge=2, le=5000, description="To each prediction errors on held-out rows are added.")
    method: Literal["bootstrap", "quantiles"] = Field(
        "bootstrap",
        description="Errors are drawn with replacement, or are so many quantiles of them, each once, in random order.",
    )
    measure: Literal["mean", "cvar"] = Field(
        "mean", description="The mean of the objective, or its mean over the worst `1 - alpha` of the scenarios."
    )
    alpha: float = Field(0.9, gt=0, lt=1, description="Of cvar.")
    later: list[str] = Field(
        [], description="Names of the variables that are settled when the truth is known; others are settled now."
    )
    seed: int = Field(0, ge=0)
