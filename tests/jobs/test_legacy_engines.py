"""The engines of the extra `legacy`, without it; with it they are tested by `make test-legacy`."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from compute import Config
from compute.errors import BackendUnavailable, InvalidField
from jobs import get_ml_tasks

FRAME = pd.DataFrame({"x": range(40), "y": [i * 1.5 for i in range(40)]})


@pytest.mark.parametrize(("engine", "package"), [("xgboost_ray", "xgboost-ray"), ("lightgbm_ray", "lightgbm-ray")])
def test_without_the_extra_the_error_names_it(config: Config, engine: str, package: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        get_ml_tasks(config).train_model(FRAME, "y", engine=engine)
    assert package in caught.value.detail
    assert "tablework[legacy]" in str(caught.value)
    assert caught.value.context["extra"] == "legacy"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "spark"}, "no engine 'spark'"),
        ({"engine": "xgboost_ray", "model_type": "linear"}, "not 'linear'"),
        ({"engine": "xgboost_ray", "model_type": "lightgbm"}, "not 'lightgbm'"),
        ({"engine": "lightgbm_ray", "distribute_data": False}, "distribute_data is False"),
    ],
)
def test_what_does_not_go_together(config: Config, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidField, match=said):
        get_ml_tasks(config).train_model(FRAME, "y", **options)
