"""The network says nothing any more: packets are dropped, or a proxy keeps a connection open and carries nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from experiment import WORKERS, Experiment
from ledger import Handlers
from processes import WorkerProcess
from proxy import Proxy, Strike
from psycopg2.extensions import make_dsn
from servers import Server, new_server
from support import eventually

pytestmark = pytest.mark.slow

# What docs/semantics.md says of keepalives comes to less than a minute; a loaded machine may take longer.
WITHIN_SECONDS = 75.0
# A MAC address that nobody has.
NOBODY = "02:00:00:00:00:01"


@dataclass(frozen=True)
class Elsewhere:
    """A network of its own, with one wire between it and here."""

    name: str
    here: str
    there: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", self.name)

    def drop_everything(self) -> None:
        """Send all packets, from either end, to nobody; neither end hears of that."""
        _run("ip", "neigh", "replace", self.there, "lladdr", NOBODY, "nud", "permanent", "dev", f"{self.name}a")
        _run(
            *(*self.prefix, "ip", "neigh", "replace", self.here),
            *("lladdr", NOBODY, "nud", "permanent", "dev", f"{self.name}b"),
        )

    def carry_again(self) -> None:
        _run("ip", "neigh", "del", self.there, "dev", f"{self.name}a")
        _run(*self.prefix, "ip", "neigh", "del", self.here, "dev", f"{self.name}b")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def elsewhere(books: object) -> Iterator[Elsewhere]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("packets are dropped in a network namespace, which only root can make, on Linux")
    number = os.getpid() % 0x4000
    # Of the addresses that are kept for tests of networks.
    network = f"198.18.{number // 64}.{number % 64 * 4}"
    start, _, last = network.rpartition(".")
    place = Elsewhere(f"qg{number}", f"{start}.{int(last) + 1}", f"{start}.{int(last) + 2}")
    try:
        _run("ip", "netns", "add", place.name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a network namespace can't be made here: {getattr(error, 'stderr', error)}")
    try:
        near, far = f"{place.name}a", f"{place.name}b"
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", place.name)
        _run("ip", "addr", "add", f"{place.here}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run(*place.prefix, "ip", "addr", "add", f"{place.there}/30", "dev", far)
        _run(*place.prefix, "ip", "link", "set", far, "up")
        yield place
    finally:
        _run("ip", "netns", "del", place.name)


def test_jobs_behind_dropped_packets_are_free_within_a_minute_and_their_worker_comes_back(
    begin: Callable[..., Experiment],
    make_database_on: Callable[[str], str],
    elsewhere: Elsewhere,
    short_path: Path,
    server_dsn: str,
) -> None:
    if "host=/" not in make_dsn(server_dsn):
        pytest.skip("the books are on a server without a socket, so no process in another network reaches them")
    with new_server(short_path, elsewhere.here) as server:
        experiment = begin("packets dropped, seconds from then on", queue=make_database_on(server.dsn))
        experiment.enqueue(WORKERS, "Lost")
        there = make_dsn(experiment.queue, host=elsewhere.here)
        process = WorkerProcess(experiment, dsn=there, prefix=elsewhere.prefix)
        try:
            process.wait_for("ready")
            for _ in range(WORKERS):
                process.wait_for("held")
            elsewhere.drop_everything()
            experiment.fault_is_over()
            with experiment.pool(handlers=lambda ledger: {"Lost": Handlers(ledger).effect}):
                experiment.wait_until_worked(timeout=2 * WITHIN_SECONDS)
            for _ in range(WORKERS):
                process.wait_for("lost")
            elsewhere.carry_again()
            experiment.enqueue(20)
            experiment.wait_until_worked()
            process.stop()
        finally:
            process.kill()
        figures = experiment.check()
    assert figures.seconds is not None
    assert figures.seconds < WITHIN_SECONDS


def test_a_worker_gives_up_a_connection_that_is_frozen_for_good(
    begin: Callable[..., Experiment], make_database_on: Callable[[str], str], server: Server
) -> None:
    experiment = begin("connection frozen for good after COMMIT was sent on", queue=make_database_on(server.dsn))
    proxy = Proxy(experiment.queue)
    proxy.strike(Strike.FREEZE_AFTER, most=1)
    process = WorkerProcess(experiment, dsn=proxy.dsn, count=1)
    try:
        process.wait_for("ready")
        experiment.enqueue(1)
        eventually(lambda: proxy.frozen == 1, "a frozen connection")
        experiment.fault_is_over()
        experiment.enqueue(20)
        experiment.wait_until_worked(timeout=WITHIN_SECONDS)
        process.stop()
    finally:
        process.kill()
        proxy.close()
    experiment.check()
