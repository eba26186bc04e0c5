"""XGBoost: a native Booster on the encoded matrix, categories as categories.

xgboost is imported inside functions (it takes seconds).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField
from jobs.families import Boosting, Family, Problem, plain_names, refuse_unknown, take_rounds

if TYPE_CHECKING:
    from jobs.boosting import Watch
    from jobs.families import Matrix

_ROUNDS = ("num_boost_round", "n_estimators")
_OBJECTIVES = {"regression": ("reg:", "count:"), "binary": ("binary:logistic",), "multiclass": ("multi:softprob",)}
_DEFAULT = {"regression": "reg:squarederror", "binary": "binary:logistic", "multiclass": "multi:softprob"}
# Parameters that take part only under certain others, so that the probe's configuration does not list them.
_CONDITIONAL = (
    "verbosity", "num_class", "eval_metric", "tweedie_variance_power", "huber_slope", "quantile_alpha",
    "expectile_alpha", "max_delta_step", "rate_drop", "one_drop", "skip_drop", "sample_type", "normalize_type",
    "feature_selector", "top_k",
)  # fmt: skip
# More of these is better; XGBoost's own early stopping goes by the same names.
_HIGHER = ("auc", "pre", "map", "ndcg")


def check(params: Mapping[str, Any], task: str | None) -> None:
    """Fit one round to four made-up rows: XGBoost itself says which names and values it does not take."""
    import numpy as np
    import xgboost

    _, rest = take_rounds(params, _ROUNDS)
    _check_objective(rest, task)
    # Whatever depends on the number of columns cannot be probed with made-up ones.
    probe = {
        name: value for name, value in rest.items() if name not in ("monotone_constraints", "interaction_constraints")
    }
    objective = str(rest.get("objective", _DEFAULT[task or "regression"]))
    probe |= {"objective": objective, "verbosity": 1, "nthread": 1}
    if objective.startswith("multi:"):
        probe["num_class"] = 2
    data = xgboost.QuantileDMatrix(np.arange(4, dtype="float32").reshape(4, 1), label=[0, 1, 0, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            booster = xgboost.train(probe, data, 1)
        except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
            # The first line says what is wrong; a stack trace of C++ follows.
            raise InvalidField(
                f"XGBoost refused the parameters: {str(error).partition('Stack trace')[0].strip()}"
            ) from error
    said = " ".join(str(item.message) for item in caught)
    if "are not used" in said:
        unused = {name for name in rest if f'"{name}"' in said}
        known = {*_names(json.loads(booster.save_config())), *_CONDITIONAL, *_ROUNDS, *rest} - unused
        refuse_unknown(rest, known, "XGBoost")


def _check_objective(params: Mapping[str, Any], task: str | None) -> None:
    if params.get("booster") == "gblinear":
        raise InvalidField('XGBoost\'s "gblinear" takes no categories', hint='Use model_type="linear".')
    objective = str(params.get("objective", ""))
    allowed = _OBJECTIVES[task] if task else tuple(item for group in _OBJECTIVES.values() for item in group)
    if objective and not objective.startswith(allowed):
        raise InvalidField(
            f"the objective {objective!r} does not give what a {task or 'registered'} model must predict",
            hint=f"Use one that starts with {' or '.join(allowed)}, or leave it out.",
            context={"parameters": ["objective"]},
        )


def _names(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _names(value)
        elif not isinstance(value, list):
            yield name


def booster_params(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Return the number of rounds and the parameters of `xgboost.train`; the caller's win over ours."""
    rounds, rest = take_rounds(problem.params, _ROUNDS)
    task = problem.target.task
    _check_objective(rest, task)
    ours: dict[str, Any] = {"objective": _DEFAULT[task], "tree_method": "hist"}
    if not {"seed", "random_state"} & rest.keys():
        ours["seed"] = problem.seed
    if not {"nthread", "n_jobs"} & rest.keys():
        ours["nthread"] = problem.threads
    if task == "multiclass":
        ours["num_class"] = problem.classes
    if problem.monotone:
        ours["monotone_constraints"] = problem.monotone
    return rounds, {**ours, **rest}


def matrix_options(problem: Problem) -> dict[str, Any]:
    """Return the names and kinds of the columns, for a DMatrix."""
    return {
        "feature_names": plain_names(problem.columns),
        "feature_types": ["c" if count else "q" for count in problem.categories],
        "enable_categorical": True,
    }


def fit(
    matrix: Matrix,
    target: Matrix,
    problem: Problem,
    start: Any = None,
    *,
    weights: Matrix | None = None,
    watch: Watch | None = None,
) -> Any:
    """Train on a quantised copy of the matrix, going on from the rounds of a model if one is given."""
    import xgboost

    rounds, params = booster_params(problem)
    options = {**matrix_options(problem), "max_bin": params.get("max_bin"), "nthread": problem.threads}
    data = xgboost.QuantileDMatrix(matrix, label=target, weight=weights, **options)
    watched: dict[str, Any] = {}
    if watch is not None:
        seen = xgboost.QuantileDMatrix(watch.matrix, label=watch.truth, weight=watch.weights, ref=data, **options)
        watched = {"evals": [(seen, "watched")], "verbose_eval": False, "callbacks": [stopper(watch)]}
    try:
        return xgboost.train(params, data, rounds, xgb_model=whole(start), **watched)
    except xgboost.core.XGBoostError as error:
        raise InvalidField(
            f"XGBoost refused the parameters: {str(error).partition('Stack trace')[0].strip()}"
        ) from error


def stopper(watch: Watch) -> Any:
    """Return a callback that stops when the watched rows have got no better for long enough."""
    import xgboost

    class Stopper(xgboost.callback.TrainingCallback):  # type: ignore[misc,unused-ignore]
        """Tells the watch what the last metric says after each round."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
            name, values = list(evals_log["watched"].items())[-1]
            return watch.add(float(values[-1]), higher=name != "mape" and name.startswith(_HIGHER))

    return Stopper()


def whole(start: Any) -> Any:
    """Return the rounds that a model predicts with, where it was stopped early by the library itself."""
    if start is None or start.attr("best_iteration") is None:
        return start
    cut = start[: int(start.attr("best_iteration")) + 1]
    cut.set_attr(best_iteration=None, best_score=None)
    return cut


def score(booster: Any, matrix: Matrix, problem: Problem) -> Matrix:
    """Predict in place, without a DMatrix."""
    return _at(booster, matrix, problem, 0)


def _at(booster: Any, matrix: Matrix, problem: Problem, rounds: int) -> Matrix:
    import numpy as np

    booster.set_param({"nthread": problem.threads})
    # Of 0 rounds, XGBoost takes all.
    raw: Matrix = booster.inplace_predict(matrix, iteration_range=(0, rounds), validate_features=False)
    return np.column_stack([1 - raw, raw]) if problem.target.task == "binary" else raw


def _gains(booster: Any, _matrix: Matrix, problem: Problem) -> Matrix:
    import numpy as np

    gains = booster.get_score(importance_type="total_gain")
    return np.array([gains.get(name, 0.0) for name in booster.feature_names or plain_names(problem.columns)])


def _load(data: bytes) -> Any:
    import xgboost

    return xgboost.Booster(model_file=bytearray(data))


XGBOOST = Family(
    model_type="xgboost",
    libraries=("xgboost",),
    dtype="float32",
    distributes="rows",
    check=check,
    fit=fit,
    score=score,
    rounds=lambda params: take_rounds(params, _ROUNDS)[0],
    # The quantised matrix (one or two bytes a cell), and gradients, positions and predictions for each row.
    peak=lambda rows, features, _params: rows * (2 * features + 40),
    importances=_gains,
    continues=True,
    boosting=Boosting(
        count=lambda booster: int(booster.num_boosted_rounds()),
        first=lambda booster, rounds: booster[:rounds],
        at=_at,
        dump=lambda booster: bytes(booster.save_raw("ubj")),
        load=_load,
    ),
    monotone=True,
)
