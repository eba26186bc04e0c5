"""Which role each route needs: one table for each application, and whatever it leaves out needs the highest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from starlette.routing import Match

from deployments.tokens import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.routing import BaseRoute
    from starlette.types import Scope

PUBLIC: Final = "public"
"""For routes that anybody may call; they must tell nothing but that the server is there and what its interface is."""

Access = Role | Literal["public"]
Rules = Mapping[tuple[str, str], Access]
"""From the method and the path, as the route declares it, to what it needs; HEAD is as GET."""

COMMON: Rules = {("GET", "/health"): PUBLIC, ("GET", "/openapi.json"): PUBLIC, ("GET", "/docs"): PUBLIC}


class Needs(NamedTuple):
    """What a request needs, whether it is an upload, and which route takes it with which parameters; None: no route."""

    access: Access
    upload: bool = False
    path: str | None = None
    parameters: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Policy:
    """What the routes of an application need.

    The routes are matched by themselves, as the router will match them afterwards: two ways of reading a path would
    sooner or later differ, and that is how checks are bypassed.

    Parameters
    ----------
    routes : sequence of routes
        The application's own, live: a route added later is checked too, and needs `Role.ADMIN` until the table names
        it.
    rules : mapping
        What each needs.
    uploads : frozenset of str
        Paths of the routes whose body may be as large as ``security.max_upload``.
    """

    routes: Sequence[BaseRoute]
    rules: Rules
    uploads: frozenset[str] = field(default=frozenset())

    def of(self, scope: Scope) -> Needs:
        """Return what the request needs.

        A request that no route takes needs a token of any role: what is there and what is not is nobody else's
        business.
        """
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                path = getattr(route, "path", "")
                access = self.rules.get((scope["method"], path), Role.ADMIN)
                return Needs(access, path in self.uploads, path, found.get("path_params", {}))
        return Needs(Role.READ)
