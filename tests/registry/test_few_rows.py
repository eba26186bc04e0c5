"""Requests of a few rows are answered as the library answers: by a faster way where there is one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from compute import Config
from compute.errors import ColumnInvalid
from registry import LoadedModel, capture_signature, encode, get_model_registry
from registry.few_rows import few_rows
from tests.environment import local_config

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "distance": RNG.integers(0, 40, 3000) / 4,  # many values lie on the thresholds themselves
        "weight": RNG.normal(size=3000),
        "carrier": RNG.choice(["AA", "B6", "UA", "WN"], 3000),
    }
)
FRAME.loc[RNG.random(3000) < 0.1, "distance"] = np.nan
AMOUNT = FRAME["distance"].fillna(20) * 3 + FRAME["weight"] ** 2 + (FRAME["carrier"] == "UA") * 7 + 30
CLASSES = np.digitize(AMOUNT, [40, 50])


def booster(target: Any, objective: str, **params: Any) -> tuple[Any, Any]:
    task: Any = "regression" if objective.startswith(("reg", "count")) else None
    signature = capture_signature(FRAME, target="y", target_values=target, task=task)
    table = xgboost.DMatrix(
        encode(FRAME, signature), label=target, feature_names=list(signature.feature_names),
        feature_types=list(signature.feature_types), enable_categorical=True,
    )  # fmt: skip
    evals = {"evals": [(table, "train")], "early_stopping_rounds": 2} if params.pop("stops", False) else {}
    return xgboost.train({"objective": objective, **params}, table, 30, verbose_eval=False, **evals), signature


def estimator(model: Any, target: Any) -> tuple[Any, Any]:
    task: Any = "regression" if isinstance(model, ExtraTreesRegressor) else None
    signature = capture_signature(FRAME, target="y", target_values=target, task=task)
    return model.fit(encode(FRAME, signature, dtype="float64"), target), signature


MODELS = {
    "amounts": lambda: booster(AMOUNT, "reg:squarederror"),
    "stopped early": lambda: booster(AMOUNT, "reg:squarederror", stops=True, eta=1.0),
    "counts": lambda: booster(np.round(AMOUNT), "count:poisson"),
    "two classes": lambda: booster(CLASSES > 0, "binary:logistic"),
    "raw": lambda: booster(FRAME["weight"] > 1, "binary:logitraw", base_score=0.3),
    "three classes": lambda: booster(CLASSES, "multi:softprob", num_class=3),
    "labels": lambda: booster(CLASSES, "multi:softmax", num_class=3),
    "forest": lambda: estimator(RandomForestClassifier(20, random_state=0), CLASSES),
    "trees": lambda: estimator(ExtraTreesRegressor(20, random_state=0), AMOUNT),
    "histograms": lambda: estimator(HistGradientBoostingClassifier(max_iter=10), CLASSES > 0),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    registry = get_model_registry(local_config(tmp_path_factory.mktemp("few").as_uri()))
    native, signature = MODELS[request.param]()
    kind = "xgboost" if isinstance(native, xgboost.Booster) else "sklearn"
    return registry.load_model(registry.register_model(native, kind, signature=signature), threads=1)


@pytest.fixture(scope="module")
def fast(model: LoadedModel) -> LoadedModel:
    return model.with_few_rows()


def test_the_faster_way_is_taken_and_answers_the_same(model: LoadedModel, fast: LoadedModel) -> None:
    assert fast._few_rows is not None, "these kinds of models have one"
    for start in range(0, 300, 3):
        rows = FRAME.iloc[start : start + 3]
        assert np.array_equal(fast.predict(rows), model.predict(rows)) or np.allclose(
            fast.predict(rows).astype(float), model.predict(rows).astype(float), rtol=1e-9, atol=0
        )
        if model.gives_probabilities:
            assert np.allclose(fast.predict(rows, proba=True), model.predict(rows, proba=True), rtol=1e-6, atol=2e-7)
            labels, chances = fast.answer(rows, labels=True, proba=True)
            assert labels is not None
            assert chances is not None
            assert np.array_equal(labels, fast.predict(rows))
            assert np.array_equal(chances, fast.predict(rows, proba=True))


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "distance": st.one_of(
                    st.none(), st.integers(-2, 42).map(lambda number: number / 4), st.floats(-1e6, 1e6)
                ),
                "weight": st.one_of(st.none(), st.floats(-1e30, 1e30)),
                "carrier": st.sampled_from(["AA", "B6", "UA", "WN", "never seen", None]),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None)
def test_whatever_the_row_the_answers_are_the_same(
    model: LoadedModel, fast: LoadedModel, rows: list[dict[str, Any]]
) -> None:
    assert np.allclose(fast.predict(rows).astype(float), model.predict(rows).astype(float), rtol=1e-9, atol=0)


def test_a_model_for_which_there_is_no_faster_way_is_as_it_was(config: Config) -> None:
    from sklearn.linear_model import LinearRegression

    registry = get_model_registry(config)
    model = registry.load_model(
        registry.register_model(
            LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]), "linear", example=pd.DataFrame({"x": [1.0]})
        )
    )
    assert model.with_few_rows().predict([{"x": 3.0}])[0] == pytest.approx(3.0)


def test_a_sure_classifier_of_even_classes_has_it_too() -> None:
    # Its sums begin at the logit of nearly a half, of which single precision has few digits, and end far from there.
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 8)).astype("float32")
    table = xgboost.DMatrix(rows, label=rows[:, 0] + rows[:, 1] > 0)
    model = xgboost.train({"objective": "binary:logistic", "base_score": 0.49975}, table, 100)
    native = functools.partial(model.inplace_predict, validate_features=False)
    found = few_rows(model, native, 8)
    assert found is not None
    assert (found.score(rows) == native(rows)).all()


@pytest.mark.parametrize(
    ("estimator", "value"),
    [(RandomForestClassifier(10, random_state=0), 1e300), (LogisticRegression(), None)],
    ids=["too large", "missing"],
)
def test_a_value_that_the_estimator_refuses_is_named_however_many_rows(
    config: Config, estimator: Any, value: float | None
) -> None:
    rows = pd.DataFrame({"u": RNG.normal(size=200), "v": RNG.normal(size=200)})
    registry = get_model_registry(config)
    known = registry.register_model(estimator.fit(rows, rows["u"] > 0), "any", example=rows)
    model = registry.load_model(known).with_few_rows()
    assert model._few_rows is not None
    good = [{"u": 0.5, "v": 0.0}]
    for count in (0, 2, 5000):
        with pytest.raises(ColumnInvalid) as refused:
            model.predict([*good * count, {"u": value, "v": 0.0}, *good * count])
        assert refused.value.context == {"feature": "u", "row": count}
