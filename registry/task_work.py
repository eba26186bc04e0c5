"""What happens to a task in its worker, and the objects it leaves: payload, progress, the best so far, result.

The bytes go between worker, store and reader; the table of tasks knows their keys only.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from compute import Config
from compute.errors import ComputeError, ConfigurationError, Corrupt, KeyNotFound, TaskExpired
from registry.entry import encode_json
from registry.storage import open_store
from registry.store import ObjectStore
from registry.task_record import TaskRecord

INLINE_BYTES = 4096
"""Payloads up to this size lie in the journal; larger ones in an object of their own."""

_PROGRESS_PAUSE = 0.5
_MESSAGES = 100
_LONGEST = 1000

logger = logging.getLogger(__name__)


class TaskContext:
    """What the function that answers a task may use.

    What it says of its progress, and the best answer so far, go to the store twice a second at most, from a thread of
    its own: work neither waits for that nor fails with it.

    Parameters
    ----------
    task_id : str
        Empty when the work is no durable task.
    config : Config
        Of whoever accepted the task.
    store : ObjectStore, optional
        Where progress goes; none: nowhere.

    Examples
    --------
    >>> from compute import load_config
    >>> TaskContext("", load_config()).progress(0.5, "half")
    """

    def __init__(self, task_id: str, config: Config, store: ObjectStore | None = None) -> None:
        self.task_id = task_id
        self.config = config
        self._store = store
        self._lock = threading.Lock()
        self._messages: deque[dict[str, Any]] = deque(maxlen=_MESSAGES)
        self._answer: Mapping[str, Any] | None = None
        self._fleeting = False
        self._kept_at = 0.0
        self._new = threading.Event()
        self._sender: threading.Thread | None = None
        self._closing = threading.Event()

    def progress(self, fraction: float, message: str = "", **facts: Any) -> None:
        """Say how far the work is; of reports within half a second that tell no facts, the newest is kept.

        Parameters
        ----------
        fraction : float
            From 0 to 1.
        message : str
            A line for people.
        facts : JSON values
            What programs may want to know of it, such as ``incumbent={"objective": 3.5}``.
        """
        if self._store is None:
            return
        report = {"fraction": round(float(fraction), 4), "message": message[:_LONGEST], "at": time.time(), **facts}
        with self._lock:
            if not facts and self._fleeting and report["at"] - self._kept_at < _PROGRESS_PAUSE:
                self._messages.pop()
            else:
                self._kept_at = report["at"]
            self._fleeting = not facts and len(self._messages) > 0
            self._messages.append(report)
            self._wake()

    def keep(self, answer: Mapping[str, Any]) -> None:
        """Keep an answer that is not the last word: it is there when the task ends without another one.

        Parameters
        ----------
        answer : mapping
            JSON values; takes the place of what was kept before.
        """
        if self._store is None:
            return
        with self._lock:
            self._answer = answer
            self._wake()

    def kept(self) -> dict[str, Any] | None:
        """Return what an earlier attempt at the task kept; None when there was none."""
        return None if self._store is None else read_best(self._store, self.task_id)

    def close(self) -> None:
        """Send what is left."""
        self._closing.set()
        self._new.set()
        if self._sender is not None:
            self._sender.join()

    def _wake(self) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, name="task-progress", daemon=True)
            self._sender.start()
        self._new.set()

    def _send(self) -> None:
        sent: Mapping[str, Any] | None = None
        kept: Mapping[str, Any] | None = None
        while True:
            self._new.wait()
            self._new.clear()
            closing = self._closing.is_set()
            with self._lock:
                messages, answer = list(self._messages), self._answer
            if messages and messages[-1] is not sent:
                sent = messages[-1]
                self._put(_progress_key(self.task_id), {**sent, "node": _node(), "messages": messages})
            if answer is not None and answer is not kept:
                kept = answer
                self._put(_best_key(self.task_id), answer)
            if closing:
                return
            self._closing.wait(_PROGRESS_PAUSE)

    def _put(self, key: str, body: Mapping[str, Any]) -> None:
        assert self._store is not None, "else nothing is sent"
        try:
            self._store.put(key, encode_json(body))
        except ComputeError:  # the next one, or the answer, tells more
            logger.warning("task_id=%s event=unsent key=%s", self.task_id, key, exc_info=True)


def execute(record: TaskRecord, config: Config) -> dict[str, Any]:
    """Answer a task: read its payload, call the function, keep the result. Runs in a worker.

    Returns
    -------
    dict
        Where the result lies: ``{"key", "size", "sha256"}``. It counts once the table has committed it.
    """
    store = open_store(config.storage.uri, config)
    context = TaskContext(record.task_id, config, store)
    context.progress(0.0, "begun")
    try:
        answer = _resolve(record.entry)(read_payload(store, record.payload), context)
    finally:
        context.close()
    data = encode_json(answer)
    # A key of this run's own: two runs of one task never write over each other.
    key = f"tasks/results/{record.task_id}/{record.runs}-{secrets.token_hex(4)}.json"
    store.put(key, data)
    return {"key": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def keep_payload(store: ObjectStore, task_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form of the payload that goes into the record; a large one is written to the store first."""
    data = encode_json(payload)
    digest = hashlib.sha256(data).hexdigest()
    if len(data) <= INLINE_BYTES:
        return {"json": payload, "size": len(data), "sha256": digest}
    key = f"tasks/payloads/{task_id}.json"
    store.put(key, data)
    return {"key": key, "size": len(data), "sha256": digest}


def read_payload(store: ObjectStore, payload: Mapping[str, Any]) -> Any:
    """Return what `keep_payload` kept."""
    return payload["json"] if "json" in payload else _read(store, payload)


def read_result(store: ObjectStore, record: TaskRecord) -> Any:
    """Return the answer of a task that succeeded.

    Raises
    ------
    TaskExpired
        When it has just been removed.
    """
    assert record.result is not None, "only a task that succeeded has a result"
    try:
        return _read(store, record.result)
    except KeyNotFound as error:
        raise TaskExpired(
            f"the result of {record.task_id} is no longer kept", "", {"task_id": record.task_id}
        ) from error


def read_progress(store: ObjectStore, task_id: str) -> dict[str, Any] | None:
    """Return what a task that was begun reported, by its last attempt.

    Returns
    -------
    dict or None
        ``fraction``, ``message``, ``at`` (seconds since 1970) and other facts of the newest report; ``node``, the host
        that it runs on; ``messages``, the newest 100 reports, oldest first. None when nothing was reported yet.
    """
    return _read_json(store, _progress_key(task_id))


def read_best(store: ObjectStore, task_id: str) -> dict[str, Any] | None:
    """Return the answer that a task kept while it worked, by `TaskContext.keep`; None when it kept none."""
    return _read_json(store, _best_key(task_id))


def remove_payload(store: ObjectStore, payload: Mapping[str, Any]) -> None:
    """Remove what `keep_payload` wrote."""
    if "key" in payload:
        store.delete(payload["key"])


def remove_objects(store: ObjectStore, record: TaskRecord) -> None:
    """Remove all that the task left in the store; what is gone already is no error."""
    for key in [
        _progress_key(record.task_id),
        _best_key(record.task_id),
        *(place["key"] for place in (record.payload, record.result) if place and "key" in place),
    ]:
        store.delete(key)


def _read(store: ObjectStore, place: Mapping[str, Any]) -> Any:
    data = store.get(place["key"])
    if hashlib.sha256(data).hexdigest() != place["sha256"]:
        raise Corrupt(f"the object {place['key']} is not what was written", context={"key": place["key"]})
    return json.loads(data)


def _read_json(store: ObjectStore, key: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.get(key))
    except KeyNotFound:
        return None
    return found


def _node() -> str:
    """Return the address of this node, as Ray's dashboard lists it; without Ray the name of the host."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return str(ray.util.get_node_ip_address())
    return socket.gethostname()


def _progress_key(task_id: str) -> str:
    return f"tasks/progress/{task_id}.json"


def _best_key(task_id: str) -> str:
    return f"tasks/best/{task_id}.json"


def _resolve(entry: str) -> Any:
    module, _, name = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{entry!r} names no function that answers tasks: {error}") from error
