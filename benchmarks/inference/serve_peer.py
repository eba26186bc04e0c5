"""A model behind Ray Serve as it comes: `python -m ... MODEL PORT`."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.inference.models import read_model


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Model:
    """As Ray Serve's documentation has it."""

    def __init__(self, path: str) -> None:
        self.predict = read_model(path)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        body = await request.json()
        return {"predictions": self.predict(np.array(body["rows"], dtype="float32")).tolist()}


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Model.bind(sys.argv[1]), route_prefix="/predict")
    while True:
        time.sleep(3600)
