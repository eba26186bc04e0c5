"""What the Open Inference Protocol V2 asks of a server, once for HTTP and gRPC; knows neither of them."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from compute.errors import BackendUnavailable
from deployments.freshness import Fresh
from deployments.micro_batches import Asked, Found
from deployments.question import Question
from deployments.threads import Threads
from deployments.v2_model import PREDICT, PROBA, choose_outputs, describe, to_outputs, to_rows

if TYPE_CHECKING:
    from deployments.question import Sticky
    from deployments.scoring import Scorer
    from deployments.v2_infer import InferRequest
    from deployments.v2_tensors import Tensor
    from registry import LoadedModel, ModelRecord, ModelRegistry

EXTENSIONS = ["binary_tensor_data", "model_repository"]


class Inferred(NamedTuple):
    """The outputs, and the model that gave them."""

    record: ModelRecord
    outputs: list[Tensor]


class V2Service:
    """Answers each question of the protocol.

    Parameters
    ----------
    registry : ModelRegistry
        Its calls block, so they are made in threads.
    scorer : Scorer
        Holds the models.
    """

    def __init__(self, registry: ModelRegistry, scorer: Scorer) -> None:
        self._registry = registry
        self._scorer = scorer
        self._call = Threads(8, "v2").call
        self._ready: Fresh[None, bool] = Fresh(lambda _: self._reach(), ttl=1.0)

    async def ready(self) -> bool:
        """Return True when the registry answers; raises `BackendUnavailable` when it does not."""
        return await self._ready.get(None)

    def server(self) -> dict[str, Any]:
        """Return the metadata of the server."""
        return {"name": "tablework", "version": installed_version("tablework"), "extensions": EXTENSIONS}

    async def metadata(self, name: str, version: str | None) -> dict[str, Any]:
        """Return what a model takes and gives."""
        model = await self._scorer.model(reference(name, version))
        known = await self._call(self._registry.list_models, name=model.record.name)
        return describe(model, sorted(record.version for record in known))

    async def model_ready(self, name: str, version: str | None) -> str:
        """Return the name of a model that can be asked; raises `ModelNotFound`."""
        return (await self._scorer.record(reference(name, version))).name

    async def index(self, *, only_ready: bool) -> list[dict[str, str]]:
        """Return the models that there are, with their states."""
        records = await self._call(self._registry.list_models)
        entries = [
            {
                "name": record.name,
                "version": str(record.version),
                "state": "UNAVAILABLE" if record.status == "archived" else "READY",
                "reason": "archived" if record.status == "archived" else "",
            }
            for record in records
        ]
        return [entry for entry in entries if entry["state"] == "READY" or not only_ready]

    async def load(self, name: str) -> None:
        """Have a model in memory before it is asked."""
        await self._scorer.model(name)

    async def unload(self, name: str) -> None:
        """Let a model go from memory until it is asked again."""
        self._scorer.models.drop((await self._scorer.record(name)).model_id)

    async def infer(self, name: str, version: str | None, request: InferRequest, header: Sticky) -> Inferred:
        """Score what was sent.

        Parameters
        ----------
        name, version : str, str or None
            Of the model.
        request : InferRequest
            What was sent.
        header : callable
            Gives the value of a header, or an entry of the metadata, by its name.
        """

        def sticky(key: str) -> str | None:
            value = request.parameters.get(key)
            return header(key) if value is None else str(value)

        rows = next(iter(request.inputs.values())).shape[0]
        question = Question(
            rows,
            lambda model: _ask(model, request),
            lambda model, found: _reply(model, request, found),
            lambda: {tensor.name: _shaped(tensor) for tensor in request.inputs.values()},
            lambda answer: {tensor.name: _shaped(tensor) for tensor in answer.outputs},
        )
        return (await self._scorer.ask(reference(name, version), question, sticky))[1]

    async def _reach(self) -> bool:
        try:
            await self._call(self._registry.list_models, limit=1)
        except Exception as error:
            raise BackendUnavailable("the registry does not answer", hint="Try again in a moment.") from error
        return True


def _ask(model: LoadedModel, request: InferRequest) -> Asked:
    wanted = choose_outputs(model, request.outputs)
    return Asked(to_rows(request.inputs, model), labels=PREDICT in wanted, proba=PROBA in wanted)


def _reply(model: LoadedModel, request: InferRequest, found: Found) -> Inferred:
    return Inferred(model.record, to_outputs(model, *found, choose_outputs(model, request.outputs)))


def _shaped(tensor: Tensor) -> Any:
    return tensor.values.reshape(tensor.shape) if isinstance(tensor.values, np.ndarray) else tensor.values


def reference(name: str, version: str | None) -> str:
    """Return the reference that the registry takes.

    Examples
    --------
    >>> reference("delays", None), reference("delays", "3"), reference("delays", "champion")
    ('delays', 'delays:3', 'delays@champion')
    """
    if version is None:
        return name
    return f"{name}:{version}" if version.isdecimal() else f"{name}@{version}"
