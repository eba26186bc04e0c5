"""What the workers of the tests of durable tasks run; named as ``tests.registry.task_entries:run``."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from compute.errors import ColumnMissing
from registry import TaskContext

ENTRY = "tests.registry.task_entries:run"


def run(payload: dict[str, Any], context: TaskContext) -> Any:
    """Do what the payload says, and note the invocation in a file of the task."""
    if "note" in payload:
        with Path(payload["note"], context.task_id).open("a", encoding="utf-8") as file:
            file.write("run\n")
    match payload["do"]:
        case "echo":
            return {"echo": payload.get("value"), "task_id": context.task_id}
        case "sleep":
            context.progress(0.25, "sleeping")
            time.sleep(payload["seconds"])
            return {"slept": payload["seconds"]}
        case "report":
            for number in range(payload["times"]):
                context.progress(number / payload["times"], f"step {number}", number=number)
            return {}
        case "refuse":
            raise ColumnMissing("row 3 has no feature 'x'", context={"feature": "x", "row": 3})
        case "break":
            raise ValueError("a bug")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "unserialisable":
            return {"value": object()}
    raise AssertionError(payload)
