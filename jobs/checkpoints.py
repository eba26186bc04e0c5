"""What a training has reached, kept on the object store: the same call goes on from it when its process has died."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute.errors import Corrupt, InvalidField, KeyNotFound

if TYPE_CHECKING:
    from registry import ObjectStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """A model that is not finished: its bytes, the rounds it has, and the scores of watched rows after each."""

    model: bytes
    rounds: int
    scores: Sequence[float]
    higher: bool


def check_every(every: int | None) -> None:
    """Refuse what is no number of rounds."""
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise InvalidField(
            f"checkpoint_every is {every!r}, and must be a whole number of rounds, at least 1",
            hint="Choose it so that a checkpoint comes every minute or so.",
            context={"field": "checkpoint_every"},
        )


class Checkpoints:
    """The checkpoints of one training, under ``checkpoints/<digest of what was asked>/``.

    Parameters
    ----------
    store : ObjectStore
        Where all state lives.
    question : mapping
        What the model depends on: only the same training goes on from these.
    every : int
        Rounds from one to the next.
    """

    def __init__(self, store: ObjectStore, question: Mapping[str, Any], every: int) -> None:
        asked = json.dumps({**question, "every": every}, sort_keys=True, default=str)
        self.every = every
        self._store = store
        self._prefix = f"checkpoints/{hashlib.sha256(asked.encode()).hexdigest()}/"

    def newest(self) -> Kept | None:
        """Return the latest checkpoint, None when there is none."""
        keys = sorted(self._store.list(self._prefix))
        if not keys:
            return None
        try:
            head, _, model = self._store.get(keys[-1]).partition(b"\n")
        except KeyNotFound:  # the same training, run twice, has ended elsewhere: begin anew
            return None
        told = json.loads(head)
        if hashlib.sha256(model).hexdigest() != told["sha256"]:
            raise Corrupt(
                f"the checkpoint {keys[-1]} is not what was written",
                hint="Remove it from the store; the training then begins anew.",
                context={"key": keys[-1]},
            )
        return Kept(model, told["rounds"], told["scores"], told["higher"])

    def save(self, model: bytes, rounds: int, scores: Sequence[float], *, higher: bool) -> None:
        """Keep what is reached, in place of what was reached before."""
        older = list(self._store.list(self._prefix))
        told = {"rounds": rounds, "scores": scores, "higher": higher, "sha256": hashlib.sha256(model).hexdigest()}
        key = f"{self._prefix}{rounds:09d}"
        self._store.put(key, json.dumps(told).encode() + b"\n" + model)
        logger.info("event=checkpoint rounds=%d bytes=%d", rounds, len(model))
        for name in older:
            if name < key:
                self._store.delete(name)

    def remove(self) -> None:
        """Delete all: the model is registered."""
        for key in list(self._store.list(self._prefix)):
            self._store.delete(key)
