"""A primary fails and its standby takes over, under a pool with both hosts in its DSN; or both live on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from experiment import Experiment, Kind
from psycopg2.extensions import make_dsn, parse_dsn
from servers import Server, new_server, running
from support import Database, eventually, free_port

pytestmark = pytest.mark.slow

JOBS = 300
NOT_REPLICATED = 50
STANDBY = "standby"
REPLICATION = f"SELECT sync_state FROM pg_stat_replication WHERE application_name = '{STANDBY}'"


class Pair:
    """A primary and its standby, and one database on both."""

    def __init__(self, primary: Server, standby: Server, dbname: str) -> None:
        self.primary = primary
        self.standby = standby
        self.old, self.new = (make_dsn(server.dsn, dbname=dbname) for server in (primary, standby))
        hosts, ports = zip(*((server.folder, server.port) for server in (primary, standby)), strict=True)
        self.both = make_dsn(
            self.old, host=",".join(map(str, hosts)), port=",".join(map(str, ports)), target_session_attrs="read-write"
        )

    def set(self, server: Server, **settings: str) -> None:
        with closing(Database(server.dsn)) as database:
            for name, value in settings.items():
                database.query(f"ALTER SYSTEM SET {name} = %s", (value,))
            database.query("SELECT pg_reload_conf()")
            for name, value in settings.items():
                eventually(
                    lambda name=name, value=value: database.value("SELECT current_setting(%s)", (name,)) == value, name
                )

    def wait_for_replication(self, state: str | None) -> None:
        """Wait until the primary says that the standby is in this *state*; None: that it is gone."""
        with closing(Database(self.primary.dsn)) as database:
            wanted = [] if state is None else [(state,)]
            eventually(lambda: database.query(REPLICATION) == wanted, f"replication that is {state}", timeout=60)

    def wait_until_replayed(self) -> None:
        """Wait until the standby has all that the primary has written so far."""
        with closing(Database(self.primary.dsn)) as database:
            position = database.value("SELECT pg_current_wal_flush_lsn()")
        with closing(Database(self.standby.dsn)) as database:
            eventually(lambda: database.value("SELECT pg_last_wal_replay_lsn() >= %s", (position,)), "the replay")

    def stop_replicating(self) -> None:
        """Let nothing more reach the standby."""
        self.set(self.standby, primary_conninfo="")
        self.wait_for_replication(None)


@pytest.fixture
def make_pair(short_path: Path, make_database_on: Callable[[str], str]) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def make() -> Pair:
            primary = stack.enter_context(new_server(short_path))
            queue = make_database_on(primary.dsn)
            standby = Server(primary.folder.with_name("standby"), free_port())
            standby.copy(primary, STANDBY)
            stack.enter_context(running(standby))
            return Pair(primary, standby, parse_dsn(queue)["dbname"])

        yield make


@pytest.mark.parametrize("synchronous_commit", ["on", "remote_apply"])
def test_failover_to_a_synchronous_standby_loses_and_doubles_nothing(
    begin: Callable[..., Experiment], make_pair: Callable[..., Pair], synchronous_commit: str, kind: Kind
) -> None:
    pair = make_pair()
    experiment = begin(f"failover to a synchronous standby ({synchronous_commit})", kind, queue=pair.old)
    pair.set(pair.primary, synchronous_standby_names=STANDBY, synchronous_commit=synchronous_commit)
    pair.wait_for_replication("sync")
    experiment.enqueue(JOBS)
    with experiment.pool(pair.both, several=True):
        experiment.wait_for_runs(JOBS // 3)
        pair.primary.stop("immediate")
        pair.standby.promote()
        experiment.fault_is_over()
        experiment.queue = pair.new
        experiment.enqueue(JOBS // 3)
        experiment.wait_until_worked()
    experiment.check()


def test_failover_to_an_asynchronous_standby_loses_only_what_had_not_reached_it(
    begin: Callable[..., Experiment], make_pair: Callable[..., Pair], kind: Kind
) -> None:
    """What was done on the old primary in that time is lost too, and done again."""
    pair = make_pair()
    experiment = begin("failover to an asynchronous standby", kind, queue=pair.old)
    replicated = set(experiment.enqueue(JOBS))
    pair.wait_until_replayed()
    pair.stop_replicating()
    endangered = set(experiment.enqueue(NOT_REPLICATED))
    with experiment.pool(pair.both, several=True):
        experiment.wait_for_runs(JOBS // 3)
        pair.primary.stop("immediate")
        pair.standby.promote()
        experiment.fault_is_over()
        experiment.queue = pair.new
        later = set(experiment.enqueue(JOBS // 3))
        experiment.wait_until_worked()
    lost = endangered & experiment.effects_due - set(experiment.effects())
    assert len(lost) <= NOT_REPLICATED
    experiment.check(
        jobs=replicated | later, note=f"{NOT_REPLICATED} jobs of each run hadn't reached it, and were lost"
    )


def test_two_primaries_both_do_all_jobs_and_each_of_them_once(
    begin: Callable[..., Experiment], make_pair: Callable[..., Pair], kind: Kind
) -> None:
    """What qg promises holds on each side. That there are two sides no queue can mend."""
    pair = make_pair()
    experiment = begin("the old primary lives on beside the new one", kind, queue=pair.old)
    experiment.enqueue(JOBS)
    with experiment.pool(pair.both, several=True):
        experiment.wait_for_runs(JOBS // 3)
        pair.standby.promote()
        pair.wait_for_replication(None)
        experiment.fault_is_over()
        experiment.enqueue(NOT_REPLICATED)  # on the old side only
        on_both = set(range(1, JOBS + 1))
        experiment.queue = pair.new
        with experiment.pool(pair.new, several=True):
            experiment.wait_until_worked()
        experiment.queue = pair.old
        experiment.wait_until_worked()
    experiment.check(note="the old side, runs of both")
    experiment.queue = pair.new
    experiment.check(
        jobs=on_both, note=f"the new side, which never had {NOT_REPLICATED} jobs of each run; runs of both"
    )
