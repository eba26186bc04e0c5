"""Two clusters after one another over one store: whatever the first was told is there in the second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compute import Config
from tests.environment import environment

_FIRST = """
import json, ray
from sklearn.linear_model import LinearRegression
from registry import get_model_registry
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
registry = get_model_registry()
model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
ids = [registry.register_model(model, "linear", {"number": number}, ["demo"], name="line") for number in range(5)]
registry.set_alias("line", "champion", 3)
registry.update_model_metadata(ids[1], {"status": "archived", "metrics": {"rmse": 0.5}})
registry.delete_model(ids[4])
print(json.dumps([record.model_dump(mode="json") for record in registry.list_models()]))
"""

_SECOND = """
import json, numpy, ray
from registry import get_model_registry
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
registry = get_model_registry()
held = [record.model_dump(mode="json") for record in registry.list_models()]
assert registry.load_model("line@champion").predict(numpy.array([[2.0]])).round(6).tolist() == [5.0]
[deleted] = registry.list_deleted()
assert registry.restore_model(deleted.record.model_id).version == 5
assert registry.register_model(registry.load_model("line:1").model, "linear", name="line")
assert registry.resolve("line:6").version == 6
print(json.dumps(held))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_next_cluster_has_it_all(config: Config, tmp_path: Path) -> None:
    held = []
    for program in (_FIRST, _SECOND):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=environment(config), cwd=tmp_path, capture_output=True, text=True, timeout=140, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        held.append(json.loads(done.stdout.splitlines()[-1]))
    assert held[0] == held[1]
    assert len(held[0]) == 4
