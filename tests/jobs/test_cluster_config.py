"""Descriptions of clusters, checked against what Ray's launcher, KubeRay and Kubernetes say that they take."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from compute import load_config
from compute.errors import ConfigurationError, InvalidField
from jobs.cluster_config import describe, main
from jobs.cluster_wanted import Wanted, own_image

ROOT = Path(__file__).parents[2]
SERVE = (ROOT / "serve_config.yaml").read_text(encoding="utf-8")
KUBERAY = yaml.safe_load(Path(__file__).with_name("kuberay_schema.yaml").read_text(encoding="utf-8"))
LAUNCHER = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
FILES = {"storage": {"uri": "file:///srv/state", "data_uri": "file:///srv/data"}}
CLOUD: dict[str, Any] = {
    "compute": {"backend": "ray", "ray_address": "ray://head:10001", "cpu_limit": 6},
    "clusters": [{"name": "other", "host": "elsewhere", "port": 10001, "type": "ray"}],
    "scaling": {"min_workers": 0, "max_workers": 12, "scale_down_delay": 90},
    "storage": {
        "uri": "s3://models/team-a",
        "data_uri": "s3://tables",
        "cache": {"directory": "/home/me/cache"},
        "s3": {
            "endpoint_url": "http://minio:9000",
            "region": "eu-central-1",
            "access_key_id": "AKIAEXAMPLE",
            "secret_access_key": "very-secret",
            "session_token": "also-secret",
        },
    },
    "security": {"allowed_hosts": ["models.example.org"]},
}


def wanted(tmp_path: Path, settings: dict[str, Any], **more: Any) -> Wanted:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return Wanted(config=load_config(file), image=own_image(), serve=SERVE, entrypoint="python -m jobs.train", **more)


def check_kubernetes(text: str) -> dict[str, Any]:
    """Check every part; return them by kind."""
    parts = {part["kind"]: part for part in yaml.safe_load_all(text)}
    for kind, part in parts.items():
        if part["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(part, "1.37", strict=True)
            continue
        jsonschema.validate(part, KUBERAY)
        for group in groups(cluster_of(part)):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": kind.lower()}, **group["template"]}
            kubernetes_validate.validate(pod, "1.37", strict=True)
    return parts


def cluster_of(part: dict[str, Any]) -> dict[str, Any]:
    key = {"RayService": "rayClusterConfig", "RayJob": "rayClusterSpec"}.get(part["kind"])
    cluster: dict[str, Any] = part["spec"] if key is None else part["spec"][key]
    return cluster


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("settings", [FILES, CLOUD], ids=["files", "cloud"])
@pytest.mark.parametrize("kind", ["raycluster", "rayservice", "rayjob"])
def test_kuberay_takes_the_manifests(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    parts = check_kubernetes(describe(kind, wanted(tmp_path, settings, gpus=1, cpus=3, memory=2**30)))
    *others, last = parts
    assert others == (["ConfigMap", "PersistentVolumeClaim"] if settings is FILES else ["ConfigMap"])
    assert last.lower() == kind
    cluster = cluster_of(parts[last])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    for group in groups(cluster):
        (container,) = group["template"]["spec"]["containers"]
        assert f":{ray.__version__}-py3" in container["image"]
        assert container["command"] == ['eval "$(python -m deployments.ingress)"']  # the operator appends: && ray start
        assert container["resources"]["limits"] == {"cpu": "3", "memory": "1024Mi", "nvidia.com/gpu": "1"}


def test_the_check_refuses_what_is_wrong(tmp_path: Path) -> None:
    good = describe("raycluster", wanted(tmp_path, FILES))
    for right, wrong, error in [
        ("maxReplicas: 1", "maximumReplicas: 1", jsonschema.ValidationError),
        ("mode: token", "mode: tokens", jsonschema.ValidationError),
        ("replicas: 1", "replicas: one", jsonschema.ValidationError),
        ("num-cpus: '0'", "num-cpus: 0", jsonschema.ValidationError),
        ("volumeMounts:", "mounts:", kubernetes_validate.ValidationError),
        ("ReadWriteMany", "7", kubernetes_validate.ValidationError),
    ]:
        assert right in good
        with pytest.raises(error):
            check_kubernetes(good.replace(right, wrong))


def test_the_section_scaling_decides_how_many_workers(tmp_path: Path) -> None:
    fixed = cluster_of(check_kubernetes(describe("raycluster", wanted(tmp_path, FILES)))["RayCluster"])
    assert "enableInTreeAutoscaling" not in fixed
    assert [fixed["workerGroupSpecs"][0][key] for key in ("minReplicas", "replicas", "maxReplicas")] == [1, 1, 1]
    scaled = cluster_of(check_kubernetes(describe("raycluster", wanted(tmp_path, CLOUD)))["RayCluster"])
    assert scaled["enableInTreeAutoscaling"] is True
    assert scaled["autoscalerOptions"]["idleTimeoutSeconds"] == 90
    assert [scaled["workerGroupSpecs"][0][key] for key in ("minReplicas", "replicas", "maxReplicas")] == [0, 0, 12]
    # With no worker that is always there, the head works too.
    assert "num-cpus" not in scaled["headGroupSpec"]["rayStartParams"]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments")  # Serve's, as it is imported
def test_a_service_serves_what_the_file_says_beyond_its_pod(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    parts = check_kubernetes(describe("rayservice", wanted(tmp_path, CLOUD, name="tables")))
    serve = ServeDeploySchema.model_validate(yaml.safe_load(parts["RayService"]["spec"]["serveConfigV2"]))
    assert [app.import_path for app in serve.applications] == [
        app["import_path"] for app in yaml.safe_load(SERVE)["applications"]
    ]
    assert serve.http_options.host == "0.0.0.0"
    told = json.loads(parts["ConfigMap"]["data"]["config.json"])
    assert told["security"]["allowed_hosts"] == ["models.example.org", "tables-serve-svc"]


@pytest.mark.parametrize("kind", ["ray", "raycluster", "rayservice", "rayjob"])
def test_secrets_are_never_written_and_the_rest_reads_as_it_was(tmp_path: Path, kind: str) -> None:
    text = describe(kind, wanted(tmp_path, CLOUD))
    for secret in ("AKIAEXAMPLE", "very-secret", "also-secret", "***", "/home/me", "elsewhere", "ray://head"):
        assert secret not in text
    if kind == "ray":
        command = yaml.safe_load(text)["setup_commands"][0]
        told = subprocess.run(
            ["bash", "-c", command.replace("> /home/ray/config.json", "")], capture_output=True, check=True
        ).stdout.decode()
    else:
        told = next(yaml.safe_load_all(text))["data"]["config.json"]
    (tmp_path / "inside.json").write_text(told, encoding="utf-8")
    inside = load_config(tmp_path / "inside.json")
    assert (inside.storage.uri, inside.storage.s3.endpoint_url) == ("s3://models/team-a", "http://minio:9000")
    assert (inside.compute.backend, inside.compute.cpu_limit, inside.compute.ray_address) == ("ray", 6, None)
    assert inside.scaling is not None
    assert inside.scaling.max_workers == 12


@pytest.mark.parametrize("hosts", [(), ("10.0.0.1", "10.0.0.2", "10.0.0.3")], ids=["aws", "hosts"])
@pytest.mark.parametrize("settings", [FILES, CLOUD], ids=["files", "cloud"])
def test_the_launcher_takes_its_description(tmp_path: Path, settings: dict[str, Any], hosts: tuple[str, ...]) -> None:
    described = yaml.safe_load(describe("ray", wanted(tmp_path, settings, hosts=hosts)))
    jsonschema.validate(described, LAUNCHER)
    prepared = prepare_config(described)
    validate_config(prepared)
    most = 2 if hosts else 12 if settings is CLOUD else 1
    assert prepared["max_workers"] == most
    assert prepared["docker"]["image"] == own_image()
    assert bool(prepared["docker"].get("run_options")) is (settings is FILES)
    for commands in (prepared["head_start_ray_commands"], prepared["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
        assert 'eval "$(python -m deployments.ingress)"; ' in commands[-1].partition("ray start")[0]
    assert prepared["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert (prepared["provider"]["type"], prepared["idle_timeout_minutes"]) == (
        "local" if hosts else "aws",
        1.5 if settings is CLOUD else 5,
    )


@pytest.mark.parametrize("name", ["", "Tables", "tables-", "1st", "a" * 48])
def test_names_that_kubernetes_refuses(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidField, match="cannot be that of a cluster"):
        describe("raycluster", wanted(tmp_path, FILES, name=name))


def test_what_is_missing_is_named() -> None:
    plain = Wanted(config=load_config(), image=own_image())
    with pytest.raises(InvalidField, match="--entrypoint"):
        describe("rayjob", plain)
    with pytest.raises(ConfigurationError, match="--serve-config"):
        describe("rayservice", plain)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    output = tmp_path / "service.yaml"
    assert main(["--format", "rayservice", "--output", str(output), "--memory", "8g", "--name", "tables"]) == 0
    assert check_kubernetes(output.read_text())["RayService"]["metadata"]["name"] == "tables"
    assert main(["--format", "raycluster"]) == 0
    assert "RayCluster" in check_kubernetes(capsys.readouterr().out)
    assert main(["--format", "rayservice", "--serve-config", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no file nowhere.yaml")
    with pytest.raises(SystemExit):
        main(["--format", "raycluster", "--memory", "much"])
    assert "'much' is not a size in bytes" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cluster_config", "--format", "ray"], capture_output=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, b"")
    validate_config(prepare_config(yaml.safe_load(done.stdout)))
