"""The one place that turns errors into responses: RFC 9457 problem details, with nothing of our insides in them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from compute.errors import (
    BackendUnavailable,
    BadRequest,
    ComputeError,
    ConfigurationError,
    InvalidField,
    Overloaded,
    PayloadTooLarge,
    ResultTimeout,
    StorageError,
)
from deployments.rendering import JSONResponse

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

logger = logging.getLogger(__name__)

_INSIDES = (StorageError, ConfigurationError)
_TITLES = {404: ("not-found", "Nothing is here"), 405: ("method-not-allowed", "The method is not allowed here")}


ErrorResponse = Callable[[BaseException, str], Response]
"""Makes the response for an error and a request id, as `problem` does."""


class ProblemResponse(JSONResponse):
    """An error as ``application/problem+json``."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        """Return the content as JSON; a fact that JSON cannot carry as its text."""
        return to_json(content, inf_nan_mode="null", serialize_unknown=True)


def problem(error: BaseException, request_id: str) -> ProblemResponse:
    """Return the response for an error.

    Parameters
    ----------
    error : BaseException
        What a handler raised: one of ours, one that Ray brought from another process, or a framework's.
    request_id : str
        Repeated in the body and in the log, so that one leads to the other.

    Returns
    -------
    ProblemResponse
        For an error that is not made for users: status 500 and the request id, and the traceback in the log only.

    Examples
    --------
    >>> from compute.errors import ModelNotFound
    >>> response = problem(ModelNotFound("no model 'm-1'"), "r1")
    >>> response.status_code, response.body[:60]
    (404, b'{"type":"urn:problem:model-not-found","title":"No such model')
    """
    headers: dict[str, str] = {}
    cause = unwrap(error)
    if isinstance(cause, HTTPException):
        body = _framework_problem(cause)
        headers.update(cause.headers or {})
    elif isinstance(cause, RequestValidationError):
        body = _validation_problem(cause).problem()
    else:
        known = cause if isinstance(cause, ComputeError) else _translate(cause)
        if known is None:
            logger.error("request_id=%s event=unexpected_error", request_id, exc_info=error)
            body = {
                "type": "urn:problem:internal-error",
                "title": "Internal error",
                "status": 500,
                "code": "internal-error",
                "detail": f"The server failed. Its log has the reason under request id {request_id}.",
            }
        else:
            # An answer that came too late is the load's doing: a traceback for each would add to it.
            if (known.status >= 500 and not isinstance(known, ResultTimeout)) or isinstance(known, _INSIDES):
                logger.error("request_id=%s event=error code=%s", request_id, known.code, exc_info=error)
            body = known.problem() if not isinstance(known, _INSIDES) else _bare(known, request_id)
    if body["status"] in (429, 503):
        headers.setdefault("Retry-After", str(body.get("context", {}).get("retry_after", 1)))
    return ProblemResponse({**body, "request_id": request_id}, status_code=body["status"], headers=headers)


def _bare(error: ComputeError, request_id: str) -> dict[str, Any]:
    """Return the problem of an error that is about our insides: paths, buckets and hosts are for the log alone."""
    detail = f"{error.title}. The server's log has the reason under request id {request_id}."
    return {**type(error)(detail).problem(), "detail": detail}


def handle_problems(app: FastAPI, error_response: ErrorResponse = problem) -> None:
    """Have the application answer its errors with problems, or in another shape."""

    async def respond(request: Request, error: Exception) -> Response:
        return error_response(error, request.scope.get("state", {}).get("request_id", "-"))

    for kind in (ComputeError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, respond)


def unwrap(error: BaseException) -> BaseException:
    """Return the exception that was raised in the other process when Ray brought it, else the error itself.

    Ray raises an instance of a class made on the spot that inherits from `RayTaskError` and from the class of the
    cause, and whose own arguments are Ray's; the cause lies beneath, more than once when the call went through several
    processes.
    """
    while "ray.exceptions.RayTaskError" in _names(error):
        cause = getattr(error, "cause", None)
        if not isinstance(cause, BaseException):
            break
        error = cause
    return error


def _translate(error: BaseException) -> ComputeError | None:
    """Give one of our errors for what Ray itself raises when something is away, late or full."""
    names = _names(error)
    if "ray.serve.exceptions.BackPressureError" in names:
        return Overloaded("too many requests are waiting", hint="Try again in a moment.")
    if names & {"ray.exceptions.RayActorError", "ray.serve.exceptions.DeploymentUnavailableError"}:
        return BackendUnavailable("a part of the service is restarting", hint="Try again in a moment.")
    if "ray.exceptions.GetTimeoutError" in names:
        return ResultTimeout("a part of the service did not answer in time", hint="Try again in a moment.")
    return None


def _names(error: BaseException) -> set[str]:
    """Return the names of the error's classes: Ray's are not imported only to find that the error is none of them."""
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _validation_problem(error: RequestValidationError) -> ComputeError:
    """Say where and what, without the values: they may be large, secret, or not JSON."""
    faults = [{"where": list(item["loc"]), "problem": item["msg"]} for item in error.errors()]
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return BadRequest("the body is not JSON", hint="Send a JSON body.", context={"faults": faults})
    text = "; ".join(f"{'.'.join(str(part) for part in fault['where'])}: {fault['problem']}" for fault in faults)
    return InvalidField(text, context={"faults": faults})


def _framework_problem(error: HTTPException) -> dict[str, Any]:
    if error.status_code == 413:
        return PayloadTooLarge(str(error.detail)).problem()
    if error.status_code == 400:
        return BadRequest(str(error.detail)).problem()
    code, title = _TITLES.get(error.status_code, (f"http-{error.status_code}", str(error.detail)))
    detail = f"{title}. The documentation lies at /docs of this application."
    return {
        "type": f"urn:problem:{code}",
        "title": title,
        "status": error.status_code,
        "code": code,
        "detail": detail if error.status_code in _TITLES else str(error.detail),
    }
