"""Replicas share the set of models: HAProxy keeps a model to one replica, unless that has too many requests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest


class Telling:
    """An application of which each replica says who it is, half a second late."""

    def __serve_build_asgi_app__(self) -> Any:
        async def tell(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                for event in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{event}.complete"})
                return
            await asyncio.sleep(0.5 if scope["path"].endswith("late") else 0)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

        return tell


@pytest.mark.slow
def test_a_model_keeps_to_a_replica_until_that_has_too_many_requests(serve: Any, deploy: Callable[[str], str]) -> None:
    url = deploy("index").rstrip("/") + "/telling"
    deployment = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.02})(serve.ingress()(Telling))
    serve.run(deployment.bind(), name="telling", route_prefix="/telling")
    with httpx.Client(timeout=30) as client:
        names = [f"model-{number}" for number in range(30)]
        deadline = time.monotonic() + 20
        while len({client.get(f"{url}/models/{name}/infer").text for name in names}) < 2:
            assert time.monotonic() < deadline, "one replica gets everything"
        first = {name: client.get(f"{url}/models/{name}/infer").text for name in names}
        for _ in range(3):
            assert {name: client.get(f"{url}/models/{name}/infer").text for name in names} == first
        shares = sorted(list(first.values()).count(replica) for replica in set(first.values()))
        assert shares[0] >= 5

        def ask(_: int) -> str:
            return client.get(f"{url}/models/hot/late").text

        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(ask, range(32)))
        assert min(found.count(replica) for replica in set(found)) >= 8
        assert len(set(found)) == 2
    serve.delete("telling")
