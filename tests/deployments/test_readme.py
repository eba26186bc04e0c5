"""The README says nothing that does not run: its Python in one fresh process, its curl commands against real Serve."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from compute import Config
from deployments.tokens import Role

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


# These need a cluster with our applications on it; the others run on a laptop with nothing configured.
ON_A_CLUSTER = ("serve.get_app_handle", "dask_bridge.")


def python(*, on_a_cluster: bool) -> str:
    chosen = [block for block in blocks("python") if any(word in block for word in ON_A_CLUSTER) == on_a_cluster]
    assert chosen
    return "\n".join(chosen)


def test_the_examples_run_in_order_and_curl_gets_what_they_registered(
    serve_url: str, served_config: Config, tokens: dict[Role, str], tmp_path: Path
) -> None:
    variables = {
        **os.environ,
        "COMPUTE_COMPUTE__BACKEND": "local",
        "COMPUTE_STORAGE__URI": served_config.storage.uri,
        "COMPUTE_STORAGE__DATA_URI": served_config.storage.data_uri,
    }
    (tmp_path / "example.py").write_text(python(on_a_cluster=False), encoding="utf-8")
    example = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200
    )
    assert example.returncode == 0, example.stderr
    assert "rmse" in example.stdout

    (tmp_path / ".run").mkdir()
    (tmp_path / ".run" / "token").write_text(tokens[Role.ADMIN])
    answers = []
    for block in blocks("bash"):
        for command in re.split(r"\n(?=curl)", block.replace("http://127.0.0.1:8000", serve_url)):
            result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, result.stderr
            answers.append(json.loads(result.stdout))
    listing, prediction, task, inferred = answers
    assert "diabetes" in {model["name"] for model in listing["models"]}
    assert len(prediction["predictions"]) == 1
    assert inferred["outputs"][0]["shape"] == [1]
    assert task["task_id"]
    assert task["status"] in ("PENDING", "RUNNING", "SUCCEEDED")

    connected = tmp_path / "connected.py"
    connected.write_text(python(on_a_cluster=True), encoding="utf-8")
    runpy.run_path(str(connected))  # in this process, which is connected to the cluster


def test_every_key_of_the_configuration_is_documented() -> None:
    table = README.partition("## Configuration")[2]
    for section, field in Config.model_fields.items():
        assert f"`{section}" in table
        keys = getattr(field.annotation, "model_fields", {})
        for key in keys:
            assert f"{key}`" in table or f".{key}." in table, f"{section}.{key}"
