"""The check of a store finds each kind of damage, says what to do, and raises no alarm about a store that is used."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from compute import TaskState
from compute.errors import ComputeError, DataNotFound
from registry import ArtifactStore, FileStore, ObjectStore
from registry.catalog import ModelCatalog
from registry.collection import collect
from registry.entry import decode_snapshot, encode_snapshot
from registry.findings import Report
from registry.fsck import check_store, main
from registry.log import Log
from registry.models import Draft, new_id
from registry.task_log import TaskLog
from registry.task_record import new_task_id
from registry.task_work import keep_payload
from registry.webhooks import WebhookLog, new_secret, new_webhook_id

SEVEN = "models/log/00000000000000000007.json"


def register(catalog: ModelCatalog, content: bytes) -> str:
    artifact = ArtifactStore(catalog.store).write(content)
    draft = Draft(model_id=new_id(), name="line", model_type="t", format="xgboost-ubj", artifact=artifact)
    return catalog.register(draft).model_id


@pytest.fixture
def catalog(store: ObjectStore) -> ModelCatalog:
    """Twelve models, one of them deleted, snapshots after 5 and 10 entries."""
    catalog = ModelCatalog(store, snapshot_every=5)
    ids = []
    for number in range(12):
        ids.append(register(catalog, b"model %d" % number))
        catalog.journal.wait_for_snapshot()
    catalog.delete(ids[3], None, "c", force=False)
    return catalog


def flip(store: ObjectStore, key: str) -> None:
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def found(report: Report) -> list[tuple[str, str]]:
    return [(finding.severity, finding.key) for finding in report.findings]


def test_a_sound_store_is_clean_before_and_after_compaction(catalog: ModelCatalog) -> None:
    report = check_store(catalog.store)
    assert (found(report), report.checked) == ([], {"snapshots": 2, "entries": 13, "artifacts": 12})
    assert catalog.journal.compact(0).entries == 5
    report = check_store(catalog.store)
    assert (found(report), report.checked) == ([], {"snapshots": 2, "entries": 8, "artifacts": 12})
    assert "8 entries, 12 artifacts checked in" in report.in_words()
    assert report.in_words().endswith("nothing is damaged")


def future(store: ObjectStore, key: str) -> None:
    store.put(key, store.get(key).replace(b'"format":1', b'"format":2', 1))


def other_state(store: ObjectStore, key: str) -> None:
    """A snapshot that is sound in itself, and holds what never was."""
    number = int(key[-28:-8])
    items = list(decode_snapshot(store.get(key), number, key))
    items[-1]["record"]["tags"] = ["invented"]
    store.put(key, encode_snapshot(number, items))


@pytest.mark.parametrize(
    ("key", "damage", "problem", "action"),
    [
        (SEVEN, flip, "", "restore this object"),
        (SEVEN, lambda store, key: store.put(key, store.get(key)[:-9]), "truncated or garbled", "restore this object"),
        (SEVEN, lambda store, key: store.delete(key), "is missing", "a later snapshot holds the state"),
        (SEVEN.replace("07", "11"), lambda store, key: store.delete(key), "is missing", "the journal does not open"),
        (SEVEN.replace("07", "13"), lambda store, key: store.put(key, b""), "truncated", "restore this object"),
        (SEVEN.replace("07", "13"), future, "is of format 2; this release reads format 1", "a newer release"),
        ("models/snapshots/00000000000000000010.json.zz", flip, "", "nothing is lost"),
        ("models/snapshots/00000000000000000010.json.zz", other_state, "not what the entries", "delete it"),
        ("models/snapshots/00000000000000000005.json.zz", future, "is of format 2", "nothing is lost"),
    ],
)
def test_damage_of_the_journal_is_named(
    catalog: ModelCatalog, key: str, damage: Callable[[ObjectStore, str], object], problem: str, action: str
) -> None:
    damage(catalog.store, key)
    report = check_store(catalog.store)
    assert found(report) == [("damage", key)]
    assert problem in report.findings[0].problem
    assert action in report.findings[0].action


def test_damage_of_artifacts_is_named(catalog: ModelCatalog) -> None:
    artifacts = catalog.journal.read(
        lambda table: (
            [record.artifact for record in table.records.values()]
            + [record.artifact for record, _ in table.deleted.values()]
        )
    )
    keys = [ArtifactStore(catalog.store).key(artifact) for artifact in artifacts]
    catalog.store.delete(keys[0])
    flip(catalog.store, keys[1])
    catalog.store.put(keys[2], b"")
    catalog.store.delete(keys[-1])  # of the one that can be restored
    report = check_store(catalog.store)
    assert set(found(report)) == {("damage", key) for key in (*keys[:3], keys[-1])}
    problems = {finding.key: finding.problem for finding in report.findings}
    assert problems[keys[0]] == "is gone, and line:1 needs it"
    assert "holds other bytes than were written" in problems[keys[1]]
    assert found(check_store(catalog.store, artifacts=False)) == []


def test_what_is_left_over_is_noted(catalog: ModelCatalog) -> None:
    store = catalog.store
    orphan = ArtifactStore(store).write(b"nobody's")
    strange = ["models/log/1.json", "blobs/README", "notes.txt", "models/snapshots/old"]
    for key in strange:
        store.put(key, b"")
    catalog.journal.compact(0)
    store.put("models/log/00000000000000000002.json", b"of one who stood still")
    report = check_store(store)
    keys = {ArtifactStore(store).key(orphan), "models/log/00000000000000000002.json", *strange}
    assert set(found(report)) == {("note", key) for key in keys}
    assert report.damaged == 0


def test_all_that_was_compacted_into_a_lost_snapshot_is_lost(catalog: ModelCatalog) -> None:
    catalog.journal.compact(0)
    keys = list(catalog.store.list("models/snapshots/"))
    for key in keys:
        catalog.store.delete(key)
    report = check_store(catalog.store)
    assert ("damage", keys[0]) in found(report)
    assert "the entries up to 5 were compacted into it" in report.findings[0].problem


def test_tasks_webhooks_and_tokens_are_checked(store: ObjectStore) -> None:
    tasks = TaskLog(store, retention=1e9)
    ids = [new_task_id() for _ in range(3)]
    results = {}
    for task_id in ids:
        payload = keep_payload(store, task_id, {"x": "y" * 5000})
        fields: dict[str, Any] = {"kind": "k", "entry": "m:f", "fingerprint": "f", "runner": "r", "until": 0.0}
        tasks.accept(task_id, payload=payload, **fields)
        tasks.start(task_id, "r")
        place = keep_payload(store, f"{task_id}-1", {"answer": "y" * 5000})
        results[task_id] = {**place, "key": f"tasks/results/{task_id}/1-0.json"}
        store.put(results[task_id]["key"], store.get(place["key"]))
        store.delete(place["key"])
        tasks.finish(task_id, TaskState.SUCCEEDED, run=1, result=results[task_id])
    WebhookLog(store).create(new_webhook_id(), new_secret(), "https://hooks.example/", None, None, "1.0")
    store.put("tokens/0123.json", b'{"id":"0123"}')
    report = check_store(store)
    assert found(report) == []
    assert report.checked == {"entries": 10, "objects of tasks": 6, "tokens": 1}
    flip(store, results[ids[0]]["key"])
    store.delete(results[ids[1]]["key"])
    store.delete(f"tasks/payloads/{ids[2]}.json")
    store.put("tokens/0123.json", b'{"id":"01')
    flip(store, "webhooks/log/00000000000000000001.json")
    store.put("tasks/results/task-unknown/1.json", b"")
    assert set(found(check_store(store))) == {
        ("damage", results[ids[0]]["key"]),
        ("damage", results[ids[1]]["key"]),
        ("damage", f"tasks/payloads/{ids[2]}.json"),
        ("damage", "tokens/0123.json"),
        ("damage", "webhooks/log/00000000000000000001.json"),
        ("note", "tasks/results/task-unknown/1.json"),
    }


def test_no_alarm_while_others_write_collect_and_compact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.journal.TRUST", 0.0)
    monkeypatch.setattr("registry.replica.TRUST", 0.0)
    store = FileStore(tmp_path)
    stop = threading.Event()
    failures: list[ComputeError] = []

    def work(number: int) -> None:
        catalog = ModelCatalog(store, snapshot_every=7, keep_deleted=timedelta(0))
        try:
            for count in range(10**6):
                model_id = register(catalog, b"model %d of %d" % (count, number))
                if count % 2:
                    catalog.delete(model_id, None, new_id(), force=False)
                if count % 10 == 9 and number == 0:
                    # A grace, for a model may be registered between its artifact's writing and now.
                    collect(catalog.journal, store, catalog.keep_deleted, grace=1.0)
                    catalog.journal.compact(0)
                if stop.is_set():
                    break
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            report = check_store(store) if any(store.list("models/log/")) else Report(uri="")
            assert [finding for finding in report.findings if finding.severity == "damage"] == []
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert report.checked["artifacts"] > 10
    assert Log(store, "models").compacted() > 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = ModelCatalog(FileStore(tmp_path))
    register(catalog, b"one")
    assert main(["--storage", str(tmp_path)]) == 0
    assert "nothing is damaged" in capsys.readouterr().out
    key = "models/log/00000000000000000001.json"
    flip(catalog.store, key)
    assert main(["--storage", str(tmp_path), "--no-artifacts"]) == 1
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith(f"damage  {key}  ")
    assert summary.endswith("1 damaged")
    assert main(["--storage", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["findings"][0]["key"], report["checked"]["entries"]) == (key, 1)
    with pytest.raises(DataNotFound):
        check_store(FileStore(tmp_path / "nothing"))
    done = subprocess.run(
        [sys.executable, "-m", "registry.fsck", "--storage", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds no models, tasks or tokens" in done.stderr
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "hosts").write_text("127.0.0.1 localhost")
    assert main(["--storage", str(tmp_path / "elsewhere")]) == 2
    assert "holds no models, tasks or tokens" in capsys.readouterr().err


def test_an_upload_under_way_is_ours_and_other_files_are_not(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    register(ModelCatalog(store), b"one")
    store.put("uploads/u-1/00001", b"part")
    store.put("notes.txt", b"by hand")
    assert found(check_store(store)) == [("note", "notes.txt")]
