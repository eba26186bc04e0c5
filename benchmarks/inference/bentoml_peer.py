"""A model behind BentoML with its batching, as its documentation has it; runs in .venv-bentoml."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import xgboost


@bentoml.service(workers=1)
class Bench:
    """The service."""

    def __init__(self) -> None:
        self.model = xgboost.Booster(model_file=os.environ["BENCH_MODEL"])
        self.model.set_param({"nthread": 1})

    @bentoml.api(batchable=True)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Answer a batch."""
        return self.model.inplace_predict(rows.astype("float32"), validate_features=False)
