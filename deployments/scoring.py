"""Predictions of any model in the registry, from the models this replica holds; knows nothing of HTTP."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from compute.errors import InvalidField
from deployments.freshness import Fresh
from deployments.model_cache import ModelCache
from deployments.rows import Rows, matrix_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from registry import LoadedModel, ModelRecord, ModelRegistry

Answer = TypeVar("Answer")

INLINE_ROWS = 64
"""Batches up to this size are scored where they are: going to a thread and back costs as much as scoring them."""


class Scorer:
    """Scores rows with a model that is named by id, name, alias or version.

    Parameters
    ----------
    registry : ModelRegistry
        Whom to ask for records and artifacts.
    max_bytes, max_models : int
        How much may be held (`ModelCache`).
    threads : int
        Threads of one prediction. Requests already run side by side, so one is best for all but large batches.
    ttl : float
        Seconds after which a change of an alias, or the end of a model, is noticed at the latest.
    grace : float
        Seconds for which known models are still answered for while the registry does not answer.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        max_bytes: int = 2 * 2**30,
        max_models: int = 200,
        threads: int = 1,
        ttl: float = 1.0,
        grace: float = 60.0,
    ) -> None:
        self._registry = registry
        self._lookups = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="score")
        self._records: Fresh[str, ModelRecord] = Fresh(self._resolve, ttl=ttl, grace=grace)
        self.models = ModelCache(
            lambda model_id: registry.load_model(model_id, threads=threads).with_few_rows(),
            max_bytes=max_bytes,
            max_models=max_models,
        )

    async def predict(
        self, reference: str, rows: Rows | pa.Table, *, proba: bool = False, explain: bool = False
    ) -> dict[str, Any]:
        """Return predictions for raw rows.

        Parameters
        ----------
        reference : str
            A model id, ``name``, ``name@alias`` or ``name:version``.
        rows : list of dict, or pyarrow.Table
            Raw rows as the training data had them; no rows are no mistake and give no predictions.
        proba : bool
            For a classification: the probability of each class, in the order of ``classes``, instead of the class.
        explain : bool
            Also what each feature contributed (`LoadedModel.explain`).

        Returns
        -------
        dict
            ``predictions``, ``model_id``, ``name``, ``version``; ``classes`` with `proba`; and with `explain` for
            each row ``contributions`` by feature, whose sum with its ``base_values`` is the ``margins`` of the trees.
        """
        model = await self.model(reference)
        record = model.record
        classes = record.signature.classes if record.signature is not None else None
        if proba and classes is None:
            raise InvalidField(
                f"the model {record.model_id} is a regression and has no probabilities",
                hint="Leave proba out.",
                context={"field": "proba"},
            )
        answer = {
            "predictions": await self.run(len(rows), lambda: score(model, rows, proba=proba)),
            "model_id": record.model_id,
            "name": record.name,
            "version": record.version,
        }
        if proba:
            answer["classes"] = classes
        if explain:
            answer |= await self.run(len(rows), lambda: explanations(model, rows))
        return answer

    async def record(self, reference: str) -> ModelRecord:
        """Return what a reference stands for now; raises `ModelNotFound`."""
        return await self._records.get(reference)

    async def model(self, reference: str) -> LoadedModel:
        """Return the model that a reference stands for now, loading it when it is not held."""
        return await self.models.get(await self._records.get(reference))

    async def run(self, rows: int, work: Callable[[], Answer]) -> Answer:
        """Do the work for so many rows: here when they are few, else in a thread."""
        if rows <= INLINE_ROWS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._workers, work)

    def forget(self, reference: str) -> None:
        """Ask the registry anew when this reference is next used."""
        self._records.forget(reference)

    async def _resolve(self, reference: str) -> ModelRecord:
        return await asyncio.get_running_loop().run_in_executor(self._lookups, self._registry.resolve, reference)


def score(model: LoadedModel, rows: Rows | pa.Table, *, proba: bool) -> list[Any]:
    """Return the model's predictions as plain values."""
    predictions: list[Any] = model.predict(_table(model, rows), proba=proba).tolist() if len(rows) else []
    return predictions


def explanations(model: LoadedModel, rows: Rows | pa.Table) -> dict[str, Any]:
    """Return what each feature contributed to each prediction, as plain values."""
    if not len(rows):
        return {"contributions": [], "base_values": [], "margins": []}
    names = model.record.signature.feature_names if model.record.signature is not None else ()
    contributions, base = model.explain(_table(model, rows))
    return {
        "contributions": [dict(zip(names, row, strict=True)) for row in contributions.tolist()],
        "base_values": base.tolist(),
        "margins": (contributions.sum(axis=1) + base).tolist(),
    }


def _table(model: LoadedModel, rows: Rows | pa.Table) -> Any:
    return matrix_of(rows) if model.record.signature is None and isinstance(rows, list) else rows
