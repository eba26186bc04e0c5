"""What has no trees is compiled to ONNX for a few rows, and answers as scikit-learn does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, RobustScaler, StandardScaler

from registry import LoadedModel, ModelRegistry, capture_signature
from registry.few_rows import few_rows

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:lbfgs failed")

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(500, 4)) * [1, 10, 1000, 0.01]
AMOUNT = ROWS @ [1.0, 0.3, 0.001, 50.0]
CLASSES = np.digitize(AMOUNT, [-1, 1])

MODELS: dict[str, Any] = {
    "linear": (LinearRegression(), AMOUNT),
    "scaled": (make_pipeline(StandardScaler(), ElasticNet(alpha=0.01)), AMOUNT),
    "components": (make_pipeline(RobustScaler(), PCA(2), LinearRegression()), AMOUNT),
    "two classes": (make_pipeline(StandardScaler(), LogisticRegression()), AMOUNT > 0),
    "three classes": (make_pipeline(MinMaxScaler(), LogisticRegression()), CLASSES),
    "by gradient": (make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)), CLASSES),
    "network": (make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=30)), AMOUNT),
    "network of classes": (make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30)), CLASSES),
}
NUMBERS = st.one_of(st.floats(-1e9, 1e9), st.sampled_from([0.0, -0.0, 1e-300, 1.0]))


@pytest.fixture(scope="module", params=MODELS)
def known(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    estimator, target = MODELS[request.param]
    estimator.fit(ROWS, target)
    native = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.predict
    found = few_rows(estimator, native, ROWS.shape[1])
    assert found is not None, "these kinds of models have one"
    return estimator, native, found


@given(npst.arrays("float64", st.tuples(st.integers(1, 5), st.just(4)), elements=NUMBERS))
def test_whatever_the_rows_the_answers_are_the_same(known: tuple[Any, Any, Any], rows: NDArray[Any]) -> None:
    _, native, found = known
    expected, answer = native(rows), found.score(rows)
    if answer is None:
        return  # the library is asked
    assert answer.shape == expected.shape
    # Sums may cancel: what is left of them is as exact as their largest part.
    assert np.allclose(answer, expected, rtol=1e-9, atol=1e-12 * np.abs(rows).max() if expected.ndim == 1 else 0)


def test_most_rows_are_answered_and_labels_are_those_of_the_library(known: tuple[Any, Any, Any]) -> None:
    estimator, _, found = known
    answers = [found.score(rows) for rows in np.split(ROWS, 250)]
    assert sum(answer is not None for answer in answers) > 10  # by gradient, few probabilities are between 0 and 1
    for rows, answer in zip(np.split(ROWS, 250), answers, strict=True):
        if answer is not None and answer.ndim == 2:
            assert np.array_equal(estimator.classes_[answer.argmax(axis=1)], estimator.predict(rows))


def test_the_library_is_asked_about_what_it_may_refuse(known: tuple[Any, Any, Any]) -> None:
    _, _, found = known
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        assert found.score(np.vstack([ROWS[:2], np.full(4, bad)])) is None


@pytest.mark.parametrize(
    ("estimator", "scale"),
    [(SGDClassifier(loss="modified_huber", random_state=0), 1), (SGDClassifier(loss="log_loss", random_state=0), 1000),
     (LogisticRegression(), 1)],
    ids=["huber", "large", "logistic"],
)  # fmt: skip
def test_labels_are_those_of_the_decision_not_of_rounded_probabilities(
    local_registry: ModelRegistry, estimator: Any, scale: float
) -> None:
    rows = np.vstack([ROWS[:, :2] * [1, 0.1] * scale, [[1e-17, 0], [0, 0], [1e-20, -1e-20], [1e5, 1e5]]])
    estimator.fit(rows[:-4], np.array(["low", "middle", "high"])[CLASSES])
    example = pd.DataFrame(rows[:9], columns=["a", "b"])
    model = local_registry.load_model(
        local_registry.register_model(estimator, "labels", example=example)
    ).with_few_rows()
    for start in range(len(rows)):
        assert np.array_equal(model.predict(rows[start : start + 1]), estimator.predict(rows[start : start + 1]))
        chances = estimator.predict_proba(rows[start : start + 1])
        assert np.allclose(model.predict(rows[start : start + 1], proba=True), chances, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "estimator", [make_pipeline(KBinsDiscretizer(3), LogisticRegression()), GaussianNB()], ids=["bins", "bayes"]
)
def test_what_has_steps_or_is_of_another_kind_stays_as_it_is(estimator: Any) -> None:
    estimator.fit(ROWS, CLASSES)
    assert few_rows(estimator, estimator.predict_proba, 4) is None


def test_a_served_model_gives_labels_and_probabilities(local_registry: ModelRegistry) -> None:
    frame = pd.DataFrame(ROWS, columns=list("abcd"))
    labels = np.array(["low", "middle", "high"])[CLASSES]
    signature = capture_signature(frame, target="y", target_values=labels)
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, labels)
    model: LoadedModel = local_registry.load_model(
        local_registry.register_model(estimator, "logistic", signature=signature)
    )
    served = model.with_few_rows()
    assert served._few_rows is not None
    for start in range(0, 500, 50):
        rows = frame.iloc[start : start + 50]
        expected, found = model.answer(rows, labels=True, proba=True), served.answer(rows, labels=True, proba=True)
        assert np.array_equal(found[0], expected[0])  # type: ignore[arg-type]
        assert np.allclose(found[1], expected[1], rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]
