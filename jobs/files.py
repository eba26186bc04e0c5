"""Find the files behind a URI: one file, or a directory of them; on disk or on S3.

fsspec is imported inside functions: a local path never needs it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import unquote, urlsplit

from compute import Config
from compute.errors import DataError, DataNotFound, UnsupportedFormat

Format = Literal["csv", "parquet"]

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".csv.zip": "csv",
}
_KNOWN = ", ".join(_SUFFIXES)
_PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True)
class DataFile:
    """One file: its path, its size in bytes, and a stamp that changes when it is written again.

    ``options`` is empty for a file on disk, else what fsspec needs to open the URI.
    """

    path: str
    size: int
    stamp: str
    options: tuple[tuple[str, Any], ...] = field(default=(), hash=False)

    @property
    def local(self) -> bool:
        """Whether the operating system can open the path itself."""
        return "://" not in self.path

    def open(self) -> IO[bytes]:
        """Open the bytes as they are stored."""
        if self.local:
            return Path(self.path).open("rb")
        import fsspec

        handle: IO[bytes] = fsspec.open(self.path, "rb", **dict(self.options)).open()
        return handle


def local_path(uri: str) -> Path | None:
    """Return the path that a plain path or a ``file://`` URI names, or None for another scheme.

    Examples
    --------
    >>> local_path("file:///data/my%20file.csv").as_posix(), local_path("s3://bucket/key")
    ('/data/my file.csv', None)
    """
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return None if "://" in uri else Path(uri).expanduser().absolute()


def file_format(path: str) -> Format | None:
    """Return the format that a name's ending stands for.

    Examples
    --------
    >>> file_format("flights.csv.gz"), file_format("part-0.PARQUET"), file_format("notes.xlsx")
    ('csv', 'parquet', None)
    """
    return next((kind for suffix, kind in _SUFFIXES.items() if path.lower().endswith(suffix)), None)


def storage_options(uri: str, config: Config) -> dict[str, Any]:
    """Return what fsspec needs, beyond the URI, to reach it."""
    if not uri.startswith("s3://"):
        return {}
    s3 = config.storage.s3
    options: dict[str, Any] = {}
    if s3.endpoint_url:
        options["endpoint_url"] = s3.endpoint_url
    if s3.access_key_id and s3.secret_access_key:
        options |= {"key": s3.access_key_id.get_secret_value(), "secret": s3.secret_access_key.get_secret_value()}
    if s3.session_token:
        options["token"] = s3.session_token.get_secret_value()
    if s3.region:
        options["client_kwargs"] = {"region_name": s3.region}
    return options


def find_files(uri: str, config: Config) -> tuple[Format, tuple[DataFile, ...]]:
    """List the files that a URI stands for, in the order of their names.

    Parameters
    ----------
    uri : str
        A path, ``file://...`` or ``s3://...``; a file, a directory whose files are all CSV or all Parquet, or a
        pattern of names with ``*``, ``?``, ``[...]``, and ``**`` for folders. Names that start with ``.`` or ``_``
        are left out, as Spark and Hive do.
    config : Config
        Access to S3.

    Returns
    -------
    format : str
        ``"csv"`` or ``"parquet"``.
    files : tuple of DataFile
        At least one, none of them empty.

    Raises
    ------
    DataNotFound
        When nothing lies there.
    DataError
        When a file is empty, or a directory mixes formats or is partitioned by folder names.
    UnsupportedFormat
        When the ending says nothing we read.
    """
    path = local_path(uri)
    files = _on_disk(path) if path is not None else _remote(uri, config)
    if not files:
        raise DataNotFound(
            f"nothing lies at {uri}" + (f" ({path})" if path is not None and str(path) != uri else ""),
            hint="Check the path; a relative one starts at the working directory of the process that reads.",
            context={"uri": uri},
        )
    formats = {file_format(file.path) for file in files}
    if None in formats:
        wrong = next(file.path for file in files if file_format(file.path) is None)
        raise UnsupportedFormat(f"cannot tell the format of {wrong} from its ending", hint=f"Known are {_KNOWN}.")
    if len(formats) > 1:
        raise DataError(f"{uri} holds both CSV and Parquet files", hint="Name one file, or a directory of one format.")
    for file in files:
        if not file.size:
            raise DataError(f"{file.path} is empty (0 bytes)", hint="Write it again, or leave it out.")
        if "=" in file.path[len(fixed_part(str(path) if path is not None else uri)) :].rpartition("/")[0]:
            raise DataError(
                f"{uri} is partitioned by folder names ({file.path}), and their columns would be lost",
                hint="Name one of the folders, or write the partition's columns into the files.",
            )
    kind = formats.pop()
    assert kind is not None  # None was refused above
    return kind, files


def fixed_part(path: str) -> str:
    """Return the folder before the first pattern in a path; a path without one is its own.

    Examples
    --------
    >>> fixed_part("bucket/2013/part-*.parquet"), fixed_part("bucket/2013")
    ('bucket/2013', 'bucket/2013')
    """
    match = _PATTERN.search(path)
    return path if match is None else path[: match.start()].rpartition("/")[0]


def _on_disk(path: Path) -> tuple[DataFile, ...]:
    if _PATTERN.search(str(path)) and not path.exists():
        # The pattern says which names are wanted; of those that begin with . or _, none is, as in a directory.
        names = (Path(name) for name in glob(str(path), recursive=True))  # noqa: PTH207  (of an absolute path)
        found = sorted(name for name in names if name.is_file() and name.name[0] not in "._")
    elif path.is_dir():
        found = sorted(
            item
            for item in path.rglob("*")
            if item.is_file() and not any(part[0] in "._" for part in item.relative_to(path).parts)
        )
    else:
        found = [path] if path.exists() else []
    return tuple(_stat(item) for item in found)


def _stat(path: Path) -> DataFile:
    try:
        status = path.stat()
        readable = os.access(path, os.R_OK)
    except OSError as error:
        raise DataNotFound(f"cannot read {path}: {error.strerror}") from error
    if not readable:
        raise DataError(f"no permission to read {path}", hint="Change its mode or its owner.")
    return DataFile(str(path), status.st_size, str(status.st_mtime_ns))


def _remote(uri: str, config: Config) -> tuple[DataFile, ...]:
    import fsspec

    options = storage_options(uri, config)
    scheme = uri.partition("://")[0]
    if scheme not in ("s3", "memory"):
        raise UnsupportedFormat(f"cannot read from {scheme}:// ({uri})", hint="Use a path, file:// or s3://.")
    try:
        filesystem, root = fsspec.core.url_to_fs(uri, **options)
        if _PATTERN.search(root):
            found = filesystem.glob(root, detail=True)
            root = fixed_part(root)
        else:
            found = filesystem.find(root, detail=True)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataError(
            f"cannot reach {uri}: {error}", hint="Check the bucket and the keys of storage.s3 in the configuration."
        ) from error
    root = root.rstrip("/")
    return tuple(
        DataFile(
            f"{scheme}://{path.lstrip('/')}",
            int(item["size"]),
            str(item.get("ETag") or item.get("LastModified") or item.get("created") or ""),
            tuple(options.items()),
        )
        for path, item in sorted(found.items())
        if item["type"] == "file" and not any(part[:1] in ("_", ".") for part in path[len(root) :].split("/") if part)
    )
