"""Metrics, splits and targets: the arithmetic before and after a model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as reference

from compute.errors import ColumnInvalid, DataError, InvalidField
from jobs.metrics import classification_metrics, measure, regression_metrics
from jobs.split import check_fraction, check_rows, held_out
from jobs.targets import find_target, without_nulls

amounts = st.floats(-1e6, 1e6, width=32)


@given(
    st.integers(2, 50).flatmap(
        lambda n: st.tuples(arrays("float64", n, elements=amounts), arrays("float64", n, elements=amounts))
    )
)
@settings(deadline=None)
def test_regression_metrics_are_those_of_the_field(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    found = regression_metrics(truth, predicted, 1.5)
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, predicted))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, predicted))
    if np.ptp(truth) > 1e-3:
        assert found["r2"] == pytest.approx(reference.r2_score(truth, predicted), rel=1e-6)
    assert found["baseline_rmse"] == pytest.approx(reference.root_mean_squared_error(truth, np.full(len(truth), 1.5)))


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
@settings(deadline=None, max_examples=50)
def test_classification_metrics_are_those_of_the_field(seed: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), draw.integers(0, classes, 60)])
    # Rounded, so that there are ties.
    chances = np.round(draw.random((len(truth), classes)) + 0.01, 1) + 0.01
    chances /= chances.sum(axis=1, keepdims=True)
    prior = np.bincount(truth) / len(truth)
    found = classification_metrics(truth, chances, prior)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, chances.argmax(axis=1)))
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, chances))
    assert found["baseline_log_loss"] == pytest.approx(reference.log_loss(truth, np.tile(prior, (len(truth), 1))))
    average = "binary" if classes == 2 else "macro"
    for name in ("precision", "recall", "f1"):
        of = getattr(reference, f"{name}_score")
        assert found[name] == pytest.approx(of(truth, chances.argmax(axis=1), average=average, zero_division=0))
    if classes == 2:
        assert found["average_precision"] == pytest.approx(reference.average_precision_score(truth, chances[:, 1]))
        assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, chances[:, 1]))
    else:
        assert not {"roc_auc", "average_precision"} & set(found)


def test_a_class_the_model_does_not_know_counts_as_wrong() -> None:
    found = measure(np.array([0, 1, -1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]), {"prior": [0.5, 0.5]})
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] > 5


@given(rows=st.integers(10, 500), fraction=st.floats(0.05, 0.9), seed=st.integers(0, 100), classes=st.integers(1, 4))
@settings(deadline=None)
def test_a_split_keeps_every_class_in_training(rows: int, fraction: float, seed: int, classes: int) -> None:
    places = np.random.default_rng(seed).integers(0, classes, rows)
    try:
        mask = held_out(places, rows, fraction, seed)
    except DataError:
        # Only when each class is so small that its share rounds to nothing.
        assert max(np.bincount(places)) * fraction <= 0.5 or max(np.bincount(places)) == 1
        return
    assert 0 < mask.sum() < rows
    assert set(places[~mask]) == set(places)
    for place in set(places):
        count = int((places == place).sum())
        assert abs(mask[places == place].sum() - count * fraction) <= 1
    assert (mask == held_out(places, rows, fraction, seed)).all()


def test_another_seed_is_another_split() -> None:
    assert (held_out(None, 100, 0.2, 0) != held_out(None, 100, 0.2, 1)).any()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fractions_that_leave_nothing(fraction: float) -> None:
    with pytest.raises(InvalidField, match="between 0 and 1"):
        check_fraction(fraction)


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match=r"x\.csv has 9 rows, and training needs at least 10"):
        check_rows(9, "x.csv")
    with pytest.raises(DataError, match=r"x\.csv has no rows"):
        check_rows(0, "x.csv")
    check_rows(10, "x.csv")


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        ([0.1, 0.2, 0.3], None, ("regression", None)),
        ([1, 2, 3], None, ("regression", None)),
        ([1, 2, 3], "classification", ("multiclass", (1, 2, 3))),
        ([1.0, 2.0, 3.0], "multiclass", ("multiclass", (1, 2, 3))),
        ([0, 1, 0], None, ("binary", (0, 1))),
        ([0.5, 1.5, 0.5], None, ("binary", (0.5, 1.5))),
        ([0, 1, 0], "regression", ("regression", None)),
        ([True, False, True], None, ("binary", (False, True))),
        (["b", "a", "c"], None, ("multiclass", ("a", "b", "c"))),
        (["b", "a", "a"], "binary", ("binary", ("a", "b"))),
        (["b", "a", "a"], "multiclass", ("binary", ("a", "b"))),
        (pd.Categorical(["b", "a", "c"]), None, ("multiclass", ("a", "b", "c"))),
        (pd.array([1, 2, 3], dtype="Int64"), None, ("regression", None)),
        (pd.array([True, False, True], dtype="boolean"), None, ("binary", (False, True))),
    ],
)
def test_the_task_is_found_from_the_target(values: object, task: str | None, expected: tuple[str, object]) -> None:
    series = pd.Series(values, name="y")  # type: ignore[call-overload]
    target = find_target(series, task)
    assert (target.task, target.classes) == expected
    assert target.reason
    encoded = target.encode(series)
    if target.classes is None:
        assert encoded.tolist() == series.astype("float32").tolist()
    else:
        assert [target.classes[int(place)] for place in encoded] == series.tolist()


@pytest.mark.parametrize(
    ("values", "task", "error", "words"),
    [
        ([1.0, 1.0], None, DataError, "only one value, 1.0"),
        (["a", "a"], None, DataError, "only one value, 'a'"),
        ([1.0, np.inf, 2.0, -np.inf], None, ColumnInvalid, "2 infinite values, the first in row 1"),
        ([1.0, 1e300, 2.0], None, ColumnInvalid, "infinite"),
        (["a", "b"], "regression", ColumnInvalid, "not amounts"),
        ([1, 2, 3], "binary", DataError, "3 classes"),
        ([1, 2], "clustering", InvalidField, "no task 'clustering'"),
        ([str(i) for i in range(1001)], None, DataError, "1,001 distinct"),
        (pd.date_range("2020-01-01", periods=3), None, ColumnInvalid, "dates"),
        ([[1], [2]], None, ColumnInvalid, "list"),
        ([1, "a", True], None, ColumnInvalid, "mixture"),
    ],
)
def test_targets_that_cannot_be_learnt(values: object, task: str | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        find_target(pd.Series(values, name="y"), task)  # type: ignore[call-overload]


def test_nulls_in_the_target() -> None:
    frame = pd.DataFrame({"x": range(5), "y": [1.0, None, 2.0, None, 3.0]})
    with pytest.raises(
        ColumnInvalid, match=r"null in 2 of 5 rows, the first in rows 1, 3\. .*drop_null_target=True"
    ) as e:
        without_nulls(frame, "y", drop=False)
    assert e.value.context == {"target": "y", "nulls": 2, "rows": [1, 3]}
    kept, count = without_nulls(frame, "y", drop=True)
    assert (kept["x"].tolist(), count, len(frame)) == ([0, 2, 4], 2, 5)
