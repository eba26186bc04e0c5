"""The YAML of Ray's cluster launcher: `ray up`.

Its fields are those of ``ray/autoscaler/ray-schema.json``.
"""

from __future__ import annotations

import shlex
from typing import Any

from jobs.cluster_wanted import Wanted, as_json
from jobs.serve_variables import SERVE_VARIABLES

_HOME = "/home/ray"
_CODE = f"{_HOME}/tablework"
_CONFIG = f"{_HOME}/config.json"
_SHARED = f"{_HOME}/shared"
_SHARED_OUTSIDE = "/srv/tablework"

NOTES = (
    "ray up FILE, in the directory of the project; ray down FILE ends it.",
    "All nodes take Ray's token from this machine: make it with `ray get-auth-token --generate`.",
    "Keys of S3 come from AWS's chain on the nodes: give their instances a role.",
    f"{_SHARED_OUTSIDE}, where it is mounted, is a directory that all nodes share; on S3 nothing is.",
)


def launcher(wanted: Wanted) -> dict[str, Any]:
    """Return the description of a cluster on machines that are there, or rented from AWS.

    Machines that are there are all used, as long as the cluster is up.
    """
    least, most = wanted.workers
    variables = {"RAY_AUTH_MODE": "token", "COMPUTE_CONFIG": _CONFIG, **SERVE_VARIABLES}
    exports = " ".join(f"{name}={value}" for name, value in variables.items())
    # HAProxy with our rules: files and ports of each node's own.
    start = f'export {exports}; eval "$(python -m deployments.ingress)"; ulimit -n 65536; ray start'
    described: dict[str, Any] = {
        "cluster_name": wanted.name,
        "max_workers": most,
        "idle_timeout_minutes": wanted.idle_seconds / 60,
        "provider": {"type": "aws", "region": wanted.config.storage.s3.region or "us-west-2"},
        "auth": {"ssh_user": "ubuntu"},
        "docker": {"image": wanted.image, "container_name": wanted.name, "pull_before_run": True},
        "available_node_types": {
            # Ray knows what the instances of AWS have.
            "head": {"resources": {}, "node_config": {"InstanceType": wanted.instance_type}},
            "worker": {
                "min_workers": least,
                "max_workers": most,
                "resources": {},
                "node_config": {"InstanceType": wanted.instance_type},
            },
        },
        "head_node_type": "head",
        "file_mounts": {_CODE: ".", f"{_HOME}/.ray/auth_token": "~/.ray/auth_token"},
        "rsync_exclude": [".git", "config.json"],
        "rsync_filter": [".gitignore"],
        "setup_commands": [
            f"printf %s {shlex.quote(as_json(wanted.settings(_SHARED)))} > {_CONFIG}",
            f"pip install --constraint {_CODE}/constraints.txt {_CODE}",
        ],
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
    }
    if wanted.keeps_files:
        described["docker"]["run_options"] = [f"-v {_SHARED_OUTSIDE}:{_SHARED}"]
    if wanted.hosts:
        head, *others = wanted.hosts
        described["provider"] = {"type": "local", "head_ip": head, "worker_ips": others}
        described["max_workers"] = len(others)
        for key in ("available_node_types", "head_node_type"):
            del described[key]
    return described
