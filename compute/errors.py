"""Every error a user can meet: one class, one stable code, one HTTP status, and a message that says what to do next.

All of them cross process boundaries (pickle, Ray, Dask) with their context, notes and cause intact.
"""

from __future__ import annotations

import copyreg
import pickle
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar


class RemoteCause(Exception):
    """Stands for a cause that could not be pickled; carries its type and its traceback as text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return self.text


class ComputeError(Exception):
    """Base of every error this project raises on purpose.

    Parameters
    ----------
    detail : str
        What was wrong, and where.
    hint : str, optional
        What the reader should do next.
    context : mapping, optional
        Facts for programs (``{"feature": "carrier", "row": 3}``); plain JSON values.

    Examples
    --------
    >>> error = ModelNotFound("no model 'm-1'", hint="List the models to see which there are.")
    >>> str(error)
    "no model 'm-1'. List the models to see which there are."
    >>> error.problem()["status"], error.problem()["code"]
    (404, 'model-not-found')
    """

    code: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, hint: str = "", context: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail, hint, dict(context or {}))
        # Importing Dask registers tblib's way of pickling for every class of exception there is, which goes before
        # `__reduce__` below and fails for a cause that cannot be pickled.
        copyreg.dispatch_table.pop(type(self), None)
        # Again: the time-outs are OSErrors too, whose constructor keeps two arguments of three.
        self.args = (detail, hint, dict(context or {}))
        # Not read from `args`: `ray.get` raises an instance of a class of its own, derived from ours, which has other
        # arguments and looks up in our instance only what it does not find in itself.
        self._facts = (detail, hint, dict(context or {}))

    @property
    def detail(self) -> str:
        """What was wrong, and where."""
        return self._facts[0]

    @property
    def hint(self) -> str:
        """What to do next."""
        return self._facts[1]

    @property
    def context(self) -> dict[str, Any]:
        """Facts for programs."""
        return dict(self._facts[2])

    @property
    def message(self) -> str:
        """Both in one text; what `str` gives, but for errors as `ray.get` raises them, where it gives a traceback."""
        return f"{self.detail.rstrip('.')}. {self.hint}" if self.hint else self.detail

    def __str__(self) -> str:
        return self.message

    def problem(self) -> dict[str, Any]:
        """Return the error as an RFC 9457 problem details object."""
        body: dict[str, Any] = {
            "type": f"urn:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.message,
        }
        if self.context:
            body["context"] = self.context
        return body

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, _portable(self.__cause__), list(getattr(self, "__notes__", [])))


def _rebuild(
    kind: type[ComputeError], args: tuple[Any, ...], cause: BaseException | None, notes: list[str]
) -> ComputeError:
    error = kind(*args)
    error.__cause__ = cause
    for note in notes:
        error.add_note(note)
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    """Return the cause itself when it survives pickling, else its text."""
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))  # noqa: S301  (our own bytes, made on this line)
    except Exception:  # noqa: BLE001  (whatever a foreign class does in its __reduce__ or __init__)
        return RemoteCause(type(cause).__qualname__, "".join(traceback.format_exception(cause)).rstrip())
    return cause


def from_problem(problem: Mapping[str, Any]) -> ComputeError:
    """Return the error that `ComputeError.problem` described; of the base class when its code is not known.

    Examples
    --------
    >>> from_problem(ModelNotFound("no model 'm-1'").problem())
    ModelNotFound("no model 'm-1'", '', {})
    """
    pending = [ComputeError]
    while pending:
        kind = pending.pop()
        if kind.code == problem["code"]:
            return kind(problem["detail"], "", problem.get("context"))
        pending.extend(kind.__subclasses__())
    return ComputeError(problem["detail"], "", problem.get("context"))


# Configuration and backends


class ConfigurationError(ComputeError):
    """The configuration has an unknown key or a bad value."""

    code, status, title = "configuration-invalid", 500, "The configuration is not valid"


class BackendUnavailable(ComputeError):
    """The cluster that was asked for by name does not answer."""

    code, status, title = "backend-unavailable", 503, "The compute backend does not answer"


class CapabilityMissing(ComputeError):
    """The engine in use cannot do this."""

    code, status, title = "capability-missing", 501, "The backend cannot do this"


class ResourcesUnavailable(ComputeError):
    """The work asks for more than the limits or the cluster can ever give."""

    code, status, title = "resources-unavailable", 422, "The work can never be placed"


# Tasks


class TaskNotFound(ComputeError):
    """No task has this id."""

    code, status, title = "task-not-found", 404, "No such task"


class TaskExpired(TaskNotFound):
    """There may have been such a task, but finished work is remembered only so long."""

    code, status, title = "task-expired", 410, "The task is no longer remembered"


class TaskExists(ComputeError):
    """A task with this id was submitted before."""

    code, status, title = "task-exists", 409, "The task id is taken"


class TaskFailed(ComputeError):
    """The task failed and its own exception could not be brought back."""

    code, status, title = "task-failed", 500, "The task failed"


class WorkerLost(TaskFailed):
    """The worker process or its node died, and the retries are used up."""

    code, status, title = "worker-lost", 500, "The worker was lost"


class DependencyFailed(ComputeError):
    """A task whose result is an argument of this one did not succeed; its own error is the cause."""

    code, status, title = "dependency-failed", 424, "A task that this one waits for failed"


class TaskCancelled(ComputeError):
    """The task was cancelled."""

    code, status, title = "task-cancelled", 409, "The task was cancelled"


class TaskTimeout(ComputeError, TimeoutError):
    """The task ran longer than its timeout and was stopped."""

    code, status, title = "task-timed-out", 504, "The task timed out"


class ResultTimeout(ComputeError, TimeoutError):
    """The result was not there in time; the task goes on."""

    code, status, title = "result-timeout", 504, "The result is not there yet"


class TaskNotFinished(ComputeError):
    """The operation needs a task in another state."""

    code, status, title = "task-state-conflict", 409, "The task is in another state"


class NotSerializable(ComputeError):
    """A function, an argument or a result cannot be sent to another process."""

    code, status, title = "not-serializable", 422, "Cannot be sent to a worker"


# Storage and registry


class StorageError(ComputeError):
    """The object store failed."""

    code, status, title = "storage-error", 503, "The storage failed"


class KeyNotFound(StorageError):
    """The object store has nothing under this key."""

    code, status, title = "key-not-found", 404, "No such object"


class KeyExists(StorageError):
    """`create` found something under this key."""

    code, status, title = "key-exists", 409, "The object exists"


class Corrupt(StorageError):
    """What was read is not what was written."""

    code, status, title = "corrupt", 500, "Stored data is damaged"


class PositionGone(ComputeError):
    """What came next after this position of a journal was removed by compaction, or never was in this store."""

    code, status, title = "position-gone", 410, "The position is gone"


class ModelNotFound(ComputeError):
    """No model has this id, name, version or alias."""

    code, status, title = "model-not-found", 404, "No such model"


class UploadNotFound(ComputeError):
    """No upload in parts has this id."""

    code, status, title = "upload-not-found", 404, "No such upload"


class WebhookNotFound(ComputeError):
    """No webhook has this id."""

    code, status, title = "webhook-not-found", 404, "No such webhook"


class Conflict(ComputeError):
    """The change contradicts what is there."""

    code, status, title = "conflict", 409, "The change conflicts"


class ArtifactCondemned(Conflict):
    """The bytes that a registration names are being collected: write them again, in the generation given."""

    code, status, title = "artifact-condemned", 409, "The artifact is being collected"


class RevisionMismatch(ComputeError):
    """The record was changed since it was read."""

    code, status, title = "revision-mismatch", 412, "The record has changed"


class InvalidField(ComputeError):
    """A field of a record, query or request has a value that is not allowed."""

    code, status, title = "invalid-field", 422, "A field is not valid"


class UnsupportedFormat(ComputeError):
    """The bytes are in a format that is not accepted (pickles above all)."""

    code, status, title = "unsupported-format", 415, "The format is not accepted"


# Data


class DataError(ComputeError):
    """The table cannot be used as asked."""

    code, status, title = "data-invalid", 422, "The data cannot be used"


class DataNotFound(DataError):
    """Nothing lies at the URI."""

    code, status, title = "data-not-found", 404, "No such data"


class ColumnMissing(DataError):
    """A column that is needed is not in the table."""

    code, status, title = "column-missing", 422, "A column is missing"


class ColumnInvalid(DataError):
    """A column has values it may not have."""

    code, status, title = "column-invalid", 422, "A column has bad values"


class UriNotAllowed(ComputeError):
    """The URI lies outside what the operator allows clients to name."""

    code, status, title = "uri-not-allowed", 403, "The URI is not allowed"


# HTTP


class BadRequest(ComputeError):
    """The request cannot be read."""

    code, status, title = "bad-request", 400, "The request cannot be read"


class Unauthorized(ComputeError):
    """No token, or one that is unknown, expired or revoked."""

    code, status, title = "unauthorized", 401, "A valid token is needed"


class Forbidden(ComputeError):
    """The token's role does not allow this."""

    code, status, title = "forbidden", 403, "The role does not allow this"


class Misdirected(ComputeError):
    """The request names a host that this server does not answer for."""

    code, status, title = "misdirected", 421, "Not this server"


class PayloadTooLarge(ComputeError):
    """The body is larger than the limit."""

    code, status, title = "payload-too-large", 413, "The body is too large"


class Overloaded(ComputeError):
    """Too much work is waiting; try again later."""

    code, status, title = "overloaded", 429, "Too much work is waiting"
