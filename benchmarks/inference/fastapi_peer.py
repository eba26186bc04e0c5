"""A model behind FastAPI on uvicorn, as FastAPI's documentation has it: `python -m ... MODEL PORT`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.inference.models import read_model


class Rows(BaseModel):
    """The body of a request."""

    rows: list[list[float]]


def application(path: str) -> FastAPI:
    """Return the application."""
    app = FastAPI()
    predict = read_model(path)

    @app.post("/predict")
    async def answer(body: Rows) -> dict[str, Any]:
        return {"predictions": predict(np.array(body.rows, dtype="float32")).tolist()}

    return app


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
