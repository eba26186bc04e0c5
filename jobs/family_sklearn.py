"""Random forests and linear models: scikit-learn estimators on the encoded matrix.

scikit-learn is imported inside functions (it takes seconds).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField
from jobs.families import Family, Problem, refuse_unknown, take_rounds

if TYPE_CHECKING:
    from jobs.families import Matrix

_FOREST = {"n_estimators": 100, "min_samples_leaf": 5}
_LOGISTIC = {"max_iter": 1000}


def _forest(task: str) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    return RandomForestRegressor if task == "regression" else RandomForestClassifier


def _linear(task: str) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    return Ridge if task == "regression" else LogisticRegression


def check_forest(params: Mapping[str, Any], task: str | None) -> None:
    """Compare the names with the estimator's own."""
    kinds = ("regression", "binary") if task is None else (task,)
    known = {name for kind in kinds for name in _forest(kind)().get_params()}
    refuse_unknown(params, known, "scikit-learn's random forest")
    take_rounds(params, ("n_estimators",))


def check_linear(params: Mapping[str, Any], task: str | None) -> None:
    """Compare the names with the estimator's own."""
    kinds = ("regression", "binary") if task is None else (task,)
    known = {name for kind in kinds for name in _linear(kind)().get_params()}
    refuse_unknown(params, known, "scikit-learn's " + " or ".join(_linear(kind).__name__ for kind in kinds))


def fit_forest(matrix: Matrix, target: Matrix, problem: Problem) -> Any:
    """Grow the trees on all threads; they take missing values and category numbers as they are."""
    kind = _forest(problem.target.task)
    check_forest(problem.params, problem.target.task)
    model = kind(**{"random_state": problem.seed, "n_jobs": problem.threads, **_FOREST, **problem.params})
    _fit(model, matrix, target, problem)
    # The number of threads is this machine's, not the model's.
    return model.set_params(n_jobs=None)


def fit_linear(matrix: Matrix, target: Matrix, problem: Problem) -> Any:
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
        return _fit(make_pipeline(ColumnTransformer(steps), estimator), matrix, target, problem)


def _fit(model: Any, matrix: Matrix, target: Matrix, problem: Problem) -> Any:
    try:
        return model.fit(matrix, target if problem.target.task == "regression" else target.astype("int64"))
    except (ValueError, TypeError) as error:
        # The matrix and the target were checked before: what is left to refuse are values of parameters.
        raise InvalidField(f"scikit-learn refused the parameters: {error}") from error


def score(model: Any, matrix: Matrix, problem: Problem) -> Matrix:
    """Predict values, or the probabilities of the classes."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(problem.threads):
        values: Matrix = model.predict(matrix) if problem.target.task == "regression" else model.predict_proba(matrix)
    return values


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
    distributes=False,
    check=check_forest,
    fit=fit_forest,
    score=score,
    rounds=lambda params: take_rounds(params, ("n_estimators",))[0],
    peak=_forest_peak,
)

LINEAR = Family(
    model_type="linear",
    libraries=("scikit-learn",),
    dtype="float64",
    distributes=False,
    check=check_linear,
    fit=fit_linear,
    score=score,
    rounds=lambda _params: 1,
    # The imputed and scaled copies, and a sparse or dense matrix behind them.
    peak=lambda rows, features, _params: rows * features * 8 * 3,
)
