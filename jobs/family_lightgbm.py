"""LightGBM: a native Booster on the encoded matrix, categories as categories.

lightgbm is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField
from jobs.families import ROUNDS, Boosting, Family, Problem, plain_names, refuse_unknown, take_rounds

if TYPE_CHECKING:
    from jobs.boosting import Watch
    from jobs.families import Matrix

_OBJECTIVES = {
    "regression": (
        "regression", "regression_l2", "l2", "mean_squared_error", "mse", "l2_root", "root_mean_squared_error", "rmse",
        "regression_l1", "l1", "mean_absolute_error", "mae", "huber", "fair", "poisson", "quantile", "mape",
        "mean_absolute_percentage_error", "gamma", "tweedie",
    ),
    "binary": ("binary",),
    "multiclass": ("multiclass", "softmax"),
}  # fmt: skip
# These change what a model is or where its data come from, which is settled here.
_OURS = {
    "data",
    "valid",
    "task",
    "input_model",
    "output_model",
    "machines",
    "num_machines",
    "num_class",
    "categorical_feature",
}


def check(params: Mapping[str, Any], task: str | None) -> None:
    """Look the names up in LightGBM's own table of parameters and aliases."""
    from lightgbm.basic import _ConfigAliases

    _, rest = take_rounds(params, ROUNDS)
    # LightGBM publishes the table through its C interface; this is the only reader of it in the package.
    table = _ConfigAliases._get_all_param_aliases()
    known = {alias for aliases in table.values() for alias in aliases} | set(table) | set(ROUNDS)
    refuse_unknown(rest, known - _OURS, "LightGBM")
    _check_objective(rest, task)


def _check_objective(params: Mapping[str, Any], task: str | None) -> None:
    objective = params.get("objective")
    allowed = _OBJECTIVES[task] if task else tuple(item for group in _OBJECTIVES.values() for item in group)
    if objective is not None and objective not in allowed:
        raise InvalidField(
            f"the objective {objective!r} does not give what a {task or 'registered'} model must predict",
            hint=f"Use one of {', '.join(allowed)}, or leave it out.",
            context={"parameters": ["objective"]},
        )


def booster_params(problem: Problem) -> tuple[int, dict[str, Any]]:
    """Return the number of rounds and the parameters of `lightgbm.train`; the caller's win over ours."""
    from lightgbm.basic import _ConfigAliases

    rounds, rest = take_rounds(problem.params, ROUNDS)
    task = problem.target.task
    _check_objective(rest, task)
    ours: dict[str, Any] = {
        "objective": task,
        "seed": problem.seed,
        "num_threads": problem.threads,
        # Without it the layout is chosen by a stopwatch, and the sums, so the trees, change from run to run.
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
    if task == "multiclass":
        ours["num_class"] = problem.classes
    if problem.monotone:
        ours["monotone_constraints"] = list(problem.monotone)
    kept = {name: value for name, value in ours.items() if not _ConfigAliases.get(name) & rest.keys()}
    if rest.get("force_row_wise"):
        kept.pop("force_col_wise", None)
    return rounds, {**kept, **rest}


def dataset_options(problem: Problem) -> dict[str, Any]:
    """Return the names and kinds of the columns, for a Dataset."""
    return {
        "feature_name": plain_names(problem.columns),
        "categorical_feature": [index for index, count in enumerate(problem.categories) if count],
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
    """Train on a binned copy of the matrix, going on from the rounds of a model if one is given."""
    import lightgbm

    rounds, params = booster_params(problem)
    data = lightgbm.Dataset(matrix, label=target, weight=weights, params=params, **dataset_options(problem))
    watched: dict[str, Any] = {}
    if watch is not None:
        seen = data.create_valid(watch.matrix, label=watch.truth, weight=watch.weights, params=params)
        watched = {"valid_sets": [seen], "callbacks": [_stopper(watch)]}
    try:
        return lightgbm.train(params, data, rounds, init_model=start, **watched)
    except lightgbm.basic.LightGBMError as error:
        raise InvalidField(f"LightGBM refused the parameters: {error}") from error


def _stopper(watch: Watch) -> Callable[[Any], None]:
    from lightgbm.callback import EarlyStopException

    def after(env: Any) -> None:
        result = env.evaluation_result_list[-1]
        if watch.add(float(result[2]), higher=bool(result[3])):
            raise EarlyStopException(env.iteration, env.evaluation_result_list)

    return after


def score(booster: Any, matrix: Matrix, problem: Problem) -> Matrix:
    """Predict with the booster."""
    return _at(booster, matrix, problem, -1)


def _at(booster: Any, matrix: Matrix, problem: Problem, rounds: int) -> Matrix:
    import numpy as np

    raw: Matrix = booster.predict(matrix, num_iteration=rounds, num_threads=problem.threads)
    return np.column_stack([1 - raw, raw]) if problem.target.task == "binary" else raw


def _first(booster: Any, rounds: int) -> Any:
    return _load(booster.model_to_string(num_iteration=rounds).encode())


def _load(data: bytes) -> Any:
    import lightgbm

    return lightgbm.Booster(model_str=data.decode())


LIGHTGBM = Family(
    model_type="lightgbm",
    libraries=("lightgbm",),
    # As it is scored: thresholds are kept in double precision, and a time in single is known to minutes only.
    dtype="float64",
    distributes="rows",
    check=check,
    fit=fit,
    score=score,
    rounds=lambda params: take_rounds(params, ROUNDS)[0],
    # The binned matrix (one or two bytes a cell), and gradients, positions and predictions for each row.
    peak=lambda rows, features, _params: rows * (2 * features + 40),
    importances=lambda booster, _matrix, _problem: booster.feature_importance("gain"),
    continues=True,
    boosting=Boosting(
        count=lambda booster: int(booster.current_iteration()),
        first=_first,
        at=_at,
        dump=lambda booster: booster.model_to_string(num_iteration=-1).encode(),
        load=_load,
    ),
    monotone=True,
)
