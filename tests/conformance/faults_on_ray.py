"""What tasks on a Ray cluster survive: run by `test_ray_faults`, in a process and on a cluster of its own each time.

``python -m tests.conformance.faults_on_ray NAME DIRECTORY`` prints ``held`` when it did.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from compute import ComputeManager, TaskState, load_config
from compute.ray_backend import RayBackend
from tests.conformance import work

AWAY = 20.0


def a_node_is_removed_and_another_added(cluster: Cluster, manager: ComputeManager, directory: Path) -> None:
    """Tasks of a lost node run again, counted; those that wait for its resources run on the next."""
    node = cluster.add_node(num_cpus=2, memory=2**30, resources={"other": 1})
    runs = directory / "runs"

    def note_and_nap(name: str, seconds: float) -> str:
        work.append(runs, name)
        work.nap(seconds)
        return name

    # More memory than the head has: only the other node takes them.
    asked = {"cpu": 1, "memory": 2**29}
    until_placeable(manager, asked)
    lost = [manager.submit_task(note_and_nap, f"lost-{n}", 15.0, resources=asked) for n in range(2)]
    wait_for_lines(runs, 2)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=2, memory=2**30)
    assert manager.gather_results(lost, timeout=120) == ["lost-0", "lost-1"]
    times = Counter(runs.read_text().split())
    for task_id in lost:
        status = manager.get_task_status(task_id)
        # Every run was an attempt, and every attempt but the last has its reason.
        assert status.attempts == times[str(manager.get_result(task_id))] == 2, (status, times)
        assert len(status.reasons) == 1


def the_last_cpu_goes_and_others_come(cluster: Cluster, manager: ComputeManager, directory: Path) -> None:
    """What waits for CPUs is shown to the cluster, short tasks among it, so that an autoscaler would see it."""
    del directory
    node = cluster.add_node(num_cpus=2)
    until(lambda: manager.resources()["total"]["cpu"] == 2)
    assert manager.gather_results(manager.submit_many(abs, ((-n,) for n in range(100))), timeout=60) == [*range(100)]
    cluster.remove_node(node, allow_graceful=False)
    until(lambda: manager.resources()["total"]["cpu"] == 0)
    task_ids = manager.submit_many(abs, ((-n,) for n in range(100)))
    until(lambda: manager.resources()["under_way"] > 0)
    cluster.add_node(num_cpus=2)
    assert manager.gather_results(task_ids, timeout=60) == [*range(100)]


def the_head_is_unreachable_for_a_while(cluster: Cluster, manager: ComputeManager, directory: Path) -> None:
    """Work goes on, or waits; nothing fails and nothing runs twice."""
    runs = directory / "runs"

    def note_and_nap(name: str) -> str:
        work.append(runs, name)
        work.nap(0.5)
        return name

    del cluster
    task_ids = [manager.submit_task(note_and_nap, f"before-{n}") for n in range(20)]
    wait_for_lines(runs, 2)
    server = gcs_server()
    server.send_signal(signal.SIGSTOP)
    try:
        task_ids += [manager.submit_task(note_and_nap, f"during-{n}") for n in range(5)]
        time.sleep(AWAY)
    finally:
        server.send_signal(signal.SIGCONT)
    task_ids += [manager.submit_task(note_and_nap, f"after-{n}") for n in range(5)]
    names = manager.gather_results(task_ids, timeout=120)
    assert Counter(names) == Counter(runs.read_text().split())
    assert {manager.get_task_status(task_id).attempts for task_id in task_ids} == {1}


def one_in_twenty_of_many_tasks_crashes_its_process(cluster: Cluster, manager: ComputeManager, directory: Path) -> None:
    """Each crashes once: all succeed, and what ran twice says so."""
    del cluster
    count = 10_000

    task_ids = manager.submit_many(
        work.crash_one_in_twenty, ((directory, number) for number in range(count)), retries=5
    )
    assert manager.gather_results(task_ids, timeout=2800) == list(range(count))
    for number, task_id in enumerate(task_ids):
        status = manager.get_task_status(task_id)
        assert status.attempts == len(status.reasons) + 1
        assert status.attempts >= (2 if number % 20 == 0 else 1)


def a_task_prints_a_gigabyte(cluster: Cluster, manager: ComputeManager, directory: Path) -> None:
    """It ends, and this process holds no more than what Ray's stream of it has not written yet, as with plain Ray."""
    del cluster, directory

    def print_much() -> str:
        for number in range(1_000_000):
            print(f"{number:0>1000}")
        return "printed"

    before = psutil.Process().memory_info().rss
    assert manager.get_result(manager.submit_task(print_much), timeout=300) == "printed"
    # Plain Ray: 330 to 580 MiB, where the driver prints for as long as the task does.
    assert psutil.Process().memory_info().rss - before < 1000 * 2**20
    assert manager.get_result(manager.submit_task(abs, -1), timeout=60) == 1


def a_cancelled_task_takes_those_it_submitted_with_it(
    cluster: Cluster, manager: ComputeManager, directory: Path
) -> None:
    """Cancellation reaches what a task has submitted by itself."""
    del cluster
    begun, outlived = directory / "begun", directory / "outlived"

    def child() -> None:
        begun.touch()
        work.nap(8.0)
        outlived.touch()

    def parent() -> None:
        from compute import get_compute_manager

        inner = get_compute_manager()
        inner.get_result(inner.submit_task(child))

    task_id = manager.submit_task(parent)
    work.wait_for(begun, 60)
    assert manager.cancel_task(task_id)
    assert manager.get_task_status(task_id).state is TaskState.CANCELLED
    time.sleep(10)
    assert not outlived.exists()


DRIVER = """
import sys, time
from pathlib import Path
import ray
from compute import ComputeManager, load_config
from compute.ray_backend import RayBackend
from tests.conformance import work

def note_and_nap(path):
    work.note(path)
    work.nap(60)

ray.init(address=sys.argv[1], log_to_driver=False)
manager = ComputeManager(RayBackend(), load_config())
for number in range(6):
    manager.submit_task(note_and_nap, Path(sys.argv[2]) / str(number))
print("submitted", flush=True)
time.sleep(600)
"""


def the_work_of_a_driver_that_is_gone_ends(cluster: Cluster, manager: ComputeManager, directory: Path) -> None:
    """What it had running is stopped, and what it had waiting never runs."""
    command = [sys.executable, "-c", DRIVER, cluster.address, str(directory)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"submitted\n"
        work.wait_for(directory / "0", 60)
        work.wait_for(directory / "1", 60)
    finally:
        driver.kill()
        driver.communicate()
    # Both CPUs are free again, although each had a minute to go.
    manager.gather_results([manager.submit_task(work.nap, 0.3) for _ in range(4)], timeout=40)
    assert not any((directory / str(number)).exists() for number in range(2, 6))


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def until_placeable(manager: ComputeManager, asked: dict[str, int]) -> None:
    capacity = manager.backend.capacity
    until(lambda: (capacity().total.memory or 0) >= asked["memory"] and len(capacity().nodes) > 1)


def wait_for_lines(path: Path, count: int) -> None:
    until(lambda: work.count(path) >= count, 60.0)


def gcs_server() -> psutil.Process:
    """The process of this cluster's head that knows of everything."""
    ours = psutil.Process().children(recursive=True)
    return next(process for process in ours if process.name() == "gcs_server")


FAULTS: dict[str, Any] = {
    fault.__name__: fault
    for fault in (
        a_node_is_removed_and_another_added,
        the_last_cpu_goes_and_others_come,
        the_head_is_unreachable_for_a_while,
        one_in_twenty_of_many_tasks_crashes_its_process,
        a_task_prints_a_gigabyte,
        a_cancelled_task_takes_those_it_submitted_with_it,
        the_work_of_a_driver_that_is_gone_ends,
    )
}


def main(name: str, directory: Path) -> None:
    """Run one of them."""
    head = {
        "num_cpus": 0 if name == "the_last_cpu_goes_and_others_come" else 2,
        "memory": 2**28,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=name == "a_task_prints_a_gigabyte")
        with ComputeManager(RayBackend(), load_config()) as manager:
            FAULTS[name](cluster, manager, directory)
    finally:
        ray.shutdown()
        cluster.shutdown()
    print("held")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
