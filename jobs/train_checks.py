"""What a training cannot be asked, said before any data are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compute.errors import CapabilityMissing, InvalidField
from jobs.checkpoints import check_every
from jobs.families import Family
from jobs.request import Request

_STOPPING = ("early_stopping_rounds", "early_stopping_round", "early_stopping")


def check_options(
    family: Family,
    params: Mapping[str, Any],
    monotone: Mapping[str, int] | None,
    early_stopping: int | None,
    checkpoint_every: int | None,
    folds: int | None,
) -> dict[str, int]:
    """Refuse what the model type cannot do; return the monotone constraints that are any.

    Examples
    --------
    >>> from jobs.families import find_family
    >>> check_options(find_family("xgboost"), {}, {"age": 1, "height": 0}, None, None, None)
    {'age': 1}
    """
    if early_stopping is not None:
        if not isinstance(early_stopping, int) or isinstance(early_stopping, bool) or early_stopping < 1:
            raise InvalidField(
                f"early_stopping is {early_stopping!r}, and must be a whole number of rounds, at least 1",
                hint="20 stops when 20 rounds brought nothing.",
                context={"field": "early_stopping"},
            )
        if family.boosting is None:
            raise _missing(family, "stop early", "early_stopping", "xgboost, lightgbm or gradient_boosting")
    named = next((name for name in _STOPPING if name in params), None)
    if named is not None and family.continues:
        raise InvalidField(
            f"{named!r} in model_params has no rows to watch",
            hint="Give early_stopping=ROUNDS (--early-stopping), beside model_params.",
            context={"parameters": [named]},
        )
    check_every(checkpoint_every)
    if checkpoint_every is not None:
        if not family.continues:
            raise _missing(family, "go on from a checkpoint", "checkpoint_every", "xgboost or lightgbm")
        if folds is not None:
            raise InvalidField(
                "checkpoint_every and cross_validation do not go together",
                hint="Measure by folds first, then train with checkpoints.",
                context={"field": "checkpoint_every"},
            )
    if monotone is None:
        return {}
    wrong = next((name for name, sign in monotone.items() if sign not in (-1, 0, 1) or isinstance(sign, bool)), None)
    if wrong is not None:
        raise InvalidField(
            f"monotone_constraints gives {wrong!r} {monotone[wrong]!r}",
            hint="1: may only rise with it; -1: may only fall; 0: either.",
            context={"field": "monotone_constraints"},
        )
    if not family.monotone and any(monotone.values()):
        raise _missing(family, "be held monotone", "monotone_constraints", "a model type with trees")
    return {name: int(sign) for name, sign in monotone.items() if sign}


def _missing(family: Family, what: str, option: str, instead: str) -> CapabilityMissing:
    return CapabilityMissing(
        f"{family.model_type} models cannot {what}",
        hint=f"Leave out {option}, or choose {instead}.",
        context={"field": option},
    )


def here_only(request: Request, distribute: bool | None, engine: str | None) -> str | None:
    """Return the option that only one process can do, None when there is none.

    Raises
    ------
    CapabilityMissing
        When it was to be distributed all the same; naming the option.
    """
    how = request.how
    asked = {
        "cross_validation": how.folds is not None,
        # The workers of LightGBM do not reckon a metric together.
        "early_stopping": request.patience is not None and request.family.model_type != "xgboost",
        "checkpoint_every": request.every is not None,
        "continue_from": request.parent is not None,
        # It is reckoned from all trees, where they are grown.
        "oob_score": request.family.distributes == "trees" and bool(request.params.get("oob_score")),
    }
    if engine is not None:
        asked |= {
            "validation": how.kind == "stratified",
            "group_col": how.kind == "group",
            "time_col": how.kind == "time",
            "weight_col": request.weight is not None,
            "class_weight": request.class_weight is not None,
            "early_stopping": request.patience is not None,
        }
    option = next((name for name, given in asked.items() if given), None)
    if option is None:
        return None
    if engine is not None:
        raise CapabilityMissing(
            f"the engine {engine!r} does not take {option}", hint="Leave one of them out.", context={"field": option}
        )
    if distribute:
        raise CapabilityMissing(
            f"{option} is for training in one process, and distribute_data is True",
            hint=f"Give distribute_data=False (all of this node's cores are used), or leave out {option}.",
            context={"field": option},
        )
    return option


def fixed_workers(asked: int | tuple[int, int] | None, what: str) -> int | None:
    """Return the number of workers where it cannot change during a run.

    Raises
    ------
    CapabilityMissing
        When a range was asked for.

    Examples
    --------
    >>> fixed_workers(2, "a Dask DataFrame")
    2
    """
    if isinstance(asked, tuple):
        raise CapabilityMissing(
            f"{what} is trained with a fixed number of workers, and num_workers is {asked!r}",
            hint="Give one number.",
            context={"field": "num_workers"},
        )
    return asked
