"""What becomes of a task whose last attempt has ended, and in which words."""

from __future__ import annotations

from compute.backend import Ending, Outcome
from compute.errors import (
    ComputeError,
    DependencyFailed,
    NotSerializable,
    ResourcesUnavailable,
    TaskCancelled,
    TaskTimeout,
    WorkerLost,
)
from compute.states import TaskState
from compute.task import Task

Verdict = tuple[TaskState, ComputeError | None]
"""The state, and the manager's own error; None where the outcome has all there is to say."""


def verdict(task: Task, outcome: Outcome) -> Verdict:
    """Judge a task by an outcome after which it is not tried again."""
    ending = outcome.ending
    context = {"task_id": task.task_id, "attempts": task.attempts}
    which = f"the task {task.task_id} ({task.label})"
    if ending is Ending.VALUE:
        return TaskState.SUCCEEDED, None
    if ending is Ending.ERROR:
        return TaskState.FAILED, None
    if ending is Ending.LOST:
        return TaskState.FAILED, WorkerLost(
            f"{which} lost its worker in {_times(task.attempts)}; the last: {outcome.payload}",
            hint="When memory is the reason, declare it: resources={'memory': '2g'}.",
            context={**context, "reason": str(outcome.payload)},
        )
    if ending is Ending.TIMED_OUT:
        return TaskState.TIMED_OUT, TaskTimeout(
            f"{which} ran longer than its timeout of {task.timeout or 0:g} s and was stopped",
            hint="Give submit_task a longer timeout=, or raise task_defaults.timeout.",
            context={**context, "timeout": task.timeout},
        )
    if ending is Ending.UNSENDABLE:
        return TaskState.FAILED, NotSerializable(
            f"{which} returned {outcome.payload}, which cannot be sent back",
            hint="Return what it is made of, or write it to a file and return the path.",
            context=context,
        )
    if ending is Ending.UNPLACEABLE:
        refused = ResourcesUnavailable(f"{which} cannot be run: {outcome.payload}", context=context)
        return TaskState.FAILED, refused
    return TaskState.CANCELLED, TaskCancelled(f"{which} was interrupted")


def without(task: Task, other: Task) -> DependencyFailed:
    """Return the error of a task that cannot begin without the result of another."""
    return DependencyFailed(
        f"the task {task.task_id} ({task.label}) needs the result of the task {other.task_id} ({other.label}), "
        f"which ended as {other.state}",
        hint="Its own error is the cause of this one.",
        context={"task_id": task.task_id, "dependency": other.task_id},
    )


def _times(count: int) -> str:
    return "1 attempt" if count == 1 else f"each of {count} attempts"
