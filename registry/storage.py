"""The store that a URI stands for."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from compute.config import Config, load_config
from compute.errors import ConfigurationError
from registry.file_store import FileStore
from registry.s3_store import S3Store
from registry.store import ObjectStore


def open_store(uri: str, config: Config | None = None) -> ObjectStore:
    """Open the store at a URI.

    Parameters
    ----------
    uri : str
        A directory, as a path or as ``file://``, or ``s3://bucket/prefix``.
    config : Config, optional
        Its ``storage.s3`` is how S3 is reached; by default what `compute.load_config` finds.

    Raises
    ------
    ConfigurationError
        For a scheme that is not known, or a URI without a bucket.

    Examples
    --------
    >>> open_store("file:///var/lib/models").uri
    'file:///var/lib/models'
    """
    parts = urlsplit(uri)
    if "://" not in uri:
        return FileStore(Path(uri).expanduser())
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return FileStore(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(uri, (config or load_config()).storage.s3)
    raise ConfigurationError(
        f"storage.uri is {uri!r}, which is no place for state",
        hint="Use a directory, such as 'state' or 'file:///var/lib/models', or 's3://bucket/prefix'.",
        context={"uri": uri},
    )
