"""What a cluster should be, whatever describes it.

Ray is imported inside a function.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from compute import Config

_SECRETS = ("access_key_id", "secret_access_key", "session_token")


@dataclass(frozen=True)
class Wanted:
    """What a cluster should be.

    ``image`` runs on every node, each of which has ``cpus``, ``memory`` (bytes) and ``gpus``. ``hosts`` are machines
    that are there, the head first; without any they are rented. ``serve`` is the text of a Serve configuration.
    """

    config: Config
    image: str
    name: str = "tablework"
    cpus: int = 4
    memory: int = 16 * 2**30
    gpus: int = 0
    hosts: tuple[str, ...] = ()
    instance_type: str = "m5.2xlarge"
    serve: str = ""
    entrypoint: str = ""

    @property
    def workers(self) -> tuple[int, int]:
        """Fewest and most nodes besides the head."""
        scaling = self.config.scaling
        return (1, 1) if scaling is None else (scaling.min_workers, scaling.max_workers)

    @property
    def idle_seconds(self) -> int:
        """How long a node is idle before it goes."""
        return 300 if self.config.scaling is None else int(self.config.scaling.scale_down_delay)

    @property
    def keeps_files(self) -> bool:
        """Whether state or tables lie in a directory, which all nodes have to share."""
        return any(place.startswith("file:") for place in (self.config.storage.uri, self.config.storage.data_uri))

    def settings(self, shared: str) -> dict[str, Any]:
        """Return the configuration for the processes of the cluster, without secrets.

        Parameters
        ----------
        shared : str
            The directory that all nodes share, for what lies in directories of this machine.
        """
        values = self.config.model_dump(mode="json", exclude_defaults=True)
        limits = {key: value for key, value in values.get("compute", {}).items() if key.endswith("_limit")}
        # The addresses are for those outside, and the other clusters too.
        values = {**values, "compute": {"backend": "ray", **limits}}
        values.pop("clusters", None)
        storage = values.setdefault("storage", {})
        for key in ("uri", "data_uri"):
            place = getattr(self.config.storage, key)
            last = place.rstrip("/").rpartition("/")[2]
            storage[key] = f"file://{shared}/{last}" if place.startswith("file:") else place
        if "s3" in storage:
            storage["s3"] = {key: value for key, value in storage["s3"].items() if key not in _SECRETS}
        storage.pop("cache", None)
        return values


def own_image() -> str:
    """Return Ray's own image of the installed version, for the Python that runs.

    Examples
    --------
    >>> import ray
    >>> own_image().startswith(f"rayproject/ray:{ray.__version__}-py3")
    True
    """
    import ray

    return f"rayproject/ray:{ray.__version__}-py{sys.version_info.major}{sys.version_info.minor}"


def as_json(values: dict[str, Any]) -> str:
    """Return settings as the text of a `config.json`."""
    return json.dumps(values, indent=2) + "\n"
