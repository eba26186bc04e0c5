"""Requests to S3: one at a time, tried again within bounds, with errors that say what to do.

s3fs makes the session, from the configuration and AWS's own chain, and runs the event loop; the requests go through its
client. Neither s3fs nor botocore tries a request again: what is repeated, and what that means, is decided here.
s3fs, botocore and aiohttp are imported when the first request is made.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from compute.config import S3
from compute.errors import StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 6
_CONNECTIONS = 64
_SLOWEST = 256 * 1024
"""Bytes a second; a body that goes out more slowly is given up."""
_LONGEST_PAUSE = 5.0
_FIRST_PAUSE = 0.1
_RETRIED_CODES = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError"}
    # Another write of the key is under way; S3 asks to try again.
    | {"ConditionalRequestConflict", "OperationAborted"}
    # The body did not come through as it was sent.
    | {"BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
)
"""Besides 429 and every status of 500 and above but 501."""

_sessions: dict[tuple[int, S3], Any] = {}
_sessions_lock = threading.Lock()
os.register_at_fork(after_in_child=_sessions_lock._at_fork_reinit)  # type: ignore[attr-defined]

_HINTS = {
    "NoSuchBucket": "Create the bucket, or name another in storage.uri.",
    "AccessDenied": "Let these credentials get, put, list and delete objects there: see the bucket's policy.",
    "InvalidAccessKeyId": "See storage.s3.access_key_id, or the credentials of AWS's chain.",
    "SignatureDoesNotMatch": "See storage.s3.secret_access_key, or the credentials of AWS's chain.",
    "ExpiredToken": "Renew the session token of the credentials.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "403": "See the credentials (storage.s3) and the bucket's policy.",
    "NotImplemented": "State needs a server that knows conditional writes (If-None-Match).",
    "PermanentRedirect": "Set storage.s3.region to the region of the bucket.",
    "AuthorizationHeaderMalformed": "Set storage.s3.region to the region of the bucket.",
    "ParamValidationError": "See the name of the bucket in storage.uri.",
    "SSLError": "See that storage.s3.endpoint_url says http or https as the server does, and its certificate is known.",
    "NoCredentialsError": "Give storage.s3.access_key_id and secret_access_key, or credentials of AWS's chain.",
    "EndpointConnectionError": "See that the server at storage.s3.endpoint_url is up and can be reached.",
}


class Refused(Exception):
    """The server answered, and no repetition will change it. Never leaves the package.

    Attributes
    ----------
    code : str
        As S3 names it, such as ``NoSuchKey``; the status when there is no name.
    status : int
        The status of the answer.
    """

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status


class S3Client:
    """Sends requests for one place on S3, from any thread. Picklable by its arguments alone.

    Parameters
    ----------
    options : S3
        How the server is reached.
    place : str
        The URI, for errors.
    """

    def __init__(self, options: S3, place: str) -> None:
        self._options = options
        self._place = place

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this client on the loop of s3fs, and wait for it."""
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine of this client on the loop of s3fs."""
        return asyncio.run_coroutine_threadsafe(work, _session(self._options).loop)

    async def request(self, method: str, **arguments: Any) -> Any:
        """Send one request once; raises `Refused`, or what `is_passing` knows."""
        from botocore.exceptions import ClientError

        client = await _session(self._options).set_session()
        # aiohttp's own time-out begins when a body is sent: a server that stops reading it would hold us for ever.
        body = arguments.get("Body")
        limit = None if body is None else self._options.read_timeout + len(body) / _SLOWEST
        try:
            async with asyncio.timeout(limit):
                return await getattr(client, method)(**arguments)
        except TimeoutError as error:
            raise TimeoutError(f"the server did not take {len(body or b''):,} bytes in {limit} s") from error
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if (status >= 500 and status != 501) or status == 429 or code in _RETRIED_CODES:
                raise
            message = str(error.response.get("Error", {}).get("Message", ""))
            raise Refused(code or str(status), status, message) from error

    async def insist(self, verb: str, key: str, attempt: Callable[[], Awaitable[T]], *, timeouts: int = 2) -> T:
        """Make an attempt again and again while it fails in ways that pass, with growing pauses of random length.

        A server that accepts requests and says nothing is given up after ``timeouts`` of the option ``read_timeout``:
        somebody waits for the answer.

        Raises
        ------
        Refused
            As the attempt does.
        StorageError
            When it never succeeded, or failed in a way that does not pass.
        """
        give_up = time.monotonic() + timeouts * self._options.read_timeout
        for number in range(1, TRIES + 1):
            try:
                return await attempt()
            except Refused:
                raise
            except Exception as error:
                if not is_passing(error) or number == TRIES or time.monotonic() >= give_up:
                    raise self.failure(verb, key, error) from error
                logger.warning(
                    "event=s3_retry verb=%s key=%s attempt=%d error=%s: %s",
                    verb, key, number, type(error).__name__, error,
                )  # fmt: skip
                # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
                await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**number)))  # noqa: S311
        raise AssertionError("the loop returns or raises")  # for the type checker

    def failure(self, verb: str, key: str, error: Exception) -> StorageError:
        """Return what a person is told when an attempt failed for good."""
        code = error.code if isinstance(error, Refused) else type(error).__name__
        return StorageError(
            f"cannot {verb} {key!r} at {self._place}: {str(error) or code}",
            hint=_HINTS.get(
                code, "See that the server is up, and storage.uri and storage.s3 are right; then try again."
            ),
            context={"key": key, "uri": self._place, "code": code},
        )


def is_passing(error: Exception) -> bool:
    """Whether trying again may help: the server was busy or broken, or the line to it."""
    import aiohttp
    from botocore import exceptions

    return isinstance(
        error,
        exceptions.ClientError  # `request` turns those that do not pass into `Refused`
        | exceptions.HTTPClientError  # time-outs and connections that break
        | exceptions.IncompleteReadError
        | exceptions.ResponseStreamingError
        | aiohttp.ClientError
        | TimeoutError
        | ConnectionError,
    )


def _session(options: S3) -> Any:
    """Return the s3fs file system of these options in this process: one pool of connections for all stores."""
    key = (os.getpid(), options)  # what a fork takes along of it is of no use
    with _sessions_lock:
        if key not in _sessions:
            import s3fs

            session = s3fs.S3FileSystem(
                endpoint_url=options.endpoint_url,
                key=_reveal(options.access_key_id),
                secret=_reveal(options.secret_access_key),
                token=_reveal(options.session_token),
                client_kwargs={"region_name": options.region} if options.region else {},
                config_kwargs={
                    "retries": {"total_max_attempts": 1},
                    "connect_timeout": options.connect_timeout,
                    "read_timeout": options.read_timeout,
                    "max_pool_connections": _CONNECTIONS,
                    # Servers other than AWS's do not all know the checksums that botocore adds; MD5 they all do.
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                },
                use_listings_cache=False,
                skip_instance_cache=True,
            )
            _sessions[key] = session
        return _sessions[key]


def _reveal(secret: Any) -> str | None:
    return None if secret is None else str(secret.get_secret_value())
