"""Manifests for the KubeRay operator, of the group ``ray.io/v1``: RayCluster, RayService, RayJob.

Fields as in KubeRay's API reference (https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html); the
operator has to be 1.5.1 or newer, which makes the token that ``authOptions`` asks for. Ray is imported inside a
function.
"""

from __future__ import annotations

from typing import Any

import yaml

from jobs.cluster_wanted import Wanted, as_json
from jobs.serve_variables import SERVE_VARIABLES

_SHARED = "/var/lib/tablework"
_CONFIG = "/etc/tablework"
_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}
_KINDS = {"raycluster": "RayCluster", "rayservice": "RayService", "rayjob": "RayJob"}
_KEPT_SECONDS = 600
_RAY_GROUP = 100

NOTES = (
    "kubectl apply -f FILE; the KubeRay operator has to be 1.5.1 or newer, and makes Ray's token (authOptions).",
    "The image has to have this project installed: `FROM` Ray's own, `COPY . /app`, `RUN pip install /app`.",
    "Keys of S3 come from a Secret named as envFrom says, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
)


def manifests(kind: str, wanted: Wanted) -> list[dict[str, Any]]:
    """Return the resource, after the ConfigMap and the volume that its pods mount.

    Parameters
    ----------
    kind : {"raycluster", "rayservice", "rayjob"}
        Which.
    wanted : Wanted
        What it should be.
    """
    cluster = _cluster(wanted)
    spec = cluster
    if kind == "rayservice":
        spec = {"serveConfigV2": _serve(wanted.serve), "rayClusterConfig": cluster}
    elif kind == "rayjob":
        spec = {
            "entrypoint": wanted.entrypoint,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "rayClusterSpec": cluster,
        }
    settings = wanted.settings(_SHARED)
    if kind == "rayservice":
        # The name that the operator gives to the service, by which others in Kubernetes call.
        hosts = [*wanted.config.security.allowed_hosts, f"{wanted.name}-serve-svc"]
        settings["security"] = {**settings.get("security", {}), "allowed_hosts": hosts}
    parts = [_resource("v1", "ConfigMap", f"{wanted.name}-config", data={"config.json": as_json(settings)})]
    if wanted.keeps_files:
        volume = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "20Gi"}}}
        parts.append(_resource("v1", "PersistentVolumeClaim", f"{wanted.name}-state", spec=volume))
    return [*parts, _resource("ray.io/v1", _KINDS[kind], wanted.name, spec=spec)]


def _resource(version: str, kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **content}


def _cluster(wanted: Wanted) -> dict[str, Any]:
    import ray

    least, most = wanted.workers
    head = {"dashboard-host": "0.0.0.0"}  # noqa: S104  (of the pod; the token guards it)
    if least:
        # Work is for the workers: what holds the cluster together should not run out of memory by it.
        head["num-cpus"] = "0"
    spec: dict[str, Any] = {
        "rayVersion": ray.__version__,
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": head, "template": _pod("ray-head", wanted, _PORTS)},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": least,
                "minReplicas": least,
                "maxReplicas": most,
                "rayStartParams": {},
                "template": _pod("ray-worker", wanted, {"serve": _PORTS["serve"]}),
            }
        ],
    }
    if wanted.config.scaling is not None:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {"upscalingMode": "Default", "idleTimeoutSeconds": wanted.idle_seconds}
    return spec


def _pod(container: str, wanted: Wanted, ports: dict[str, int]) -> dict[str, Any]:
    amounts = {"cpu": str(wanted.cpus), "memory": f"{wanted.memory // 2**20}Mi"}
    if wanted.gpus:
        amounts["nvidia.com/gpu"] = str(wanted.gpus)
    mounts = [{"name": "config", "mountPath": _CONFIG, "readOnly": True}]
    volumes: list[dict[str, Any]] = [{"name": "config", "configMap": {"name": f"{wanted.name}-config"}}]
    if wanted.keeps_files:
        mounts.append({"name": "state", "mountPath": _SHARED})
        volumes.append({"name": "state", "persistentVolumeClaim": {"claimName": f"{wanted.name}-state"}})
    # Ray's images run as a user of this group, which may then write to the volume.
    group = {"securityContext": {"fsGroup": _RAY_GROUP}} if wanted.keeps_files else {}
    return {
        "spec": {
            **group,
            "containers": [
                {
                    "name": container,
                    "image": wanted.image,
                    # The operator runs it before `ray start`, in one shell: HAProxy with our rules.
                    "command": ['eval "$(python -m deployments.ingress)"'],
                    "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
                    "env": [
                        {"name": "COMPUTE_CONFIG", "value": f"{_CONFIG}/config.json"},
                        *({"name": name, "value": value} for name, value in SERVE_VARIABLES.items()),
                    ],
                    "envFrom": [{"secretRef": {"name": f"{wanted.name}-s3", "optional": True}}],
                    # Ray takes what it may use for what it is given.
                    "resources": {"requests": amounts, "limits": dict(amounts)},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        }
    }


def _serve(text: str) -> str:
    """Return a Serve configuration that answers beyond its own pod, on every node."""
    values = yaml.safe_load(text)
    values["proxy_location"] = "EveryNode"
    values["http_options"] = {**values.get("http_options", {}), "host": "0.0.0.0", "port": _PORTS["serve"]}  # noqa: S104
    return yaml.safe_dump(values, sort_keys=False)
