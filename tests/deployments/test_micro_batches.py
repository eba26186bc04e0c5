"""Requests that arrive together are scored in one call, and each gets what it would have got alone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from compute.errors import ColumnInvalid
from deployments.micro_batches import MOST, Asked, Found, MicroBatches
from deployments.scoring import Scorer
from registry import LoadedModel, ModelRegistry, get_model_registry
from tests.environment import local_config

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(300, 3))
LABELS = np.where(ROWS[:, 0] > ROWS[:, 1], "late", "on time")


class Counting(LogisticRegression):
    """scikit-learn's own, which says how many rows each call had."""

    def fit(self, *args: Any) -> Counting:
        self.calls: list[int] = []
        return super().fit(*args)  # type: ignore[no-any-return]

    def predict(self, rows: NDArray[Any]) -> NDArray[Any]:
        self.calls.append(len(rows))
        return super().predict(rows)  # type: ignore[no-any-return]


class Centred(BaseEstimator, TransformerMixin):  # type: ignore[misc]
    """What a row becomes depends on the others."""

    def fit(self, *_: Any) -> Centred:
        return self

    def transform(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows - rows.mean(axis=0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    return get_model_registry(local_config(tmp_path_factory.mktemp("batches").as_uri()))


@pytest.fixture(scope="module")
def known(registry: ModelRegistry) -> LoadedModel:
    example = pd.DataFrame(ROWS[:9], columns=["x", "y", "z"])
    native = LogisticRegression().fit(ROWS, LABELS)
    return registry.load_model(registry.register_model(native, "logistic", name="together", example=example))


@pytest.fixture
def model(known: LoadedModel) -> LoadedModel:
    """Has a native model that counts."""
    return LoadedModel(Counting().fit(ROWS, LABELS), known.record)


async def ask_together(batches: MicroBatches, model: LoadedModel, asked: list[Asked]) -> list[Found | Exception]:
    """Ask in one turn of the loop, as requests that arrived together do."""

    async def one(asked: Asked) -> Found:
        found = batches.answer(model, asked)
        return await found if isinstance(found, asyncio.Future) else found

    return await asyncio.gather(*(one(each) for each in asked), return_exceptions=True)  # type: ignore[return-value]


def labels_of(rows: NDArray[Any]) -> Asked:
    return Asked(rows, labels=True, proba=False)


def test_requests_of_one_turn_share_a_call(model: LoadedModel) -> None:
    expected = model.predict(ROWS[:20]).tolist()

    async def session() -> None:
        batches, asked = MicroBatches(), [labels_of(ROWS[place : place + 1]) for place in range(20)]
        for _ in range(3):
            model.model.calls.clear()
            answers = await ask_together(batches, model, asked)
            assert [found[0].tolist() for found in answers] == [[label] for label in expected]  # type: ignore[index, union-attr]

    asyncio.run(session())
    assert model.model.calls == [20], "the first two calls were looked at, row by row"


def test_more_than_a_call_takes_are_several(model: LoadedModel) -> None:
    async def session() -> None:
        batches, asked = MicroBatches(), [labels_of(ROWS[:1])] * (2 * MOST + 5)
        for _ in range(9):  # beyond the first calls, which are looked at
            model.model.calls.clear()
            await ask_together(batches, model, asked)

    asyncio.run(session())
    assert model.model.calls[:3] == [MOST, MOST, 5]


def test_one_request_at_a_time_is_scored_at_once(model: LoadedModel) -> None:
    async def session() -> None:
        batches = MicroBatches()
        for place in range(50):
            found = batches.answer(model, labels_of(ROWS[place : place + 1]))
            assert not isinstance(found, asyncio.Future)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(session())
    assert model.model.calls == [1] * 50


@given(
    st.lists(
        st.tuples(st.integers(0, 280), st.integers(0, 5), st.sampled_from(["labels", "proba", "both"])),
        min_size=1,
        max_size=12,
    )
)
def test_each_gets_what_it_asked_for(known: LoadedModel, requests: list[tuple[int, int, str]]) -> None:
    asked = [
        Asked(ROWS[start : start + count], labels=kind != "proba", proba=kind != "labels")
        for start, count, kind in requests
    ]

    async def session() -> None:
        batches = MicroBatches()
        for _ in range(3):
            for each, found in zip(asked, await ask_together(batches, known, asked), strict=True):
                assert not isinstance(found, Exception)
                for expected, answer in zip(each.of(known), found, strict=True):
                    if expected is None:
                        assert answer is None
                    elif expected.dtype.kind == "f":
                        assert answer is not None
                        assert answer.shape == expected.shape
                        assert np.allclose(answer, expected, rtol=1e-12)
                    else:
                        assert np.array_equal(answer, expected)

    asyncio.run(session())


def test_a_request_that_cannot_be_scored_fails_alone(model: LoadedModel) -> None:
    bad = np.full((1, 3), np.nan)  # which a logistic regression refuses

    async def session() -> None:
        batches = MicroBatches()
        for _ in range(4):
            found = await ask_together(batches, model, [labels_of(rows) for rows in (ROWS[:1], bad, ROWS[1:3], bad)])
            assert [isinstance(each, ColumnInvalid) for each in found] == [False, True, False, True]
            assert found[2][0].tolist() == model.predict(ROWS[1:3]).tolist()  # type: ignore[index]

    asyncio.run(session())


def test_who_has_gone_is_not_scored(model: LoadedModel) -> None:
    async def session() -> None:
        batches = MicroBatches()
        await ask_together(batches, model, [labels_of(ROWS[:1])] * 9)
        await ask_together(batches, model, [labels_of(ROWS[:1])] * 9)
        model.model.calls.clear()
        waiting = [batches.answer(model, labels_of(ROWS[:1])) for _ in range(9)]
        assert all(isinstance(future, asyncio.Future) for future in waiting)
        for future in waiting[::2]:
            future.cancel()  # type: ignore[union-attr]
        await asyncio.gather(*waiting[1::2])  # type: ignore[arg-type]

    asyncio.run(session())
    assert model.model.calls[0] == 4


def test_a_model_whose_rows_depend_on_each_other_is_never_batched(
    known: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    dependent = LoadedModel(make_pipeline(Centred(), LogisticRegression()).fit(ROWS, LABELS), known.record)

    async def session() -> None:
        batches = MicroBatches()
        asked = [Asked(ROWS[place : place + 1], labels=False, proba=True) for place in range(9)]
        for _ in range(5):
            for each, found in zip(asked, await ask_together(batches, dependent, asked), strict=True):
                assert np.array_equal(found[1], each.of(dependent)[1])  # type: ignore[index, arg-type]

    with caplog.at_level(logging.WARNING):
        asyncio.run(session())
    assert [record.message for record in caplog.records] == [
        f"event=micro_batches_left_out model={known.record.model_id} reason=rows_depend"
    ]


def test_rows_with_texts_for_an_estimator_go_together_as_they_came(registry: ModelRegistry) -> None:
    frame = pd.DataFrame({"x": ROWS[:, 0], "carrier": RNG.choice(["AA", "UA"], len(ROWS))})
    steps = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    native = make_pipeline(steps, LogisticRegression()).fit(frame, LABELS)
    known = registry.load_model(registry.register_model(native, "texts", example=frame.head(9)))
    counting = Counting()
    vars(counting).update(vars(native.steps[-1][1]), calls=[])
    model = LoadedModel(make_pipeline(steps, counting), known.record)
    records = frame.head(30).to_dict(orient="records")

    async def session() -> None:
        batches, asked = MicroBatches(), [labels_of(model.read([row])) for row in records]  # type: ignore[arg-type]
        for _ in range(3):
            counting.calls.clear()
            answers = await ask_together(batches, model, asked)
            found = [answer[0].tolist() for answer in answers]  # type: ignore[index, union-attr]
            assert found == [[label] for label in native.predict(frame.head(30))]

    asyncio.run(session())
    assert counting.calls == [30]


def test_raw_rows_are_batched_too_and_none_are_no_mistake(registry: ModelRegistry, known: LoadedModel) -> None:
    records = [dict(zip(("x", "y", "z"), row, strict=True)) for row in ROWS[:40].tolist()]

    async def session() -> None:
        scorer = Scorer(registry)
        for _ in range(3):
            answers = await asyncio.gather(*(scorer.predict("together", [row]) for row in records))
            assert [answer["predictions"] for answer in answers] == [[label] for label in known.predict(ROWS[:40])]
        assert (await scorer.predict("together", []))["predictions"] == []
        assert (await scorer.predict("together", [], proba=True))["predictions"] == []

    asyncio.run(session())
