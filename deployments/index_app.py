"""The page at `/`: what is served here. It needs no token and tells nothing but that."""

# No `from __future__ import annotations`: Serve reads the annotation of `build` to validate the arguments.

from typing import TYPE_CHECKING

from pydantic import Field
from starlette.responses import HTMLResponse

from compute import Config, load_config
from deployments.access import PUBLIC, Rules
from deployments.application import Application
from deployments.log import log_to_stderr
from deployments.replicas import ReplicaArgs, serve_application

if TYPE_CHECKING:
    from ray.serve import Application as ServeApplication

RULES: Rules = {("GET", "/"): PUBLIC}

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Tablework</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}}
:root{{color-scheme:light dark}}</style>
<h1>Tablework</h1><ul>{items}</ul>
<p>Everything but these pages asks for a token: <code>Authorization: Bearer tw_...</code></p></html>
"""


class IndexAppArgs(ReplicaArgs):
    """The ``args`` of the index application."""

    applications: list[str] = Field(["models", "solver"], description="Route prefixes to link to, without slash.")


class Index:
    """One replica of the page at `/`."""

    def __init__(self, args: IndexAppArgs) -> None:
        log_to_stderr()
        self._config = load_config(args.config_path)
        self._applications = args.applications

    def __serve_build_asgi_app__(self) -> Application:
        """Return the ASGI application."""
        return index_api(self._config, self._applications)


def index_api(config: Config, applications: list[str]) -> Application:
    """Return the application with the page."""
    app = Application(title="Tablework", description="What is served here.", rules=RULES, config=config)
    items = "".join(
        f'<li>{name}: <a href="/{name}/docs">documentation</a>, <a href="/{name}/openapi.json">OpenAPI</a>, '
        f'<a href="/{name}/health">health</a></li>'
        for name in applications
    )
    page = _PAGE.format(items=items)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})

    return app


def build(args: IndexAppArgs) -> "ServeApplication":
    """Return the application for Serve."""
    return serve_application(Index, args, scaling=None)  # one page needs no scaling
