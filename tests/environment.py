"""Configurations for tests, and what a process that a test starts needs to read and write the same state."""

from __future__ import annotations

import os

from compute import Config, load_config


def environment(config: Config) -> dict[str, str]:
    """Return the environment of this process, with the place of the state and the way to it."""
    storage = config.storage
    values = {
        "URI": storage.uri,
        "S3__ENDPOINT_URL": storage.s3.endpoint_url,
        "S3__REGION": storage.s3.region,
        "S3__ACCESS_KEY_ID": storage.s3.access_key_id and storage.s3.access_key_id.get_secret_value(),
        "S3__SECRET_ACCESS_KEY": storage.s3.secret_access_key and storage.s3.secret_access_key.get_secret_value(),
        "READ_STALENESS": storage.read_staleness if storage.read_staleness is None else str(storage.read_staleness),
    }
    return os.environ | {f"COMPUTE_STORAGE__{name}": value for name, value in values.items() if value}


def local_config(uri: str) -> Config:
    """Return the configuration of a registry without a cluster."""
    config = load_config()
    return config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"uri": uri}),
            "compute": config.compute.model_copy(update={"backend": "local"}),
        }
    )
