"""`AsyncModelRegistry`: the registry for code in an event loop, such as Serve replicas and FastAPI handlers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from compute import Config
from registry.client import ModelRegistry, get_model_registry

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 64
"""Calls at once in a process; as many as the registry's actor answers at once."""

_Method = Callable[Concatenate["AsyncModelRegistry", P], Coroutine[Any, Any, T]]


@functools.lru_cache
def _threads(use: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix=use)


def _coroutine(method: Callable[Concatenate[ModelRegistry, P], T], use: str = "registry") -> _Method[P, T]:
    """Return the method as a coroutine: same arguments, answers and errors, carried out by a thread."""

    @functools.wraps(method)
    async def call(self: AsyncModelRegistry, /, *args: P.args, **kwargs: P.kwargs) -> T:
        bound = functools.partial(method, self._registry, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(_threads(use), bound)

    return call


class AsyncModelRegistry:
    """`ModelRegistry` with coroutines for methods; the loop is never blocked.

    A call that is cancelled before it began has not happened; one that runs goes on to its end, and nobody hears of
    it: what it writes is there wholly or not at all, as ever. Picklable; may be used from several loops and threads.

    Parameters
    ----------
    registry : ModelRegistry
        What does the work.

    Examples
    --------
    >>> import asyncio, tempfile
    >>> from compute import load_config
    >>> from sklearn.linear_model import LinearRegression
    >>> storage = load_config().storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> registry = get_async_model_registry(load_config().model_copy(update={"storage": storage}))
    >>> async def register_and_find():
    ...     model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    ...     model_id = await registry.register_model(model, "linear", name="line")
    ...     page, record = await asyncio.gather(registry.search_models('name = "line"'), registry.get_model(model_id))
    ...     return page.models == [record], record.version
    >>> asyncio.run(register_and_find())
    (True, 1)
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    register_model = _coroutine(ModelRegistry.register_model)
    register_file = _coroutine(ModelRegistry.register_file)
    import_mlflow = _coroutine(ModelRegistry.import_mlflow)
    export_mlflow = _coroutine(ModelRegistry.export_mlflow)
    load_model = _coroutine(ModelRegistry.load_model)
    get_model = _coroutine(ModelRegistry.get_model)
    resolve = _coroutine(ModelRegistry.resolve)
    update_model_metadata = _coroutine(ModelRegistry.update_model_metadata)
    list_models = _coroutine(ModelRegistry.list_models)
    search_models = _coroutine(ModelRegistry.search_models)
    delete_model = _coroutine(ModelRegistry.delete_model)
    restore_model = _coroutine(ModelRegistry.restore_model)
    list_deleted = _coroutine(ModelRegistry.list_deleted)
    collect = _coroutine(ModelRegistry.collect)
    set_alias = _coroutine(ModelRegistry.set_alias)
    set_traffic = _coroutine(ModelRegistry.set_traffic)
    traffic = _coroutine(ModelRegistry.traffic)
    traffic_results = _coroutine(ModelRegistry.traffic_results)
    report_traffic = _coroutine(ModelRegistry.report_traffic)
    changes = _coroutine(ModelRegistry.changes, "registry-changes")  # those that wait keep nobody else waiting


def get_async_model_registry(config: Config | None = None) -> AsyncModelRegistry:
    """Return the registry of a configuration, for use in an event loop.

    Parameters
    ----------
    config : Config, optional
        By default what `compute.load_config` finds.
    """
    return AsyncModelRegistry(get_model_registry(config))
