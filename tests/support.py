"""What the tests share: waiting for conditions, looking into the database, a network that breaks."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from psycopg2.extensions import connection

import qg
import qg.tables
from qg.client import engine_of
from qg.database.outage import Outage
from qg.database.session import Session
from qg.locking.marks import Marks
from qg.locking.row_taker import RowTaker, Search, Taken
from qg.tables import Statement, Table, table_in
from qg.working.hands import Hands
from qg.working.hooks import Hooks
from qg.working.listener import Listener
from qg.working.locker import Locker
from qg.working.loop import Loop
from qg.working.options import WorkOptions
from qg.working.runner import Runner
from qg.working.sleepers import Sleepers
from qg.working.threads import WakeUp, join_all
from qg.working.transactions import Transactions
from qg.working.work_loop import WorkLoop

if TYPE_CHECKING:
    from qg.jobs.tables import JobsTables

PATIENCE = 10.0

# Of the table that the tests work on.
VERSION = int(os.environ.get("QG_TEST_VERSION", "3"))
# What the tests of all versions go through: only the one that was asked for, as tox does for each Python.
VERSIONS = [VERSION] if "QG_TEST_VERSION" in os.environ else [3, 4, 5, 6, 7]

# What version 3 and the later ones call differently: two columns, queue "", and, in qg, most prepared statements.
ID, LAST_ERROR, UNNAMED, SUFFIX = (
    ("job_id", "last_error", "", "") if VERSION == 3 else ("id", "last_error_message", "default", f"_v{VERSION}")
)
# The type of args, and where in them qg.jobs has its payload.
JSON, PAYLOAD = ("json", "args") if VERSION == 3 else ("jsonb", "args -> 0")


def needs(module: str) -> Any:
    """Return *module*, of a package that not everybody has. Without it what needs it is skipped, but fails in CI."""
    try:
        return importlib.import_module(module)
    except (ModuleNotFoundError, qg.ErrMissingExtra) as error:
        if os.environ.get("CI") or (error.name or "").startswith("qg"):
            raise
        pytest.skip(f"{error}; what the tests need is in the extras demo and dev", allow_module_level=True)


def jobs_view(version: int) -> str:
    """Return what creates the view jobs: the table of *version* as version 3 has it; last_error can't be set.

    It has one column more, with the payload of qg.jobs.
    """
    if version == 3:
        return "CREATE VIEW jobs AS SELECT *, args AS payload FROM que_jobs"
    view = (
        "CREATE VIEW jobs AS SELECT id AS job_id, queue, priority, run_at, job_class, args, error_count, "
        "last_error_message || coalesce(E'\\n' || last_error_backtrace, '') AS last_error, args -> 0 AS payload"
    )
    if version <= 5:
        return f"{view} FROM que_jobs"
    return f"{view}, job_schema_version FROM que_jobs; ALTER VIEW jobs ALTER job_schema_version SET DEFAULT 2"


def as_args(payload: Any) -> Any:
    """Return *payload* as the table holds it in args, which from version 4 on is an array."""
    return payload if VERSION == 3 else [payload]


def on_versions(*wanted: int) -> pytest.MarkDecorator:
    """Run a test on those of the versions *wanted* that are tested at all."""
    return pytest.mark.parametrize("version", [each for each in wanted if each in VERSIONS])


# A test that sees how many workers there are by the number of their sessions.
as_many_sessions = pytest.mark.as_many_sessions(reason="it sees the workers by their sessions")


def eventually(
    condition: Callable[[], Any], what: str | Callable[[], str] = "the condition", timeout: float = PATIENCE
) -> Any:
    """Return the first true value of *condition*; fail if none comes within *timeout* seconds, and say *what*."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        late = time.monotonic() >= deadline
        assert not late, f"{what if isinstance(what, str) else what()} didn't come true within {timeout} s"
        time.sleep(0.005)


def name_of(value: object) -> str:
    """Return repr() without addresses: a test has the same name in every process then, as xdist needs it."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_pytest(folder: Path, *arguments: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Run a pytest of its own in *folder*, after the Python code *prelude*."""
    # Without the environment of the pytest that runs us.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_"))}
    code = f"import sys\n{prelude}\nimport pytest; sys.exit(pytest.main())"
    return subprocess.run(
        # To load Hypothesis takes longer than all the rest.
        [sys.executable, "-c", code, "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-q", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Database:
    """The test's database, seen through a connection that qg knows nothing of."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = psycopg2.connect(dsn, application_name="observer")
        self.conn.autocommit = True

    def query(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        with self.conn.cursor() as cur:
            cur.execute(sql, params)
            return cur.fetchall() if cur.description else []

    def value(self, sql: str, params: Any = ()) -> Any:
        return self.query(sql, params)[0][0]

    def connect(self) -> connection:
        return psycopg2.connect(self.dsn)

    def jobs(self) -> list[tuple[Any, ...]]:
        """Every job's id, type, error_count and last_error, in the order of the ids."""
        return self.query("SELECT job_id, job_class, error_count, last_error FROM jobs ORDER BY job_id")

    def count(self) -> int:
        return int(self.value("SELECT count(*) FROM que_jobs"))

    def locks(self) -> list[int]:
        """The ids that are advisory-locked in this database, by whomever."""
        return sorted(job_id for job_id, _ in self._held_locks())

    def lock_holders(self) -> list[int]:
        """The pid of each session that has an advisory lock in this database, once a lock."""
        return sorted(pid for _, pid in self._held_locks())

    def _held_locks(self) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT (classid::bigint << 32) | objid::bigint, pid FROM pg_locks "
            "WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

    def sessions(self) -> list[tuple[int, str, str]]:
        """Pid, state and last query of every other session in this database."""
        return self.query(  # type: ignore[return-value]
            "SELECT pid, state, query FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )

    def terminate(self, pid: int) -> None:
        """End the session *pid*, and return when it is gone."""
        self.query("SELECT pg_terminate_backend(%s)", (pid,))
        eventually(lambda: pid not in [session[0] for session in self.sessions()], f"the end of session {pid}")

    def is_waiting_for_a_lock(self, pid: int) -> bool:
        return bool(self.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", (pid,)))

    def close(self) -> None:
        self.conn.close()


def lease(client: qg.Client) -> Session:
    """A session of *client*'s; to be given back or closed."""
    return engine_of(client).database.lease()


def table_of(client: qg.Client) -> Table:
    """The table as *client* knows it."""
    return engine_of(client).database.table


def try_locks_with(patch: pytest.MonkeyPatch, function: str) -> None:
    """Let clients call *function* of their table in public, instead of pg_try_advisory_lock, to take a job."""

    def changed(value: Any) -> Any:
        if isinstance(value, Statement):
            return dataclasses.replace(value, text=changed(value.text))
        if isinstance(value, str):
            return re.sub(r"(pg_catalog\.)?\bpg_try_advisory_lock\(", f"{function}(", value)
        return value

    for version in range(3, 8):
        table = table_in("public", version)
        values = {field.name: changed(getattr(table, field.name)) for field in dataclasses.fields(table)}
        patch.setitem(qg.tables._made, (version, "public"), Table(**values))


def jobs_tables_of(client: qg.Client) -> JobsTables:
    """The tables of qg.jobs that *client*'s connections find."""
    from qg.jobs.tables import find_tables

    with engine_of(client).database.session() as session:
        return find_tables(session)


def take_plainly(client: qg.Client, plainly: bool = True) -> None:
    """Let *client* take jobs by plain statements from now on, as where a session can't have functions; or not."""
    rows = rows_of(client)
    if plainly:
        rows.takes_plainly = lambda session: True  # type: ignore[method-assign]
    elif "takes_plainly" in vars(rows):
        del rows.takes_plainly


def rows_of(client: qg.Client) -> RowTaker:
    """What takes rows for *client*."""
    return engine_of(client).rows


def take(client: qg.Client, session: Session, queue: str, wanted: int = 1, **how: Any) -> Taken:
    """Take rows on *session*, as a worker does."""
    search = Search(queue, how.pop("order", qg.PollStrategy.PRIORITY), how.pop("types", None))
    unlock = how.pop("unlock", None)
    return rows_of(client).take(  # type: ignore[return-value]
        session, table_of(client), search, wanted, unlock=() if unlock is None else (unlock,), **how
    )


def begin_with(client: qg.Client, marks: Marks) -> None:
    """Let *marks* be what *client* knows of the queue without a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qg.locking.row_taker.Marks", lambda: marks)
        rows_of(client).marks(UNNAMED)


def sleepers_of(pool: qg.WorkerPool) -> Sleepers:
    """Where the workers of *pool* sleep."""
    return pool._sleepers


def locker_of(pool: qg.WorkerPool) -> connection:
    """The connection on which the workers of *pool*, who share it, have their locks."""
    (loop,) = pool._loops
    assert loop.session is not None
    return loop.session.conn


def outage_of(pool: qg.WorkerPool) -> Outage:
    """Who of *pool* can't reach the database."""
    return pool._outage


def listener_of(pool: qg.WorkerPool) -> Listener:
    """What hears of jobs for *pool*."""
    assert pool._listener is not None
    return pool._listener


def threads(kind: str) -> list[threading.Thread]:
    """The threads that run of this *kind*: "worker", "listener" or "batch"."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"qg-{kind}")]


def backend_pid(client: qg.Client) -> int:
    """The pid of the session that *client* will lease next: it keeps the last one that came back."""
    session = lease(client)
    pid = session.conn.info.backend_pid
    session.give_back()
    return pid


class UntilEmpty:
    """A worker that stops when it would wait for something; to look again at once isn't that.

    Args:
        hands: how many run the jobs of one locker; 0 has the worker run them itself.
        hooks: middleware=, on_error= and on_expired= of a worker.
    """

    def __init__(
        self,
        client: qg.Client,
        work_map: qg.WorkMap,
        *,
        queue: str | None = None,
        interval: float | None = None,
        batch_size: int = 1,
        poll_strategy: qg.PollStrategy = qg.PollStrategy.PRIORITY,
        only_known_types: bool = False,
        hands: int = 0,
        **hooks: Any,
    ) -> None:
        options = WorkOptions.with_defaults(queue, interval, batch_size, poll_strategy, only_known_types)
        engine, outage = engine_of(client), Outage(client.logger)
        self.sleepers = sleepers = _Restless(self)
        names = [f"qg-worker-{number}" for number in range(hands)]
        checked = Hooks.of(hooks.get("middleware", ()), hooks.get("on_error"), hooks.get("on_expired"))
        self.hands = Hands(names, "qg-settler", work_map, client.logger, checked)
        self.loop: Loop = (
            Locker(engine, options, outage, sleepers, None, self.hands, Transactions(engine, options.queue, hands))
            if hands
            else WorkLoop(engine, Runner(work_map, client.logger, checked), options, outage, sleepers)
        )
        self.at_once = 0

        self.work_one = qg.Worker(
            client,
            work_map,
            queue=queue,
            batch_size=batch_size,
            poll_strategy=poll_strategy,
            only_known_types=only_known_types,
            **hooks,
        ).work_one

    def work(self) -> None:
        threads = self.hands.threads if self.hands.size else []
        for thread in threads:
            thread.start()
        self.loop.run()
        assert join_all(threads, PATIENCE)

    def stop(self) -> None:
        self.loop.stop()

    def shutdown(self) -> None:
        self.loop.stop()

    @property
    def waits_for_hands(self) -> bool:
        return bool(self.hands.size) and not self.hands.crew.idle

    def rest(self, seconds: float, due: float | None = None) -> None:
        """Called where it would sleep."""
        if due == 0.0:
            self.at_once += 1
            assert self.at_once < 10, "the worker looks again and again without a pause"
            return
        self.stop()


class _Restless(Sleepers):
    """Lets the worker say what it does instead of sleeping."""

    def __init__(self, worker: UntilEmpty) -> None:
        super().__init__()
        self._worker = worker

    def sleep(self, wake_up: WakeUp, seconds: float, due: float | None, calls: int) -> None:
        if self._worker.waits_for_hands:
            wake_up.wait(seconds if due is None else due)
        else:
            self._worker.rest(seconds, due)

    def pause(self, wake_up: WakeUp, seconds: float) -> None:
        if self._worker.waits_for_hands:
            wake_up.wait(seconds)
        else:
            self._worker.rest(seconds)


class Network:
    """A proxy in front of the server whose connections can be cut or go silent, and whose door can be shut."""

    def __init__(self, dsn: str) -> None:
        with psycopg2.connect(dsn) as probe:
            info = probe.info
            self._target, self._port = info.host, info.port
            self.dsn = ""
            self._dbname, self._user, self._password = info.dbname, info.user, info.password
        probe.close()
        self._door: socket.socket | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        # The near ends of those that are silent.
        self.silent: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._mutex = threading.Lock()
        self._listen_port = 0
        # What clients had executed, one entry for each message and so for each round trip.
        self.statements: list[str] = []
        self.open()
        self.dsn = psycopg2.extensions.make_dsn(
            host="127.0.0.1",
            port=self._listen_port,
            dbname=self._dbname,
            user=self._user,
            password=self._password or None,
            gssencmode="disable",
            sslmode="disable",
        )

    def open(self) -> None:
        """Let connections through, from now on and at the same port as ever."""
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", self._listen_port))
        door.listen(50)
        self._listen_port = door.getsockname()[1]
        self._door = door
        self._run(self._accept, door)

    def cut(self) -> None:
        """Cut every connection and refuse new ones."""
        door, self._door = self._door, None
        if door is not None:
            door.shutdown(socket.SHUT_RDWR)
            door.close()
        with self._mutex:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._threads = []

    def silence(self) -> None:
        """Accept what comes on the connections that are open now, and pass on nothing of it in either direction."""
        with self._mutex:
            self.silent.update(near for near, _ in self._pairs)

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, door: socket.socket) -> None:
        while True:
            try:
                near, _ = door.accept()
            except OSError:
                return
            if self._target.startswith("/"):
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(Path(self._target, f".s.PGSQL.{self._port}")))
            else:
                far = socket.create_connection((self._target, self._port))
            with self._mutex:
                if self._door is not door:  # cut() came meanwhile, and won't see this pair
                    near.close()
                    far.close()
                    return
                self._pairs.append((near, far))
            self._run(self._pipe, near, far)

    def _pipe(self, near: socket.socket, far: socket.socket) -> None:
        unread = b""
        started = False
        with near, far, suppress(OSError):
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if near in self.silent:
                        continue
                    if source is near:
                        unread, started = self._read_messages(unread + data, started)
                    (far if source is near else near).sendall(data)

    def _read_messages(self, data: bytes, started: bool) -> tuple[bytes, bool]:
        # A message is a type and a length that counts itself; the very first one has no type.
        while True:
            head = 1 if started else 0
            if len(data) < head + 4:
                return data, started
            end = head + int.from_bytes(data[head : head + 4], "big")
            if len(data) < end:
                return data, started
            if data[:1] == b"Q":
                self.statements.append(data[5 : end - 1].decode())
            data, started = data[end:], True
