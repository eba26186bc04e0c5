"""Model types and their parameters: what a library would ignore is an error, and names what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from compute.errors import InvalidField
from jobs.families import find_family

TYPES = ("xgboost", "lightgbm", "random_forest", "gradient_boosting", "linear", "logistic")


def test_an_unknown_model_type_lists_those_there_are() -> None:
    with pytest.raises(
        InvalidField,
        match=r"did you mean 'lightgbm'.*xgboost, lightgbm, random_forest, gradient_boosting, linear, logistic",
    ) as caught:
        find_family("ligthgbm")
    assert caught.value.context["known"] == list(TYPES)


@pytest.mark.parametrize("task", [None, "regression", "binary", "multiclass"])
@pytest.mark.parametrize(
    ("model_type", "params", "words"),
    [
        ("xgboost", {"max_dpeth": 3}, "XGBoost has no parameter 'max_dpeth' .did you mean 'max_depth'"),
        (
            "xgboost",
            {"max_depth": 3, "lerning_rate": 1, "zzz": 1},
            r"'lerning_rate' \(did you mean 'learning_rate'\?\) \(nor zzz\)",
        ),
        ("xgboost", {"max_depth": "deep"}, "max_depth expect int"),
        ("xgboost", {"subsample": 7}, "subsample"),
        ("xgboost", {"objective": "reg:nonsense"}, "nonsense"),
        ("xgboost", {"objective": "rank:ndcg"}, "rank:ndcg"),
        ("xgboost", {"booster": "gblinear"}, 'model_type="linear"'),
        ("xgboost", {"n_estimators": 0}, "whole number"),
        ("xgboost", {"n_estimators": 3, "num_boost_round": 3}, "same parameter"),
        ("lightgbm", {"num_leafs": 3}, "LightGBM has no parameter 'num_leafs' .did you mean 'num_leaf"),
        ("lightgbm", {"num_class": 3}, "no parameter 'num_class'"),
        ("lightgbm", {"objective": "lambdarank"}, "lambdarank"),
        ("random_forest", {"n_estimator": 3}, "did you mean 'n_estimators'"),
        ("random_forest", {"n_estimators": 2.5}, "whole number"),
        ("gradient_boosting", {"max_itr": 3}, "did you mean 'max_iter'"),
        ("gradient_boosting", {"categorical_features": [0]}, "no parameter 'categorical_features'"),
        ("gradient_boosting", {"max_iter": 3, "n_estimators": 3}, "same parameter"),
        ("linear", {"alhpa": 3, "c": 1}, "no parameter 'alhpa'"),
    ],
)
def test_unknown_parameters_are_named(model_type: str, params: dict[str, Any], words: str, task: str | None) -> None:
    with pytest.raises(InvalidField, match=words):
        find_family(model_type).check(params, task)


@pytest.mark.parametrize(
    ("model_type", "params"),
    [
        ("xgboost", {}),
        ("xgboost", {"max_depth": 8, "eta": 0.1, "n_estimators": 10, "reg_lambda": 1, "eval_metric": "rmse"}),
        ("xgboost", {"objective": "reg:tweedie", "tweedie_variance_power": 1.4}),
        ("xgboost", {"booster": "dart", "rate_drop": 0.1}),
        ("xgboost", {"monotone_constraints": "(1,0,0)", "nthread": 1, "seed": 3}),
        ("lightgbm", {"num_leaves": 8, "eta": 0.1, "num_iterations": 10, "bagging_fraction": 0.5, "random_state": 1}),
        ("random_forest", {"n_estimators": 10, "max_depth": 3, "random_state": 1}),
        ("gradient_boosting", {"n_estimators": 10, "learning_rate": 0.2, "max_leaf_nodes": 7}),
        ("linear", {"fit_intercept": False}),
    ],
)
def test_known_parameters_pass_under_any_of_their_names(model_type: str, params: dict[str, Any]) -> None:
    find_family(model_type).check(params, "regression")


def test_logistic_is_for_classes() -> None:
    find_family("logistic").check({"C": 0.5}, "binary")
    with pytest.raises(InvalidField, match="no parameter 'alpha'"):
        find_family("logistic").check({"alpha": 1}, "binary")
    with pytest.raises(InvalidField, match='model_type="linear"'):
        find_family("logistic").check({}, "regression")
