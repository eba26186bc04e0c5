"""One durable task, as the table keeps it, and its id."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from pydantic import BaseModel, ConfigDict

from compute import TaskState
from compute.errors import InvalidField

_ID = re.compile(r"task-([0-9a-f]{12})-[0-9a-f]{20}")


class TaskRecord(BaseModel):
    """One durable task. Times are seconds since 1970, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    kind: str
    entry: str
    """The function that answers it, as ``module:function``."""
    caller: str = ""
    state: TaskState = TaskState.PENDING
    runs: int = 0
    """How often a runner began it."""
    attempts: int = 0
    """How often it was tried: runs, and the retries within them."""
    priority: int = 0
    timeout: float | None = None
    deadline: float | None = None
    """When it has to have ended; it is stopped then."""
    resources: dict[str, Any] | None = None
    idempotency_key: str | None = None
    payload: dict[str, Any]
    """Where the question lies: ``{"key", "size", "sha256"}``, or ``{"json", "size", "sha256"}`` when it is small."""
    fingerprint: str
    """What tells a repetition of the question from another one."""
    runner: str
    """Who holds it."""
    submitted_at: float
    started_at: float | None = None
    finished_at: float | None = None
    result: dict[str, Any] | None = None
    """Where the answer lies: ``{"key", "size", "sha256"}``."""
    error: dict[str, Any] | None = None
    """What went wrong, as an RFC 9457 problem."""


def new_task_id(now: float | None = None) -> str:
    """Make an id that sorts by time, and cannot be guessed.

    Examples
    --------
    >>> new_task_id(1.7e9)[:17]
    'task-018bcfe56800'
    """
    return f"task-{int((time.time() if now is None else now) * 1000):012x}-{secrets.token_hex(10)}"


def accepted_at(task_id: object) -> float:
    """Return when the task of this id was accepted, in seconds since 1970; raises InvalidField for what is no id.

    Examples
    --------
    >>> accepted_at("task-018bcfe56800-00000000000000000000")
    1700000000.0
    """
    match = _ID.fullmatch(task_id) if isinstance(task_id, str) else None
    if not match:
        raise InvalidField(
            f"{str(task_id)[:100]!r} is not a task id", hint="Ids look like task-018bcfe56800-<20 hex digits>."
        )
    return int(match[1], 16) / 1000
