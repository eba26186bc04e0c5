"""Commands that share a write: fair, in order, and none is left waiting, whoever is interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from compute.errors import StorageError
from registry.group_commit import GroupCommit, Ticket


def test_all_who_come_again_and_again_share_each_write() -> None:
    batches: list[int] = []

    def commit(tickets: list[Ticket]) -> None:
        batches.append(len(tickets))
        time.sleep(0.01)
        for ticket in tickets:
            ticket.settle(ticket.command(None)[1], None)

    group = GroupCommit(commit)
    answers: Counter[int] = Counter()

    def work(number: int) -> None:
        for _ in range(20):
            assert group.run(lambda state: ([], number)) == number
            answers[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers.values()) == {20}
    assert len(batches) < 35  # 20 would be perfect, and 40 comes of not waiting for those who were just answered


def test_a_commit_that_fails_fails_its_batch_and_no_other() -> None:
    def commit(tickets: list[Ticket]) -> None:
        for ticket in tickets:
            ticket.settle(ticket.command(None)[1], None)

    group = GroupCommit(commit)

    def broken(tickets: list[Ticket]) -> None:
        raise StorageError("away")

    assert group.run(lambda state: ([], 1)) == 1
    group._commit = broken
    with pytest.raises(StorageError, match="away"):
        group.run(lambda state: ([], 1))
    group._commit = commit
    assert group.run(lambda state: ([], 2)) == 2


_INTERRUPTED = """
import signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs in the background ignore it
from compute.errors import StorageError
from registry.group_commit import GroupCommit
def commit(tickets):
    time.sleep(0.02)
    for ticket in tickets:
        ticket.settle(ticket.command(None)[1], None)
group = GroupCommit(commit)
stop = threading.Event()
counts = [0] * 3
def work(number):
    while not stop.is_set():
        try:
            counts[number] += group.run(lambda state: ([], 1))
        except StorageError as error:  # who wrote for it was interrupted
            assert "KeyboardInterrupt" in str(error)
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
interrupted, told = 0, -1
while told < 30:
    try:
        while told == interrupted:
            group.run(lambda state: ([], 1))
        told = interrupted
        print(told, flush=True)  # an interrupt comes from here on, always inside of `try`
    except KeyboardInterrupt:
        interrupted += 1
before = list(counts)
time.sleep(0.5)
assert all(now > then for now, then in zip(counts, before)), (before, counts)
stop.set()
for thread in threads:
    thread.join()
print("all went on", flush=True)
"""


def test_nobody_is_left_waiting_when_a_thread_is_interrupted() -> None:
    process = subprocess.Popen([sys.executable, "-c", _INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "0\n"
        for number in range(1, 31):
            time.sleep(0.003 * (number % 10))
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == f"{number}\n"
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert output == "all went on\n"
