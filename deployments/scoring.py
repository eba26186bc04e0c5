"""Predictions of any model in the registry, from the models this replica holds; knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from compute.errors import ComputeError, InvalidField
from deployments.arms import Arms
from deployments.micro_batches import Asked, Found, MicroBatches
from deployments.model_cache import ModelCache
from deployments.question import Question, Sticky, nothing_sticky
from deployments.resolving import Resolving
from deployments.rows import Rows, matrix_of
from deployments.shadow import Shadows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

    from deployments.prediction_log import PredictionLog
    from registry import LoadedModel, ModelRecord, ModelRegistry

logger = logging.getLogger(__name__)

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
    log : PredictionLog, optional
        Is offered each request and its answer.
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
        log: PredictionLog | None = None,
    ) -> None:
        self._ttl = ttl
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="score")
        self._records = Resolving(registry, ttl=ttl, grace=grace)
        self.models = ModelCache(
            lambda record: registry.load_model(record, threads=threads).with_few_rows(),
            max_bytes=max_bytes,
            max_models=max_models,
        )
        self.arms = Arms(registry)
        self._batches = MicroBatches()
        self._shadows = Shadows(self.model, self.arms)
        self._log = log

    async def ask(
        self, reference: str, question: Question[Answer], sticky: Sticky = nothing_sticky
    ) -> tuple[LoadedModel, Answer]:
        """Return what a reference's model answers, and that model: of a name whose traffic is shared out, an arm's.

        Parameters
        ----------
        reference : str
            A model id, ``name``, ``name@alias`` or ``name:version``; only a name alone has traffic.
        question : Question
            What is asked.
        sticky : callable
            Gives the values of the request's headers and parameters.
        """
        choice = await self.arms.choose(reference, sticky)
        if choice is None:
            model = await self.model(reference)
            answer = await self._answer(model, question)
        else:
            with self.arms.counting(choice):
                model = await self.model(choice.reference)
                answer = await self._answer(model, question)
            if choice.shadow is not None:
                self._shadows.ask_soon(choice, question, answer, self._logged(question, f"shadow:{choice.shadow}"))
        if self._log is not None:
            self._log.offer(model.record, question, answer, choice.arm if choice is not None else None)
        return model, answer

    async def _answer(self, model: LoadedModel, question: Question[Answer]) -> Answer:
        if question.rows > INLINE_ROWS:
            return await self.run(question.rows, lambda: question.answer(model))
        found = self._batches.answer(model, question.ask(model))
        return question.reply(model, await found if isinstance(found, asyncio.Future) else found)

    def _logged(self, question: Question[Answer], arm: str) -> Callable[[LoadedModel, Answer], None] | None:
        log = self._log
        return None if log is None else lambda model, answer: log.offer(model.record, question, answer, arm)

    async def hold(self, references: Sequence[str]) -> None:
        """Have models in memory from now on, whatever is asked: load them, and stay with what they stand for."""
        held: dict[str, str] = {}
        while True:
            for reference in references:
                try:
                    held[reference] = (await self.model(reference)).record.model_id
                except ComputeError as error:
                    logger.warning("event=not_pinned reference=%s action=try_again error=%s", reference, error)
                self.models.pinned = frozenset(held.values())
            await asyncio.sleep(self._ttl)

    async def predict(
        self,
        reference: str,
        rows: Rows | pa.Table,
        *,
        proba: bool = False,
        explain: bool = False,
        sticky: Sticky = nothing_sticky,
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
        sticky : callable
            As for `ask`.

        Returns
        -------
        dict
            ``predictions``, ``model_id``, ``name``, ``version``; ``classes`` with `proba`; and with `explain` for
            each row ``contributions`` by feature, whose sum with its ``base_values`` is the ``margins`` of the trees.
        """
        kind = "predict_proba" if proba else "predict"
        question: Question[list[Any]] = Question(
            len(rows),
            lambda model: _ask(model, rows, proba=proba),
            lambda _, found: _plain(found),
            lambda: rows,
            lambda found: {kind: found},
        )
        model, predictions = await self.ask(reference, question, sticky)
        record = model.record
        answer = {
            "predictions": predictions,
            "model_id": record.model_id,
            "name": record.name,
            "version": record.version,
        }
        if proba and record.signature is not None:
            answer["classes"] = record.signature.classes
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


def _ask(model: LoadedModel, rows: Rows | pa.Table, *, proba: bool) -> Asked:
    signature = model.record.signature
    if proba and (signature is None or signature.classes is None):
        what = "is a regression and has" if signature is not None else "was registered without a signature and gives"
        raise InvalidField(
            f"the model {model.record.model_id} {what} no probabilities",
            hint="Leave proba out.",
            context={"field": "proba"},
        )
    if not len(rows):
        return Asked(np.empty((0, len(model.feature_names))), labels=not proba, proba=proba)
    return Asked(model.read(_table(model, rows)), labels=not proba, proba=proba)


def _plain(found: Found) -> list[Any]:
    """Return the one of the two that was asked for, as plain values."""
    values = found[0] if found[1] is None else found[1]
    assert values is not None
    plain: list[Any] = values.tolist()
    return plain


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
