"""What every question's parameters have: how the task that answers it is to be run."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """A part of a question: keys that it does not know are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TaskParameters(Strict):
    """How a task is to be run."""

    timeout: float | None = Field(None, gt=0, allow_inf_nan=False, description="Seconds that one attempt may run.")
    deadline: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds in which the task has to end, waiting and retries included; it is stopped then.",
    )
    priority: int = Field(0, ge=-1000, le=1000, description="Larger runs earlier among the caller's own tasks.")
