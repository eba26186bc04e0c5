"""One request for predictions, whatever form it came in: what may be asked of any version of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deployments.micro_batches import Asked, Found

if TYPE_CHECKING:
    from registry import LoadedModel

Answer = TypeVar("Answer")

Sticky = Callable[[str], str | None]
"""Gives the value of a header, or of a parameter, by its name; what `TrafficPlan.sticky` names."""


@dataclass(frozen=True, slots=True)
class Question(Generic[Answer]):
    """What is asked.

    Parameters
    ----------
    rows : int
        How many.
    ask : callable
        Returns what a model is to be asked; pure, as is `reply`, so that a shadow can be asked the same.
    reply : callable
        Makes the answer of what the model found.
    inputs : callable
        Returns the rows as they came: a list of dicts, or columns by name. Called only if they are kept.
    outputs : callable
        Returns the columns of an answer: ``predict`` and ``predict_proba``, the latter of shape (rows, classes).
    """

    rows: int
    ask: Callable[[LoadedModel], Asked]
    reply: Callable[[LoadedModel, Found], Answer]
    inputs: Callable[[], Any]
    outputs: Callable[[Answer], Mapping[str, Any]]

    def answer(self, model: LoadedModel) -> Answer:
        """Ask a model."""
        return self.reply(model, self.ask(model).of(model))


def nothing_sticky(_: str) -> str | None:
    """Return None: the request has neither headers nor parameters."""
    return None
