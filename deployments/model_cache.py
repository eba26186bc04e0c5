"""The models that a replica holds: loaded once on first use, kept by recency within a budget."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry import LoadedModel, ModelRecord

logger = logging.getLogger(__name__)

Key = tuple[str, str]

_SWITCH = 0.0001
"""Seconds; see `sys.setswitchinterval`."""
_LINGER = 2.0
"""Seconds for which that stays, at least; models that are loaded one after another keep it so."""


class ModelCache:
    """Loaded models by model id and digest of the artifact.

    Two requests for one model share one load, a slow load holds up nobody but those who wait for it, and a load goes
    on when who asked for it has gone. A failed load is not remembered.

    Parameters
    ----------
    load : callable
        Loads the model of a record; blocks; runs in one of `loaders` threads.
    max_bytes : int
        Sizes of the artifacts that are kept, together. The model used last stays even when it alone is larger.
    max_models : int
        How many are kept.
    loaders : int
        How many are loaded at once.
    """

    def __init__(
        self, load: Callable[[ModelRecord], LoadedModel], *, max_bytes: int, max_models: int, loaders: int = 2
    ) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._max_models = max_models
        self._threads = ThreadPoolExecutor(max_workers=loaders, thread_name_prefix="load")
        self._models: OrderedDict[Key, LoadedModel] = OrderedDict()
        self._loads: dict[Key, asyncio.Task[LoadedModel]] = {}
        self._bytes = 0
        self._modules = 0
        self._hurrying: asyncio.Task[None] | None = None
        self.pinned: frozenset[str] = frozenset()
        """Ids of models that stay, whatever the budget says."""

    async def get(self, record: ModelRecord) -> LoadedModel:
        """Return the model of the record, loading it when it is not there."""
        key = (record.model_id, record.artifact.digest)
        model = self._models.get(key)
        if model is not None:
            self._models.move_to_end(key)
            return model
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = asyncio.get_running_loop().create_task(self._fetch(record))
            load.add_done_callback(lambda done: self._settle(key, done))
        return await asyncio.shield(load)

    def drop(self, model_id: str) -> None:
        """Let a model go, if it is held; the next who asks has it loaded again."""
        for key in [key for key in self._models if key[0] == model_id]:
            self._bytes -= self._models.pop(key).record.artifact.size
            logger.info("event=model_dropped model_id=%s", model_id)

    def __len__(self) -> int:
        return len(self._models)

    async def _fetch(self, record: ModelRecord) -> LoadedModel:
        started = time.perf_counter()
        if self._hurrying is None:
            self._hurrying = asyncio.get_running_loop().create_task(self._answers_first())
        model = await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch_here, record)
        logger.info("event=model_loaded model_id=%s seconds=%.3f", record.model_id, time.perf_counter() - started)
        return model

    def _fetch_here(self, record: ModelRecord) -> LoadedModel:
        model = self._load(record)
        if len(sys.modules) != self._modules:
            # Libraries were imported. A full garbage collection would go through the 200,000 objects of them all, for
            # 120 ms in which nobody is answered: once a second under load. They stay, so it need not.
            gc.collect()
            gc.freeze()
            self._modules = len(sys.modules)
        return model

    async def _answers_first(self) -> None:
        """Have threads let go of the interpreter sooner than Python's 5 ms, until nothing has been loaded for a while.

        No answer takes so long, and each needs it back several times: after every call that does without it.
        """
        usual = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        try:
            while self._loads:
                await asyncio.sleep(_LINGER)
        finally:
            sys.setswitchinterval(usual)
            self._hurrying = None

    def _settle(self, key: Key, done: asyncio.Task[LoadedModel]) -> None:
        del self._loads[key]
        if done.cancelled() or done.exception() is not None:
            return
        self._models[key] = done.result()
        self._bytes += done.result().record.artifact.size
        while self._bytes > self._max_bytes or len(self._models) > self._max_models:
            # The one unused for longest; the last is the one that was just asked for.
            oldest = next((key for key in list(self._models)[:-1] if key[0] not in self.pinned), None)
            if oldest is None:
                break
            self._bytes -= self._models.pop(oldest).record.artifact.size
            logger.info("event=model_evicted model_id=%s", oldest[0])
