"""Where to look for parameters: search spaces as data, and those that are looked through when none is given.

optuna is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField
from jobs.columns import nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_RANGE = {"low", "high", "log", "step"}
_RATE = {"low": 0.01, "high": 0.3, "log": True}
_SHARE = {"low": 0.5, "high": 1.0}
_PENALTY = {"low": 1e-3, "high": 10.0, "log": True}
_SPACES: dict[str, dict[str, Any]] = {
    "xgboost": {
        "max_depth": {"low": 3, "high": 10},
        "learning_rate": _RATE,
        "min_child_weight": {"low": 1.0, "high": 20.0, "log": True},
        "subsample": _SHARE,
        "colsample_bytree": _SHARE,
        "reg_lambda": _PENALTY,
    },
    "lightgbm": {
        "num_leaves": {"low": 7, "high": 255, "log": True},
        "learning_rate": _RATE,
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "feature_fraction": _SHARE,
        "lambda_l2": _PENALTY,
    },
    "gradient_boosting": {
        "max_leaf_nodes": {"low": 7, "high": 255, "log": True},
        "learning_rate": _RATE,
        "min_samples_leaf": {"low": 5, "high": 100, "log": True},
        "l2_regularization": _PENALTY,
    },
    "random_forest": {
        "max_features": {"low": 0.2, "high": 1.0},
        "min_samples_leaf": {"low": 1, "high": 50, "log": True},
    },
}
_LINEAR = {"regression": "alpha", "binary": "C", "multiclass": "C"}


def default_space(model_type: str, task: str) -> dict[str, Any]:
    """Return the space of a model type: what its library's documentation says matters most.

    Examples
    --------
    >>> default_space("linear", "regression")
    {'alpha': {'low': 0.0001, 'high': 1000.0, 'log': True}}
    """
    if model_type in ("linear", "logistic"):
        return {_LINEAR[task]: {"low": 1e-4, "high": 1e3, "log": True}}
    return dict(_SPACES[model_type])


def read_space(space: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions.

    Parameters
    ----------
    space : mapping
        For each parameter a list of choices, or ``{"low": ..., "high": ...}`` with ``"log": true`` where orders of
        magnitude matter, or a ``"step"``. Both ends are included; they are whole numbers for a parameter that is one.

    Raises
    ------
    InvalidField
        Naming the parameter.

    Examples
    --------
    >>> read_space({"max_depth": {"low": 3, "high": 10}, "booster": ["gbtree", "dart"]})["max_depth"]
    IntDistribution(high=10, log=False, low=3, step=1)
    """
    if not isinstance(space, Mapping) or not space:
        raise InvalidField(
            f"the search space is {space!r:.100}",
            hint='Give {"parameter": {"low": ..., "high": ...}} or {"parameter": [choices]}.',
            context={"field": "search_space"},
        )
    return {str(name): _distribution(str(name), wanted) for name, wanted in space.items()}


def _distribution(name: str, wanted: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(wanted, list | tuple):
        if not wanted or not all(choice is None or isinstance(choice, bool | int | float | str) for choice in wanted):
            raise _refusal(name, f"has the choices {wanted!r:.100}", "They are numbers, texts, booleans or null.")
        return CategoricalDistribution(tuple(wanted))
    if not isinstance(wanted, Mapping) or not {"low", "high"} <= wanted.keys():
        raise _refusal(name, f"is {wanted!r:.100}", 'Give a list of choices, or {"low": ..., "high": ...}.')
    unknown = sorted(set(wanted) - _RANGE)
    if unknown:
        raise _refusal(name, f"has the key {unknown[0]!r}{nearest(unknown[0], _RANGE)}", "See the documentation.")
    low, high, log, step = wanted["low"], wanted["high"], wanted.get("log", False), wanted.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise _refusal(name, f"goes from {low!r:.40} to {high!r:.40}", "Both are numbers.")
    try:
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(low, high, log=bool(log), step=1 if step is None else step)
        return FloatDistribution(float(low), float(high), log=bool(log), step=step)
    except ValueError as error:
        raise _refusal(name, f"cannot be searched: {error}", "low is at most high, and positive with log.") from None


def _refusal(name: str, problem: str, hint: str) -> InvalidField:
    return InvalidField(
        f"the parameter {name!r} of the search space {problem}", hint=hint, context={"field": "search_space"}
    )
