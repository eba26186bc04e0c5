"""Which URIs a client may name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from compute.config import Config
from compute.errors import UriNotAllowed
from compute.uris import check_uri


def test_a_file_below_the_data_directory_is_allowed_in_every_spelling(config: Config, tmp_path: Path) -> None:
    (tmp_path / "data" / "a b.csv").touch()
    expected = (tmp_path / "data" / "a b.csv").as_uri()
    for spelling in ("a b.csv", "./x/../a b.csv", str(tmp_path / "data" / "a b.csv"), expected):
        assert check_uri(spelling, config) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "../state/tokens",
        "file://{data}/../state/log",
        "file://{data}/%2e%2e/state/log",
        "{data}-evil/x.csv",
        "file://somehost{data}/x.csv",
        "http://169.254.169.254/latest/meta-data",
        "s3://bucket/key",
        "s3://allowed/prefix/../other",
        "s3://allowed/prefixed",
        "..\\..\\etc\\passwd",
        "x\0.csv",
        "file:////etc/passwd",
        "link/passwd",
    ],
)
def test_everything_else_is_refused(uri: str, config: Config, tmp_path: Path) -> None:
    (tmp_path / "data" / "link").symlink_to("/etc")
    security = config.security.model_copy(update={"allowed_uris": ("s3://allowed/prefix",)})
    config = config.model_copy(update={"security": security})
    data = unquote(urlsplit(config.storage.data_uri).path)
    with pytest.raises(UriNotAllowed):
        check_uri(uri.format(data=data), config)


def test_percent_escapes_in_a_plain_path_are_part_of_the_name(config: Config) -> None:
    assert check_uri("%2e%2e/x.csv", config) == f"{config.storage.data_uri}/%252e%252e/x.csv"


def test_configured_prefixes_are_allowed(config: Config) -> None:
    security = config.security.model_copy(update={"allowed_uris": ("s3://allowed/prefix",)})
    config = config.model_copy(update={"security": security})
    assert check_uri("s3://allowed/prefix/a.parquet", config) == "s3://allowed/prefix/a.parquet"
