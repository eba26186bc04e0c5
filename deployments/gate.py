"""Who may call: tokens and their roles, looked at in one place for HTTP and gRPC."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from compute.errors import Forbidden, Unauthorized
from deployments.access import PUBLIC, Access
from deployments.freshness import Fresh
from deployments.tokens import Role, Token, TokenStore

if TYPE_CHECKING:
    from collections.abc import Sequence

REVOKED_WITHIN = 1.0
"""Seconds after which a revoked token is refused everywhere, at the latest."""


class Gate:
    """Knows the tokens.

    Parameters
    ----------
    tokens : TokenStore
        Who may come in.
    """

    def __init__(self, tokens: TokenStore) -> None:
        # Its own few threads: a flood of unknown tokens must not take those that the application works with.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="tokens")
        self._check = tokens.check
        self._known: Fresh[str, Token] = Fresh(self._look_up, ttl=REVOKED_WITHIN)

    async def authorize(self, authorization: Sequence[str], needed: Access) -> Token | None:
        """Return the token of a request that may pass; None when it needs none.

        Parameters
        ----------
        authorization : sequence of str
            The values of its header, or metadata, ``authorization``: there has to be one.
        needed : Role or "public"
            What it asks for.

        Raises
        ------
        Unauthorized, Forbidden
        """
        if needed == PUBLIC:
            return None
        scheme, _, secret = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not secret:
            raise Unauthorized(
                "the request has no token", hint="Send it in the header `Authorization: Bearer tw_...`, and only there."
            )
        token = await self._known.get(secret.strip())
        if not token.role.covers(Role(needed)):
            raise Forbidden(
                f"the token {token.name!r} has the role {token.role}, this needs {needed}",
                hint="Use a token with that role, or ask the operator for one.",
                context={"role": token.role, "needed": needed},
            )
        return token

    async def _look_up(self, secret: str) -> Token:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._check, secret)
