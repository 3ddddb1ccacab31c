"""Worker processes are killed, kill themselves, and are told to end."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable

import pytest
from experiment import BATCHES, Experiment, Kind
from processes import WorkerProcess
from servers import Server
from support import eventually

POOLS_OF_EVERY_RUN = [BATCHES]

PROCESSES = 3
JOBS = 5_000
EVERY_SECONDS = 0.5


@pytest.mark.slow
def test_killing_one_of_three_processes_again_and_again_loses_and_doubles_nothing(
    begin: Callable[..., Experiment], make_database_on: Callable[[str], str], server: Server, kind: Kind
) -> None:
    experiment = begin(
        f"one of {PROCESSES} processes killed every {EVERY_SECONDS} s, and replaced",
        kind,
        queue=make_database_on(server.dsn),
    )
    experiment.enqueue(JOBS)
    processes = [WorkerProcess(experiment) for _ in range(PROCESSES)]
    clock = threading.Event()  # never set
    killed = 0
    for process in processes:
        process.wait_for("ready")
    try:
        for victim in itertools.cycle(range(PROCESSES)):
            clock.wait(EVERY_SECONDS)
            if experiment.is_worked():
                break
            processes[victim].kill()
            experiment.fault_is_over()
            killed += 1
            processes[victim] = WorkerProcess(experiment)
        for process in processes:
            process.stop()
    finally:
        for process in processes:
            process.kill()
    experiment.check(faults=killed)
    assert killed > 3


def test_a_handler_that_kills_its_process_costs_no_other_job_and_no_effect(
    begin: Callable[..., Experiment], kind: Kind
) -> None:
    """Each of three jobs kills the process that runs it first. Somebody watches and starts another one."""
    experiment = begin("a job kills its process, once", kind)
    experiment.enqueue(50)
    experiment.enqueue(3, "Deadly")
    experiment.enqueue(50)
    deaths = 0
    while not experiment.is_worked():
        process = WorkerProcess(experiment, count=1)
        try:
            process.wait_for("ready")
            eventually(lambda process=process: not process.alive or experiment.is_worked(), "an end", timeout=30)
            if process.alive:
                process.stop()
            else:
                assert process.wait() == -signal.SIGKILL
                deaths += 1
                experiment.fault_is_over()
        finally:
            process.kill()
    experiment.check()
    assert deaths == 3


def test_sigterm_in_the_main_thread_releases_its_job_unblamed(begin: Callable[..., Experiment], kind: Kind) -> None:
    """Where SIGTERM is sys.exit(), as README has it."""
    if kind.shared:
        pytest.skip("a worker by itself has a session of its own")
    experiment = begin("SIGTERM while Worker.work() runs a job in the main thread", kind)
    experiment.enqueue(1, "Held")
    process = WorkerProcess(experiment, in_main_thread=True)
    try:
        process.wait_for("ready")
        process.wait_for("held")
        process.process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.kill()
    assert experiment.query("SELECT error_count FROM que_jobs") == [(0,)]
    experiment.fault_is_over()
    next_one = WorkerProcess(experiment)
    try:
        experiment.enqueue(20)
        experiment.wait_until_worked()
        next_one.stop()
    finally:
        next_one.kill()
    figures = experiment.check()
    assert figures.runs == figures.jobs + 1
