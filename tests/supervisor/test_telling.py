"""How a worker tells what it does: over HTTP, in a file, to systemd, in the log."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import PATIENCE, eventually, needs
from working import Working, environment, run

from qg.cli.health import health
from qg.supervisor.asking import ask_file
from qg.supervisor.health import ErrAddress, HealthFile, HealthServer
from qg.supervisor.settings import Address
from qg.supervisor.standing import QueueDepth, Standing, standing_of_all
from qg.supervisor.surfaces import Surfaces
from qg.supervisor.tally import Counts, Tally

needs("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families  # noqa: E402 - after the question for it

from qg.supervisor.metrics import metrics_writer  # noqa: E402

Work = Callable[..., Working]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Manager:
    """systemd, as far as its socket goes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.told: list[str] = []

    def was_told(self, line: str) -> bool:
        while True:
            try:
                self.told += self.socket.recv(65536).decode().split("\n")
            except BlockingIOError:
                return any(each.startswith(line) for each in self.told)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


@pytest.mark.parametrize("processes", [(), ("--processes", "1")], ids=["alone", "parent"])
def test_a_worker_tells_how_it_stands_as_long_as_it_lives(
    work: Work,
    add: Callable[..., list[int]],
    gate: Callable[[], None],
    waiting: Callable[[int], object],
    effects: Callable[[], list[int]],
    manager: Manager,
    tmp_path: Path,
    processes: tuple[str, ...],
) -> None:
    (number,) = add("Wait")
    file = str(tmp_path / "health")
    worker = work(
        "supervised:work_map",
        *processes,
        *("--threads", "2", "--health-port", "0", "--health-file", file, "--metrics"),
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="900000",
    )
    url = "http://" + worker.wait_for(r"health_told address=(\S+)")[1]
    waiting(1)
    eventually(lambda: get(f"{url}/ready")[0] == 200, "that it is ready")
    status, text = get(f"{url}/live")
    assert status == 200
    assert json.loads(text)["workers"] == 2
    assert get(f"{url}/nothing")[0] == 404
    port = url.rpartition(":")[2]
    assert run("health", "--port", port).returncode == 0
    assert run("health", QG_HEALTH_FILE=file).returncode == 0
    for line in ("READY=1", "STATUS=working '", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC="):
        eventually(lambda line=line: manager.was_told(line), lambda line=line: f"{line} in {manager.told}")

    eventually(lambda: _value(get(f"{url}/metrics")[1], "qg_workers_busy") == 1)
    worker.signal(signal.SIGUSR1)
    worker.wait_for(rf"thread name=qg-worker\S* id={number} type=Wait[^\n]*\n(.*\n)+.*pg_advisory_xact_lock_shared")

    worker.signal(signal.SIGTERM)
    eventually(lambda: get(f"{url}/ready")[0] == 503, "that it isn't ready any more")
    assert json.loads(get(f"{url}/live")[1])["stage"] == "ending"
    eventually(lambda: manager.was_told("STOPPING=1"))
    gate()
    assert worker.wait() == 0
    assert effects() == [number]
    assert not Path(file).exists()
    asked = run("health", "--file", file, "--live")
    assert (asked.returncode, asked.stdout) == (1, f"no worker has written {file}: No such file or directory\n")
    assert run("health", "--port", port).returncode == 1


def _value(text: str, name: str) -> float:
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def test_health_is_asked_somewhere() -> None:
    asked = run("health")
    assert asked.returncode == 2
    assert "--file or --port" in asked.stderr


def test_health_imports_little() -> None:
    """It runs every few seconds, in each container."""
    code = (
        "import sys; from qg.cli.commands import commands; before = set(sys.modules); "
        "commands(['health', '--file', '/nowhere/at/all'], standalone_mode=False); "
        "print(len(set(sys.modules) - before), *sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    count, *modules = done.stdout.splitlines()[-1].split()
    unwanted = {"qg.control", "qg.supervisor.parent", "http.server", "rich", "prometheus_client", "sqlalchemy"}
    assert not unwanted & set(modules)
    assert int(count) < 15


def test_a_file_that_nobody_touches_any_more_is_of_a_worker_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "health"
    HealthFile(str(path)).write(Standing(ready=True, reasons=(), stage="working", queues=("mail",), workers=2))
    assert ask_file(str(path), live=False) == (True, "working 'mail', 2 workers")
    os.utime(path, (time.time() - 60, time.time() - 60))
    good, text = ask_file(str(path), live=True)
    assert not good
    assert "was written 60 s ago" in text
    for content in (b"{}", b"\xff"):
        path.write_bytes(content)
        assert ask_file(str(path), live=True)[1].endswith("is no health of a worker")
    HealthFile(str(path)).write(Standing(reasons=("a\x1b[31m",)))
    assert ask_file(str(path), live=True)[1].isprintable()


def test_a_full_disk_costs_a_line_in_the_log_and_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, mode: str) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "health"
    file = HealthFile(str(path))
    file.write(Standing(stage="starting"))
    with caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            file.write(Standing(stage="starting"))  # only its time is set
            assert caplog.records == []
            for _ in range(3):
                file.write(Standing(stage="working"))
            (record,) = caplog.records
            assert record.getMessage().startswith(f"health_file_failed path={path}: No space left on device; the work")
        assert list(tmp_path.iterdir()) == [path]
        file.write(Standing(stage="working"))
    assert caplog.records[-1].getMessage() == f"health_file_back path={path}"
    assert json.loads(path.read_text())["stage"] == "working"


@pytest.mark.parametrize("port", ["..:80", "h" * 70 + ":80", "9" * 5000, "x", "70000"])
def test_what_is_no_address_is_refused(port: str) -> None:
    asked = CliRunner().invoke(health, ["--port", port])
    assert asked.exit_code == 2, asked.output
    assert "Usage:" in asked.output


def test_the_manager_waits_until_it_is_ready(manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    surfaces = Surfaces(None, None, metrics=False)
    surfaces.tell(Standing(stage="working", reasons=("cut off",)))
    assert manager.was_told("EXTEND_TIMEOUT_USEC=")
    manager.told.clear()
    surfaces.tell(Standing(stage="working", ready=True, reasons=()))
    assert manager.was_told("READY=1")
    assert not manager.was_told("EXTEND_TIMEOUT_USEC=")
    surfaces.close()


def test_an_address_that_is_none_of_this_machine_is_refused() -> None:
    with pytest.raises(ErrAddress, match=r"health can't be told at 192\.0\.2\.1:80"):
        HealthServer(Address("192.0.2.1", 80), Standing, None)


def test_who_asks_slowly_or_too_often_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qg.supervisor.health._PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("qg.supervisor.health._Request.timeout", None)
    monkeypatch.setattr("qg.supervisor.health._MOST_ASKING", 2)
    server = HealthServer(Address("127.0.0.1", 0), Standing, None)
    with closing(server), ExitStack() as asking:
        address = (server.address.host, server.address.port)
        slow = [asking.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(3)]
        assert slow[2].recv(1) == b""  # at once, since two ask already
        slow[0].sendall(b"G")
        for each in slow[:2]:
            with suppress(ConnectionError):
                assert each.recv(1) == b""
        monkeypatch.setattr("qg.supervisor.health._PATIENCE_SECONDS", PATIENCE)
        eventually(lambda: _answers(f"http://{server.address}/live"), "room for others")


def _answers(url: str) -> bool:
    with suppress(OSError):
        return get(url)[0] == 200
    return False


def test_an_answer_that_fails_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def fail(standing: Standing) -> tuple[bytes, str]:
        raise ValueError("no metrics")

    with closing(HealthServer(Address("127.0.0.1", 0), Standing, fail)) as server:
        assert get(f"http://{server.address}/metrics") == (500, "see the log\n")
    assert "health_failed path=/metrics" in caplog.text
    assert "no metrics" in caplog.text


def test_metrics_are_such_as_prometheus_reads() -> None:
    tally = Tally(None, lambda: None)
    tally.work_maps = [{'Say "hi"\n': print}]
    tally.count_job("mail", 'Say "hi"\n', "worked", 0.2)
    tally.count_job("mail", 'Say "hi"\n', "failed", 7200)
    tally.count_event("lock_lost")
    standing = Standing(workers=3, busy=1, counts=tally.counts(), depths=(QueueDepth("mail", 5, 4, 1.5),))
    text, kind = metrics_writer()(standing)
    assert kind.startswith("application/openmetrics-text")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert samples["qg_jobs_total", 'Say "hi"\n', "mail", "worked"] == 1
    assert samples["qg_job_seconds_bucket", "0.25", 'Say "hi"\n', "mail"] == 1
    assert samples["qg_job_seconds_count", 'Say "hi"\n', "mail"] == 2
    assert samples["qg_events_total", "lock_lost"] == 1
    assert samples["qg_queue_due", "mail"] == 4
    assert samples["qg_workers_busy",] == 1


def test_types_that_anybody_can_make_up_don_t_fill_the_memory() -> None:
    tally = Tally(None, lambda: None)
    for number in range(3):
        tally.count_job("mail", f"Type{number}", "failed", 0.0)
    assert tally.counts().jobs == {("mail", "(other)", "failed"): 3}
    tally.work_maps = [{f"Type{number}": print for number in range(2000)}]
    for number in range(2000):
        tally.count_job("mail", f"Type{number}", "failed", 0.0)
    assert len(tally.counts().durations) == 2001
    total = Counts()
    for _ in range(2):
        total.add(tally.counts())
    assert len(total.durations) == len(total.seconds) == 1000
    assert total.settled == 4006


def test_what_several_processes_tell_is_added_up() -> None:
    tally = Tally(None, lambda: None)
    tally.work_maps = [{"Note": print}]
    tally.count_job("mail", "Note", "worked", 0.2)
    one = Standing(ready=True, reasons=(), stage="working", queues=("mail",), workers=2, busy=1, counts=tally.counts())
    assert Standing.from_plain(json.loads(json.dumps(one.to_plain()))) == one
    past = Counts()
    past.add(tally.counts())
    both = standing_of_all([one, one], past, 3, "working", [])
    assert (both.ready, both.workers, both.busy, both.restarts) == (True, 4, 2, 3)
    assert both.counts.jobs == {("mail", "Note", "worked"): 3}
    without = standing_of_all([one], past, 3, "working", ["process 2 is starting"])
    assert (without.live, without.ready, without.reasons) == (True, False, ("process 2 is starting",))
