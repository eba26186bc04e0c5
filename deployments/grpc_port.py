"""The Open Inference Protocol V2 over gRPC, from a port of the replicas' own.

Serve's own gRPC ingress cannot be used: each replica behind it listens on every interface (`[::]` is written into
`ray.serve._private.grpc_util`), whatever host is configured; and where there is more than one application, calls need a
metadata entry that clients of the protocol do not send. So the replicas of a node share a port, as with
`deployments.data_port`, and what that gives up is the same. Every method passes one check of the token.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import orjson

from compute.errors import ResourcesUnavailable
from deployments.access import PUBLIC, Access
from deployments.gate import Gate
from deployments.question import Sticky
from deployments.tokens import Role, Token
from deployments.v2_api import v2_error
from deployments.v2_messages import SERVICE, message_classes, read_infer, write_infer
from deployments.v2_service import V2Service

logger = logging.getLogger(__name__)

GRACE = 60.0
"""Seconds in which calls under way are answered when the replica ends."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    410: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Method(NamedTuple):
    """What a method needs, and what makes the response: of the message, the class of the response, and the metadata."""

    needed: Access
    answer: Callable[[Any, type[Any], Sticky], Awaitable[Any]]


class GrpcPort:
    """Serves the protocol in the loop that makes it.

    Parameters
    ----------
    service : V2Service
        Answers.
    gate : Gate
        Knows the tokens.
    host, port : str, int
        Where to listen, in clear text: put a proxy that ends TLS in front.
    limit : int
        Calls at once; beyond, RESOURCE_EXHAUSTED at once.
    max_message : int
        Bytes of the largest request.

    Raises
    ------
    ResourcesUnavailable
        When something else has the port.
    """

    def __init__(self, service: V2Service, gate: Gate, host: str, port: int, limit: int, max_message: int) -> None:
        self._gate = gate
        self.ongoing = 0
        """Calls that are under way."""
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=limit,
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", max_message),
                ("grpc.max_send_message_length", -1),
            ],
        )
        classes = message_classes()
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._handler(name, method, classes[f"{name}Response"]),
                request_deserializer=classes[f"{name}Request"].FromString,
                response_serializer=classes[f"{name}Response"].SerializeToString,
            )
            for name, method in methods(service).items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ResourcesUnavailable(
                f"the gRPC port {address} cannot be listened on",
                hint="Choose another `grpc_port` in serve_config.yaml.",
            ) from error
        self._starting = asyncio.get_running_loop().create_task(self._server.start())

    async def close(self) -> None:
        """Take no new calls, and return when those under way are answered."""
        await self._starting
        await self._server.stop(GRACE)

    def _handler(self, name: str, method: Method, response: type[Any]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def handle(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            metadata = context.invocation_metadata() or ()
            given = next((str(value) for key, value in metadata if key == "x-request-id"), "")
            request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
            token: Token | None = None
            self.ongoing += 1
            code, text = grpc.StatusCode.OK, ""
            try:
                authorization = [str(value) for key, value in metadata if key == "authorization"]
                token = await self._gate.authorize(authorization, method.needed)
                values = {key: str(value) for key, value in metadata}
                return await method.answer(request, response, lambda key: values.get(key.lower()))
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001  (the one place that turns errors into statuses; it logs them)
                refused = v2_error(error, request_id)
                code, text = (
                    _CODES.get(refused.status_code, grpc.StatusCode.INTERNAL),
                    orjson.loads(refused.body)["error"],
                )
            finally:
                self.ongoing -= 1
                logger.info(
                    "event=request method=gRPC path=/%s/%s status=%s ms=%.1f token=%s request_id=%s",
                    SERVICE, name, code.name, (time.perf_counter() - started) * 1000,
                    f"{token.name}/{token.id}" if token else "-", request_id,
                )  # fmt: skip
            return await context.abort(code, text, (("x-request-id", request_id),))  # which raises

        return handle


def methods(service: V2Service) -> dict[str, Method]:
    """Return the methods by their names: the whole of what is served."""

    async def server_live(_: Any, response: type[Any], __: Sticky) -> Any:
        return response(live=True)

    async def server_ready(_: Any, response: type[Any], __: Sticky) -> Any:
        return response(ready=await service.ready())

    async def server_metadata(_: Any, response: type[Any], __: Sticky) -> Any:
        return response(**service.server())

    async def model_ready(request: Any, response: type[Any], _: Sticky) -> Any:
        await service.model_ready(request.name, request.version or None)
        return response(ready=True)

    async def model_metadata(request: Any, response: type[Any], _: Sticky) -> Any:
        return response(**await service.metadata(request.name, request.version or None))

    async def model_infer(request: Any, response: type[Any], metadata: Sticky) -> Any:
        asked = read_infer(request)
        answer = await service.infer(request.model_name, request.model_version or None, asked, metadata)
        return write_infer(asked, answer, response)

    async def repository_index(request: Any, response: type[Any], _: Sticky) -> Any:
        return response(models=await service.index(only_ready=request.ready))

    async def repository_load(request: Any, response: type[Any], _: Sticky) -> Any:
        await service.load(request.model_name)
        return response()

    async def repository_unload(request: Any, response: type[Any], _: Sticky) -> Any:
        await service.unload(request.model_name)
        return response()

    return {
        # What probes ask for; they have no token, and learn nothing but that the server is there.
        "ServerLive": Method(PUBLIC, server_live),
        "ServerReady": Method(PUBLIC, server_ready),
        "ServerMetadata": Method(Role.READ, server_metadata),
        "ModelReady": Method(Role.READ, model_ready),
        "ModelMetadata": Method(Role.READ, model_metadata),
        "ModelInfer": Method(Role.READ, model_infer),
        "RepositoryIndex": Method(Role.READ, repository_index),
        "RepositoryModelLoad": Method(Role.WRITE, repository_load),
        "RepositoryModelUnload": Method(Role.WRITE, repository_unload),
    }
