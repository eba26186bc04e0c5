"""Which URIs a client of the HTTP interface may name: nobody reads `/etc/passwd` or a metadata service through us."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from compute.config import Config
from compute.errors import UriNotAllowed


def check_uri(uri: str, config: Config) -> str:
    """Return the URI in its resolved form if a client may name it.

    Parameters
    ----------
    uri : str
        A path, ``file://...`` or ``s3://...``; relative paths are relative to ``storage.data_uri``.
    config : Config
        ``storage.data_uri`` and ``security.allowed_uris`` are the places that are allowed, with all below them.

    Returns
    -------
    str
        The URI with ``..``, links and percent escapes resolved; open this one, not the one that came in.

    Raises
    ------
    UriNotAllowed
        When it lies elsewhere, or is of a scheme that is not allowed.

    Examples
    --------
    >>> from compute import load_config
    >>> check_uri("file:///etc/passwd", load_config())
    Traceback (most recent call last):
    ...
    compute.errors.UriNotAllowed: the URI 'file:///etc/passwd' is not in a place that clients may name...
    """
    places = [_resolve(place, config) for place in (config.storage.data_uri, *config.security.allowed_uris)]
    resolved = _resolve(uri, config)
    if resolved is not None and any(
        place is not None and (resolved == place or resolved.startswith(place.rstrip("/") + "/")) for place in places
    ):
        return resolved
    raise UriNotAllowed(
        f"the URI {uri[:200]!r} is not in a place that clients may name",
        hint="Put the file below storage.data_uri, or have the operator add its place to security.allowed_uris.",
        context={"uri": uri[:200]},
    )


def _resolve(uri: str, config: Config) -> str | None:
    """Give the canonical form, or None for what has no business here."""
    if "\0" in uri or "\\" in uri:
        return None
    parts = urlsplit(uri)
    if "://" not in uri:
        path = Path(uri)
        if not path.is_absolute() and config.storage.data_uri.startswith("file://"):
            path = Path(unquote(urlsplit(config.storage.data_uri).path)) / path
        elif not path.is_absolute():
            return _resolve(f"{config.storage.data_uri.rstrip('/')}/{uri}", config)
        return path.resolve().as_uri()
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path)).resolve().as_uri()
    if parts.scheme == "s3" and parts.netloc and not {"..", "."} & set(unquote(parts.path).split("/")):
        return uri
    return None
