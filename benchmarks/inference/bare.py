"""Our own application on uvicorn without Ray, which is the limit of one process: `python -m ... PORT`."""

from __future__ import annotations

import sys

import uvicorn

from compute import load_config
from deployments.log import log_to_stderr
from deployments.scoring import Scorer
from deployments.v2_api import v2_api
from deployments.v2_service import V2Service
from registry import get_model_registry

if __name__ == "__main__":
    log_to_stderr()
    config = load_config()
    registry = get_model_registry(config)
    app = v2_api(V2Service(registry, Scorer(registry, threads=1)), config)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), root_path="/v2", log_level="warning", access_log=False)
