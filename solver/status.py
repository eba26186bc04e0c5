"""What is told of a task: its status, its line in a listing, and what happened to it, in JSON's values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from compute import TaskState
from compute.errors import TaskCancelled
from registry import TaskRecord


def summary(record: TaskRecord) -> dict[str, Any]:
    """Return what the table itself knows of a task.

    Examples
    --------
    >>> fields = dict(task_id="task-1", kind="prediction", entry="m:f", payload={}, fingerprint="f", runner="r")
    >>> found = summary(TaskRecord(submitted_at=0.0, **fields))
    >>> found["state"], found["submitted_at"]
    ('PENDING', '1970-01-01T00:00:00+00:00')
    """
    return {
        "task_id": record.task_id,
        "type": record.kind,
        "state": record.state.value,
        "attempts": record.attempts,
        "priority": record.priority,
        "submitted_at": iso(record.submitted_at),
        "started_at": iso(record.started_at),
        "finished_at": iso(record.finished_at),
        "deadline": iso(record.deadline),
    }


def reported(record: TaskRecord, report: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the newest attempt of a task said: ``node``, ``messages``, and ``progress`` while it runs."""
    if report is None:
        return {"node": None, "messages": []} | ({"progress": None} if record.state is TaskState.RUNNING else {})
    told: dict[str, Any] = {"node": report["node"], "messages": [_dated(message) for message in report["messages"]]}
    if record.state is TaskState.RUNNING:
        told["progress"] = _dated(report["messages"][-1])
    return told


def events(record: TaskRecord, report: Mapping[str, Any] | None, after: float) -> list[dict[str, Any]]:
    """Return what happened to a task after a time, the oldest first.

    Parameters
    ----------
    record : TaskRecord
        As it is now.
    report : mapping or None
        As `TaskRegistry.progress` gives it.
    after : float
        Seconds since 1970: the ``at`` of the last event that is known already.

    Returns
    -------
    list of dict
        ``at`` in seconds since 1970, ``event`` (``state``, ``progress`` or ``incumbent``) and ``data``. How it ended
        is told after all else, however late a clock of a worker is.
    """
    states = [(record.submitted_at, TaskState.PENDING)]
    if record.started_at is not None:
        states.append((record.started_at, TaskState.RUNNING))
    found = [_event(at, "state", {"task_id": record.task_id, "state": state.value}) for at, state in states]
    messages = () if report is None else report["messages"]
    found += [_event(told["at"], "incumbent" if "incumbent" in told else "progress", told) for told in messages]
    found = sorted((event for event in found if event["at"] > after), key=lambda event: event["at"])
    if record.finished_at is not None:
        at = max([record.finished_at, *(event["at"] for event in found)])
        ended: dict[str, Any] = {"task_id": record.task_id, "state": record.state.value}
        if record.state is not TaskState.SUCCEEDED:
            ended["problem"] = problem(record)
        if at > after:
            found.append(_event(at, "state", ended))
    return found


def problem(record: TaskRecord) -> dict[str, Any]:
    """Return why a task that ended has no result, as an RFC 9457 problem."""
    return record.error or TaskCancelled(f"the task {record.task_id} was cancelled").problem()


def iso(seconds: float | None) -> str | None:
    """Return a time as text.

    Examples
    --------
    >>> iso(1.5)
    '1970-01-01T00:00:01.500000+00:00'
    """
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _dated(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "at": iso(message["at"])}


def _event(at: float, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"at": at, "event": kind, "data": {**data, "at": iso(at)}}
