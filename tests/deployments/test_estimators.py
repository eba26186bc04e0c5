"""Estimators as their authors fitted them answer over HTTP what they say themselves, or say what they do not take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from compute import Config
from deployments.application import Application
from deployments.models_api import models_api
from deployments.scoring import Scorer
from deployments.tokens import Role, TokenStore
from deployments.v2_api import v2_api
from deployments.v2_service import V2Service
from registry import ModelRegistry, get_model_registry, open_store
from tests.environment import local_config

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame({"u": RNG.normal(size=300), "k": RNG.choice(["p", "q"], 300)})
FRAME["t"] = FRAME["u"] + (FRAME["k"] == "p") * 3
Ask = Callable[[str, str, Any], httpx.Response]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return local_config(str(tmp_path_factory.mktemp("estimators") / "state"))


@pytest.fixture(scope="module")
def registry(here: Config) -> ModelRegistry:
    return get_model_registry(here)


@pytest.fixture(scope="module")
def ask(here: Config, registry: ModelRegistry) -> Ask:
    """Posts to the application that has a path: ``/v2`` or ``/models``."""
    secret = TokenStore(open_store(here.storage.uri, here)).create("estimators", Role.READ, timedelta(hours=1)).secret

    def run(way: str, path: str, body: Any) -> httpx.Response:
        async def session() -> httpx.Response:
            scorer = Scorer(registry)
            app: Application = (
                v2_api(V2Service(registry, scorer), here) if way == "/v2" else models_api(registry, scorer, here, 1)
            )
            headers = {"Authorization": f"Bearer {secret}"}
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers
            ) as client:
                method = client.get if body is None else client.post
                return await method(path, **({} if body is None else {"json": body}))

        return asyncio.run(session())

    return run


def tensor(name: str, datatype: str, *values: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": list(values)}


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {output["name"]: output for output in response.json()["outputs"]}


def test_a_text_that_was_not_in_training_is_no_missing_one_on_either_way(registry: ModelRegistry, ask: Ask) -> None:
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    steps = make_column_transformer((texts, ["k"]), remainder="passthrough")
    model = make_pipeline(steps, LogisticRegression()).fit(FRAME[["u", "k"]], FRAME["t"] > 1.5)
    registry.register_model(model, "texts", name="texts", example=FRAME[["u", "k"]])
    values: list[list[Any]] = [[0.5, 0.5, 0.5], ["p", "never seen", None]]
    expected = model.predict_proba(pd.DataFrame({"u": values[0], "k": values[1]}))
    rows = [{"u": u, "k": k} for u, k in zip(*values, strict=True)]
    assert len(np.unique(expected[:, 0])) == 3, "or it shows nothing"
    found = ask("/models", "/texts/predict?proba=true", {"rows": rows}).json()["predictions"]
    assert np.allclose(found, expected)
    inputs = [tensor("k", "BYTES", *values[1]), tensor("u", "FP64", *values[0])]
    outputs = outputs_of(ask("/v2", "/models/texts/infer", {"inputs": inputs}))
    assert np.allclose(outputs["predict_proba"]["data"], expected.ravel())


@pytest.mark.parametrize("value", [None, 1e300])
@pytest.mark.parametrize("rows", [1, 100])
def test_a_value_that_the_model_refuses_is_the_callers_mistake_and_named(
    registry: ModelRegistry, ask: Ask, value: float | None, rows: int
) -> None:
    from sklearn.ensemble import GradientBoostingClassifier

    numbers = FRAME[["u", "t"]]
    model = GradientBoostingClassifier(n_estimators=5).fit(numbers, FRAME["k"])
    registry.register_model(model, "refusing", name="refusing", example=numbers)
    asked = [{"u": 0.5, "t": 0.1}] * (rows - 1) + [{"u": 0.5, "t": value}]
    response = ask("/models", "/refusing/predict", {"rows": asked})
    assert response.status_code == 422, response.text
    assert response.json()["context"] == {"feature": "t", "row": rows - 1}
    inputs = [tensor(name, "FP64", *(row[name] for row in asked)) for name in ("u", "t")]
    refusal = ask("/v2", "/models/refusing/infer", {"inputs": inputs})
    assert refusal.status_code == 400
    assert f"'t' {'is missing' if value is None else 'is 1e+300'} in row {rows - 1}" in refusal.json()["error"]


@pytest.mark.parametrize(
    ("labels", "datatype"),
    [(["q", "p"], "BYTES"), ([False, True], "BOOL"), ([3, 7], "INT64")],
    ids=["text", "bool", "int"],
)
def test_a_classifier_without_a_signature_gives_its_labels(
    registry: ModelRegistry, ask: Ask, labels: list[Any], datatype: str
) -> None:
    numbers = FRAME[["u", "t"]].to_numpy()
    model = LogisticRegression().fit(numbers, np.where(numbers[:, 1] > 1.5, labels[1], labels[0]))
    registry.register_model(model, "matrix", name="matrix")
    matrix = {"name": "m", "datatype": "FP64", "shape": [2, 2], "data": [0.0, -9.0, 0.0, 9.0]}
    output = outputs_of(ask("/v2", "/models/matrix/infer", {"inputs": [matrix]}))["predict"]
    assert (output["datatype"], output["shape"], output["data"]) == (datatype, [2], labels)
    described = ask("/v2", "/models/matrix", None).json()["outputs"]
    assert described == [{"name": "predict", "datatype": datatype, "shape": [-1]}]
    refusal = ask("/models", "/matrix/predict?proba=true", {"rows": [[0.0, 1.0]]})
    assert refusal.status_code == 422
    assert "without a signature" in refusal.json()["detail"]


def test_several_numbers_a_row_have_their_shape(registry: ModelRegistry, ask: Ask) -> None:
    model = LinearRegression().fit(FRAME[["u"]], FRAME[["u", "t"]])
    registry.register_model(model, "several", name="several", example=FRAME[["u"]])
    output = outputs_of(ask("/v2", "/models/several/infer", {"inputs": [tensor("u", "FP64", 0.5, 2.0, -1.0)]}))
    assert output["predict"]["shape"] == [3, 2]
    assert np.allclose(output["predict"]["data"], model.predict(pd.DataFrame({"u": [0.5, 2.0, -1.0]})).ravel())
