"""What a study cannot be asked, said before any data are read where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField
from jobs.columns import nearest
from jobs.search import METRICS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_OF_REGRESSION = ("rmse", "mae", "r2")
_OF_TWO = ("roc_auc", "average_precision")


def check_counts(trials: int, folds: int | None, parallel: int | None, metric: str | None) -> None:
    """Refuse what is no number of trials, folds or trials at once, and what is no metric."""
    for name, value, least in (("trials", trials, 1), ("folds", folds, 2), ("parallel", parallel, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise InvalidField(
                f"{name} is {value!r}, and must be a whole number of at least {least}", context={"field": name}
            )
    if metric is not None and metric not in METRICS:
        raise InvalidField(
            f"there is no metric {metric!r}{nearest(str(metric), METRICS)}",
            hint=f"The metrics are {', '.join(METRICS)}.",
            context={"field": "metric"},
        )


def check_metric(metric: str, task: str) -> None:
    """Refuse a metric that says nothing of a task."""
    fitting = [name for name in METRICS if (name in _OF_REGRESSION) == (task == "regression")]
    if task == "multiclass":
        fitting = [name for name in fitting if name not in _OF_TWO]
    if metric not in fitting:
        raise InvalidField(
            f"the metric {metric!r} does not measure a {task} model",
            hint=f"Use {', '.join(fitting)}.",
            context={"field": "metric"},
        )


def check_parameters(
    check: Callable[[Mapping[str, Any], str | None], None],
    space: Mapping[str, BaseDistribution],
    fixed: Mapping[str, Any],
) -> None:
    """Have the library refuse names that it does not know, before any data are read."""
    sample = {name: getattr(wanted, "choices", None) or (getattr(wanted, "low", 0),) for name, wanted in space.items()}
    check({**fixed, **{name: values[0] for name, values in sample.items()}}, None)
