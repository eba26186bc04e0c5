"""Random forests, histogram gradient boosting and linear models: scikit-learn estimators on the encoded matrix.

scikit-learn is imported inside functions (it takes seconds).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField
from jobs.families import Boosting, Family, Problem, refuse_unknown, take_rounds

if TYPE_CHECKING:
    from jobs.boosting import Watch
    from jobs.families import Matrix

_FOREST = {"n_estimators": 100, "min_samples_leaf": 5}
_FOREST_EFFORT = 25.0
"""Measured on 327,346 x 9 x 40, next to XGBoost to a depth of 8."""
_LOGISTIC = {"max_iter": 1000}
_BOOSTING_ROUNDS = ("max_iter", "n_estimators", "num_boost_round")


def _forest(task: str) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    return RandomForestRegressor if task == "regression" else RandomForestClassifier


def _boosting(task: str) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier


def _linear(task: str) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    return Ridge if task == "regression" else LogisticRegression


def check_forest(params: Mapping[str, Any], task: str | None) -> None:
    """Compare the names with the estimator's own."""
    kinds = ("regression", "binary") if task is None else (task,)
    known = {name for kind in kinds for name in _forest(kind)().get_params()}
    refuse_unknown(params, known, "scikit-learn's random forest")
    take_rounds(params, ("n_estimators",))


def check_boosting(params: Mapping[str, Any], task: str | None) -> None:
    """Compare the names with the estimator's own, less what is settled here."""
    kinds = ("regression", "binary") if task is None else (task,)
    known = {name for kind in kinds for name in _boosting(kind)().get_params()} - {"categorical_features", "warm_start"}
    refuse_unknown(params, known | set(_BOOSTING_ROUNDS), "scikit-learn's histogram gradient boosting")
    take_rounds(params, _BOOSTING_ROUNDS)


def check_logistic(params: Mapping[str, Any], task: str | None) -> None:
    """Compare the names with the estimator's own; amounts are not for it."""
    if task == "regression":
        raise InvalidField(
            'model_type="logistic" predicts classes, and the target holds amounts',
            hint='Use model_type="linear", or task="classification" if they are class numbers.',
            context={"model_type": "logistic"},
        )
    refuse_unknown(params, _linear("binary")().get_params(), "scikit-learn's LogisticRegression")


def check_linear(params: Mapping[str, Any], task: str | None) -> None:
    """Compare the names with the estimator's own."""
    kinds = ("regression", "binary") if task is None else (task,)
    known = {name for kind in kinds for name in _linear(kind)().get_params()}
    refuse_unknown(params, known, "scikit-learn's " + " or ".join(_linear(kind).__name__ for kind in kinds))


def fit_forest(matrix: Matrix, target: Matrix, problem: Problem, *, weights: Matrix | None = None) -> Any:
    """Grow the trees on all threads; they take missing values and category numbers as they are."""
    return settled(fit_estimator(make_forest(problem), matrix, target, problem, sample_weight=weights))


def make_forest(problem: Problem) -> Any:
    """Return a forest that is not grown yet."""
    check_forest(problem.params, problem.target.task)
    ours = {"random_state": problem.seed, "n_jobs": problem.threads, **_FOREST, **_constraints(problem)}
    return _forest(problem.target.task)(**{**ours, **problem.params})


def settled(forest: Any) -> Any:
    """Return a forest as it is kept: the number of threads is this machine's, not the model's."""
    return forest.set_params(n_jobs=None)


def _constraints(problem: Problem) -> dict[str, Any]:
    return {"monotonic_cst": list(problem.monotone)} if problem.monotone else {}


def fit_boosting(
    matrix: Matrix, target: Matrix, problem: Problem, *, weights: Matrix | None = None, watch: Watch | None = None
) -> Any:
    """Boost on histograms; category numbers are taken as they are, as forests take them.

    Told which columns are categories, the estimator would keep a function inside, and a model that does cannot be
    loaded without running code.
    """
    import numpy as np
    from threadpoolctl import threadpool_limits

    check_boosting(problem.params, problem.target.task)
    rounds, params = take_rounds(problem.params, _BOOSTING_ROUNDS)
    # Early stopping would hold back rows by itself, and depend on how many there are.
    ours = {"random_state": problem.seed, "early_stopping": False, **_constraints(problem)}
    options: dict[str, Any] = {"sample_weight": weights}
    if watch is not None:
        ours |= {"early_stopping": True, "n_iter_no_change": watch.patience, "tol": 0.0, "scoring": "loss"}
    empty = np.isnan(matrix).all(axis=0)
    if empty.any():  # it takes missing values, but not a column of nothing else; one that is constant, no tree uses
        matrix = np.where(empty, 0.0, matrix)
    if watch is not None:
        watched = watch.truth if problem.target.task == "regression" else watch.truth.astype("int64")
        options |= {"X_val": watch.matrix, "y_val": watched, "sample_weight_val": watch.weights}
    model = _boosting(problem.target.task)(**{**ours, **params, "max_iter": rounds})
    with threadpool_limits(problem.threads):
        fit_estimator(model, matrix, target, problem, **options)
    if watch is not None:
        for score in model.validation_score_[1:]:  # the first is that of no rounds
            watch.add(-float(score))
    return model


def fit_logistic(matrix: Matrix, target: Matrix, problem: Problem, *, weights: Matrix | None = None) -> Any:
    """Fit as a linear model of classes."""
    check_logistic(problem.params, problem.target.task)
    return fit_linear(matrix, target, problem, weights=weights)


def fit_linear(matrix: Matrix, target: Matrix, problem: Problem, *, weights: Matrix | None = None) -> Any:
    """Fit ridge or logistic regression behind one-hot categories, and imputed, scaled numbers."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from threadpoolctl import threadpool_limits

    check_linear(problem.params, problem.target.task)
    kind = _linear(problem.target.task)
    defaults = {} if problem.target.task == "regression" else _LOGISTIC
    estimator = kind(**{"random_state": problem.seed, **defaults, **problem.params})
    steps: list[tuple[str, Any, list[int]]] = []
    numbers = [index for index, count in enumerate(problem.categories) if not count]
    named = [index for index, count in enumerate(problem.categories) if count]
    if numbers:
        # A column that was empty in training has no mean; it stays, as zeros.
        steps.append(("numbers", make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()), numbers))
    if named:
        # A missing or unknown category is none of them: all zeros. Sparse: a thousand cost no more than one.
        known = [list(range(problem.categories[index])) for index in named]
        steps.append(("categories", OneHotEncoder(categories=known, handle_unknown="ignore"), named))
    with threadpool_limits(problem.threads):
        pipeline = make_pipeline(ColumnTransformer(steps), estimator)
        return fit_estimator(pipeline, matrix, target, problem, **{f"{pipeline.steps[-1][0]}__sample_weight": weights})


def fit_estimator(model: Any, matrix: Matrix, target: Matrix, problem: Problem, **options: Any) -> Any:
    """Fit an estimator; `options` that are None are left out."""
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return model.fit(matrix, target if problem.target.task == "regression" else target.astype("int64"), **given)
    except (ValueError, TypeError) as error:
        # The matrix and the target were checked before: what is left to refuse are values of parameters.
        raise InvalidField(f"scikit-learn refused the parameters: {error}") from error


def score(model: Any, matrix: Matrix, problem: Problem) -> Matrix:
    """Predict values, or the probabilities of the classes."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(problem.threads):
        values: Matrix = model.predict(matrix) if problem.target.task == "regression" else model.predict_proba(matrix)
    return values


def _first(model: Any, rounds: int) -> Any:
    """Return the estimator with its first rounds only; it has no public way to forget the others."""
    cut = copy.copy(model)
    cut._predictors = model._predictors[:rounds]
    return cut


def _gains(model: Any, matrix: Matrix, _problem: Problem) -> Matrix:
    """Sum the gains of the splits of the boosted trees: scikit-learn keeps them, and shows them to nobody."""
    import numpy as np

    gains = np.zeros(matrix.shape[1])
    for trees in model._predictors:
        for tree in trees:
            splits = tree.nodes[tree.nodes["is_leaf"] == 0]
            np.add.at(gains, splits["feature_idx"], splits["gain"])
    return gains


def _terms(model: Any, matrix: Matrix, _problem: Problem) -> Matrix:
    """Return the standard deviation, over the rows, of what each column adds to the linear model."""
    import numpy as np

    columns, estimator = model.steps[0][1], model.steps[-1][1]
    encoded = columns.transform(matrix)
    encoded = encoded.toarray() if hasattr(encoded, "toarray") else encoded
    spread = np.zeros(matrix.shape[1])
    position = 0
    for name, transformer, places in columns.transformers_:
        if name == "remainder":
            continue
        widths = [len(known) for known in transformer.categories_] if name == "categories" else [1] * len(places)
        for place, width in zip(places, widths, strict=True):
            terms = encoded[:, position : position + width] @ np.atleast_2d(estimator.coef_)[:, position : position + width].T  # noqa: E501  # fmt: skip
            spread[place] = terms.std(axis=0).mean()
            position += width
    return spread


def _forest_peak(rows: int, features: int, params: Mapping[str, Any]) -> int:
    trees, rest = take_rounds(params, ("n_estimators",))
    leaf = rest.get("min_samples_leaf", _FOREST["min_samples_leaf"])
    leaves = rows / leaf if isinstance(leaf, int) and leaf > 0 else 1000
    # A float32 copy of the matrix, and two nodes of 80 bytes for each leaf of each tree.
    return int(rows * features * 4 + trees * leaves * 160)


RANDOM_FOREST = Family(
    model_type="random_forest",
    libraries=("scikit-learn",),
    dtype="float64",
    distributes="trees",
    effort=_FOREST_EFFORT,
    check=check_forest,
    fit=fit_forest,
    score=score,
    rounds=lambda params: take_rounds(params, ("n_estimators",))[0],
    peak=_forest_peak,
    importances=lambda model, _matrix, _problem: model.feature_importances_,
    monotone=True,
)

LINEAR = Family(
    model_type="linear",
    libraries=("scikit-learn",),
    dtype="float64",
    check=check_linear,
    fit=fit_linear,
    score=score,
    rounds=lambda _params: 1,
    # The imputed and scaled copies, and a sparse or dense matrix behind them.
    peak=lambda rows, features, _params: rows * features * 8 * 3,
    importances=_terms,
)

GRADIENT_BOOSTING = Family(
    model_type="gradient_boosting",
    libraries=("scikit-learn",),
    dtype="float64",
    check=check_boosting,
    fit=fit_boosting,
    score=score,
    rounds=lambda params: take_rounds(params, _BOOSTING_ROUNDS)[0],
    # The binned matrix, one byte a cell, and gradients, hessians and positions for each row.
    peak=lambda rows, features, _params: rows * (features + 40),
    importances=_gains,
    boosting=Boosting(
        count=lambda model: len(model._predictors),
        first=_first,
        at=lambda model, matrix, problem, rounds: score(_first(model, rounds), matrix, problem),
    ),
    monotone=True,
)

LOGISTIC = replace(LINEAR, model_type="logistic", check=check_logistic, fit=fit_logistic)
