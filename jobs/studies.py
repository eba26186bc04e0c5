"""What is known of a study, kept on the object store trial by trial: a study goes on when its driver has died."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import Conflict, InvalidField, KeyExists

if TYPE_CHECKING:
    from registry import ObjectStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class StudyLog:
    """The trials of one study, under ``studies/<name>/``.

    Parameters
    ----------
    store : ObjectStore
        Where all state lives.
    name : str or None
        Of a study that may exist already; None for a new one.
    """

    def __init__(self, store: ObjectStore, name: str | None) -> None:
        if name is not None and not _NAME.fullmatch(name):
            raise InvalidField(
                f"{name!r:.100} cannot name a study",
                hint="Use up to 128 letters, digits, dots, dashes and underscores.",
                context={"field": "study"},
            )
        self.name = name or f"study-{secrets.token_hex(8)}"
        self._store = store
        self._prefix = f"studies/{self.name}/"

    def open(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the trials that are known, of a study of this question.

        Parameters
        ----------
        question : mapping
            What the values of trials depend on: trials of another data set, space or metric say nothing here.

        Raises
        ------
        Conflict
            When the study asks another question.
        """
        asked = json.loads(json.dumps(question))
        try:
            self._store.create(
                f"{self._prefix}study.json", json.dumps({**asked, "nonce": secrets.token_hex(8)}).encode()
            )
        except KeyExists:
            known = json.loads(self._store.get(f"{self._prefix}study.json"))
            differs = sorted(key for key in asked if known.get(key) != asked[key])
            if differs:
                raise Conflict(
                    f"the study {self.name!r} was begun with another {' and another '.join(differs)}",
                    hint="Give it another name, or ask the same.",
                    context={"study": self.name, "differs": differs},
                ) from None
        keys = sorted(self._store.list(f"{self._prefix}trials/"))
        return [json.loads(self._store.get(key)) for key in keys]

    def add(self, trial: Mapping[str, Any]) -> None:
        """Keep a trial that has ended."""
        key = f"{self._prefix}trials/{trial['number']:06d}-{secrets.token_hex(4)}.json"
        self._store.create(key, json.dumps(trial).encode())
