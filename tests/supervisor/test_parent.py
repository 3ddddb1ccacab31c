"""qg work --processes: a parent that starts, replaces and ends processes, and what becomes of jobs that kill theirs."""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Database, eventually, needs
from working import Working, is_gone, run, told

from qg.supervisor.offspring import Child
from qg.supervisor.running_jobs import RunningJob, RunningJobs, begin, end
from qg.supervisor.settings import Settings

Work = Callable[..., Working]
Add = Callable[..., list[int]]


def test_a_rolling_restart_under_load_loses_doubles_and_blames_nothing(
    work: Work, add: Add, effects, database: Database
) -> None:
    ids = add("Note", 300)
    worker = work("supervised:work_map", "--processes", "2", "--interval", "0.05")
    eventually(lambda: len(effects()) > 20, timeout=30)
    worker.signal(signal.SIGHUP)
    worker.wait_for("replacing signal=SIGHUP")
    ids += add("Note", 300)
    eventually(lambda: len(set(worker.children())) == 4, "two other processes", timeout=30)
    eventually(lambda: len(effects()) == 600, timeout=30)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert effects() == ids
    assert database.count() == 0
    assert "job_failed" not in worker.log
    assert all(is_gone(pid) for pid in worker.children())


def test_children_end_when_their_parent_is_killed(
    work: Work, add: Add, gate: Callable[[], None], waiting, effects, database: Database
) -> None:
    ids = add("Wait", 2)
    worker = work("supervised:work_map", "--processes", "2", "--threads", "1")
    waiting(2)
    worker.process.kill()
    worker.process.wait()
    eventually(lambda: worker.log.count("parent_gone") == 2)
    gate()
    eventually(lambda: all(is_gone(pid) for pid in worker.children()), "the end of the children")
    assert effects() == ids
    assert database.count() == 0


def test_a_job_that_kills_its_process_ten_times_backs_off_and_300_others_run(
    work: Work, add: Add, effects, database: Database
) -> None:
    """The delays are 0 s here: what counts is that each death is counted as a failure."""
    (deadly,) = add("Die", args=(10,))
    others = add("Note", 300)
    worker = work("supervised:pool", "--processes", "2")
    eventually(lambda: len(effects()) == 301, lambda: f"all jobs; log:\n{worker.log}", timeout=60)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert effects() == [deadly, *others]
    # Both processes may have died of it, and then it is done before the second death is recorded.
    unrecorded = len(re.findall("deaths?_unrecorded", worker.log))
    assert worker.log.count(f"it ran 1 jobs, ids {deadly}") == 10 + unrecorded
    assert worker.log.count("job_failed") == 10


def test_a_process_that_is_still_alive_records_what_has_died_at_once(
    work: Work, add: Add, gate: Callable[[], None], waiting, effects, database: Database
) -> None:
    """Its one thread is busy. That a handler ends the process with status 0 is no success."""
    ids = add("Wait")
    worker = work(
        "supervised:work_map", "--processes", "2", "--threads", "1", "--interval", "0.05", "--log-format", "json"
    )
    waiting(1)
    eventually(lambda: len(worker.children()) == 2)
    ids += add("Leave")
    worker.wait_for("process_died")
    eventually(lambda: [row[2:] for row in database.jobs()][1] == (1, "the process died: exit status 0"))
    worker.wait_for("job_failed")
    (dead,) = re.findall(r"process_died number=\d pid=(\d+)", worker.log)
    (recorded,) = [line for line in told(worker.log) if line["event"] == "job_failed"]
    assert (recorded["job_id"], recorded["job_type"]) == (ids[1], "Leave")
    assert recorded["process"] in set(worker.children()) - {int(dead)}
    gate()
    eventually(lambda: effects() == ids[:1])
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.slow
def test_a_process_that_hears_nothing_any_more_is_killed_and_nobody_is_blamed(
    work: Work, add: Add, database: Database
) -> None:
    """A handler that keeps the interpreter's lock lets no other thread of its process run."""
    (number,) = add("Clutch")
    worker = work("supervised:work_map", "--processes", "1", "--shutdown-timeout", "0")
    worker.wait_for("clutching")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 128 + signal.SIGTERM
    assert "process_killed number=1" in worker.log
    assert [(job, errors) for job, _, errors, _ in database.jobs()] == [(number, 0)]


def test_a_death_becomes_the_error_of_the_job_with_the_delay_of_the_application_and_in_its_history(
    work: Work, dsn: str, jobs_tables: Database
) -> None:
    database = jobs_tables
    jobs = needs("qg.jobs")
    from supervised import Crash, Greet

    with jobs.PostgresJobs(dsn) as queue:
        (deadly,) = queue.enqueue(Crash())
        worker = work("supervised:queue", "--processes", "1")
        worker.wait_for("process_died")
        (other,) = queue.enqueue(Greet("Ada"))
        worker.wait_for("hello Ada")
    eventually(lambda: [row[0] for row in database.jobs()] == [deadly])
    (row,) = database.jobs()
    assert row[2:] == (1, "the process died: signal 9 (SIGKILL)")
    assert database.value("SELECT run_at > now() + interval '50 minutes' FROM que_jobs")
    history = database.query("SELECT job_id, success, run_error FROM qg_jobs_history ORDER BY job_id")
    assert history == [(deadly, False, "the process died: signal 9 (SIGKILL)"), (other, True, None)]
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_after_the_timeout_children_release_their_jobs_and_the_parent_says_so(
    work: Work, add: Add, database: Database
) -> None:
    """A process that is being replaced has all the time it needs, until it is to end for good."""
    (number,) = add("Hang")
    worker = work("supervised:work_map", "--processes", "1", "--shutdown-timeout", "0")
    worker.wait_for("hanging")
    worker.signal(signal.SIGHUP)
    worker.wait_for("stopping signal=SIGHUP: running jobs have as long as they need to end")
    assert "job_released" not in worker.log
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 128 + signal.SIGTERM
    assert f"job_released id={number} type=Hang" in worker.log
    assert [(job, errors) for job, _, errors, _ in database.jobs()] == [(number, 0)]


def test_what_can_t_be_worked_ends_the_parent_too(dsn: str) -> None:
    done = run("work", "broken:work_map", "--processes", "2", QG_DSN=dsn)
    assert done.returncode == 2
    assert "RuntimeError: this can't be imported" in done.stderr


def test_one_that_can_t_begin_any_more_doesn_t_end_what_has_worked(
    work: Work, add: Add, effects, tmp_path: Path
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "supervised.py", folder)
    (folder / "app.py").write_text("from supervised import work_map\n")
    worker = work("app:work_map", "--processes", "1", "--health-file", str(tmp_path / "health"), cwd=folder)
    eventually(lambda: run("health", "--file", str(tmp_path / "health")).returncode == 0, timeout=30)
    (folder / "app.py").write_text("raise RuntimeError('not now')\n")
    os.kill(worker.children()[0], signal.SIGKILL)
    worker.wait_for("process_died .* exit status 2")
    (folder / "app.py").write_text("from supervised import work_map\n")
    ids = add("Note")
    eventually(lambda: effects() == ids, lambda: worker.log, timeout=20)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def test_all_processes_end_when_nothing_is_due(add: Add, dsn: str, effects) -> None:
    ids = add("Note", 50)
    limit = ("--threads", "1", "--max-jobs", "20")
    done = run("work", "supervised:work_map", "--processes", "2", "--until-empty", *limit, QG_DSN=dsn)
    assert done.returncode == 0, done.stderr
    assert effects() == ids


def test_a_changed_file_lets_the_application_be_loaded_anew(
    work: Work, add: Add, effects, tmp_path: Path, database: Database
) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "supervised.py", folder)
    (folder / "app.py").write_text("from supervised import work_map\nraise RuntimeError('unfinished')\n")
    worker = work("app:work_map", "--reload", cwd=folder)
    worker.wait_for("RuntimeError: unfinished")
    (folder / "app.py").write_text("from supervised import work_map\n")
    worker.wait_for("replacing path=.*app.py: it has changed")
    ids = add("Note")
    eventually(lambda: effects() == ids, timeout=20)
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may make a PID namespace")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_as_process_1_it_reaps_what_others_leave_behind(work: Work, add: Add, effects) -> None:
    probe = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("PID namespaces can't be made here")
    ids = add("Orphan")
    worker = work("supervised:work_map", prefix=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    worker.wait_for("process_started number=1")
    eventually(lambda: effects() == ids, lambda: worker.log, timeout=20)
    # The namespace's process 1, as it is called outside.
    (inside,) = subprocess.run(
        ["pgrep", "-P", str(worker.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    orphan = worker.wait_for(r"orphan (\d+) left")[1]
    eventually(lambda: _ended_in(inside, orphan), "that the orphan is reaped")
    os.kill(int(inside), signal.SIGTERM)
    assert worker.wait() == 0


def _ended_in(namespace: str, pid: str) -> bool:
    """Whether no process, nor what is left of one, has this number in the PID namespace of that process."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            same = os.readlink(status.parent / "ns/pid") == os.readlink(f"/proc/{namespace}/ns/pid")
            numbers = re.findall(r"NSpid:\t(.*)", status.read_text())[0].split()
        except OSError:
            continue
        if same and numbers[-1] == pid:
            return False
    return True


def test_a_signal_to_all_that_comes_before_a_child_can_hear_it_ends_all_in_order(work: Work, tmp_path: Path) -> None:
    """As systemd sends it, to each process of the service."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nif b'qg.supervisor.child' in open('/proc/self/cmdline', 'rb').read():\n    time.sleep(60)\n"
    )
    worker = work("supervised:work_map", "--processes", "1", PYTHONPATH=str(tmp_path))
    worker.wait_for("process_started")
    worker.signal(signal.SIGTERM)
    worker.wait_for("stopping signal=SIGTERM")
    os.kill(worker.children()[0], signal.SIGTERM)
    assert worker.wait() == 0
    assert "process_died" not in worker.log


@pytest.mark.parametrize("function", ["os.pipe", "subprocess.Popen"])
def test_a_process_that_can_t_be_started_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    make, calls = os.pipe, []

    def fail_the_second_time(*args: object, **more: object) -> tuple[int, int]:
        calls.append(args)
        if function == "subprocess.Popen" or len(calls) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return make()

    monkeypatch.setattr(function, fail_the_second_time)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="open files"):
        Child(1, Settings("app:x"), [])
    gc.collect()  # the memory goes with its object
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_runs_can_be_read_by_another_process() -> None:
    running, file = RunningJobs.in_file()
    child = RunningJobs(file)
    os.close(file)
    first, second = child.slot(0), child.slot(1)
    assert first is not None
    assert second is not None
    begin(first, 7, 4711, 3)
    begin(second, 2**63 - 1, None, 0)
    assert running.read() == [RunningJob(0, 7, 4711, 3), RunningJob(1, 2**63 - 1, 0)]
    end(first)
    assert running.read() == [RunningJob(1, 2**63 - 1, 0)]
    slots = [child.slot(0) for _ in range(4094)]
    assert slots[-1] is not None
    assert child.slot(0) is None
