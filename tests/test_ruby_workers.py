"""Ruby's workers and Python's work one table of version 7, each the other's jobs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from migrating import insert, insert_locker
from support import PATIENCE, Database, eventually

import qg
from qg import activejob

QUE_LIB = os.environ.get("QUE_LIB", "")
PROGRAM = Path(__file__).parent / "ruby" / "que_process.rb"
MINUTE = 60.0  # an interval after which no test waits for a poll
OFTEN = 0.05


def que_is_there() -> bool:
    if not QUE_LIB or shutil.which("ruby") is None:
        return False
    check = ["ruby", "-I", QUE_LIB, "-r", "pg", "-r", "que", "-e", "exit Que.job_schema_version == 2"]
    return subprocess.run(check, stderr=subprocess.DEVNULL, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not que_is_there(), reason="needs ruby with the pg library, and QUE_LIB to name the lib folder of a Ruby Que 2"
)


class Ruby:
    """A process with Ruby Que, and the jobs of que_process.rb; called with Ruby code it returns what that comes to."""

    def __init__(self, dsn: str) -> None:
        self._process = subprocess.Popen(
            ["ruby", "-I", QUE_LIB, PROGRAM, dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.pid = self._process.pid

    def __call__(self, code: str) -> Any:
        print(json.dumps(code), file=self._process.stdin, flush=True)
        kind, answer = json.loads(self._process.stdout.readline() or '["error", "the process has ended"]')
        assert kind == "value", answer
        return answer

    @property
    def ran(self) -> list[Any]:
        """What its lockers have run."""
        return self("RAN")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        try:
            self._process.communicate(timeout=PATIENCE)
        finally:
            self.kill()


@pytest.fixture(scope="module")
def observer(make_database) -> Iterator[Database]:
    with closing(Database(make_database(version=7))) as database:
        yield database


@pytest.fixture(autouse=True)
def leaves_no_locker_behind(database: Database) -> Iterator[None]:
    yield
    eventually(lambda: not lockers(database), "the end of all lockers")


@pytest.fixture
def ruby(dsn: str) -> Iterator[Ruby]:
    with closing(Ruby(dsn)) as ruby:
        yield ruby


@contextmanager
def resting(
    client: qg.Client, database: Database, work_map: qg.WorkMap, *, interval: float = MINUTE, **options: Any
) -> Iterator[None]:
    """A pool of two workers that listens, and that has found nothing to do yet."""
    mine = "SELECT count(*) FROM pg_stat_activity JOIN que_lockers USING (pid) WHERE ruby_pid = %s"
    looked = f"{mine} AND worker_count = 0 AND state = 'idle' AND query LIKE '%%que_take_jobs(%%'"
    with qg.WorkerPool(client, work_map, 2, interval=interval, **options):
        eventually(lambda: database.value(looked, (os.getpid(),)) == 2 and lockers(database)[os.getpid()] == 3)
        yield


def lockers(database: Database) -> Counter[int]:
    """How many rows each process has in the table of lockers."""
    return Counter(pid for (pid,) in database.query("SELECT ruby_pid FROM que_lockers"))


def row(database: Database, number: int | None) -> dict[str, Any]:
    """All columns of the job with id *number*, but for the id; of those that hold a time, whether they do."""
    (found,) = database.query("SELECT to_jsonb(que_jobs) FROM que_jobs WHERE id = %s", (number,))
    times = ("run_at", "finished_at", "expired_at")
    return {name: value is not None if name in times else value for name, value in found[0].items() if name != "id"}


def is_settled(database: Database, column: str, number: int | None) -> bool:
    """Whether the job with id *number* has a time in *column*, and nobody its lock any more."""
    return row(database, number)[column] and number not in database.locks()


def fail(job: qg.Job) -> None:
    raise RuntimeError("ä" * 600 + "\nand more")


# Whoever enqueues, the other works


@pytest.mark.parametrize(
    "job",
    [
        qg.Job("Note"),
        qg.Job("Note", [1, "zwei ✓", None, {"a": [1.5, True]}]),
        qg.Job("Note", kwargs={"order": 42, "options": {"express": False}}),
        qg.Job("Note", [[]], kwargs={"to": "Ada"}, tags=["ä b", 'c"'], queue="mail", priority=-5),
        qg.Job("Note", ["late"], run_at=datetime.now(timezone.utc) - timedelta(days=400)),
    ],
    ids=["bare", "args", "kwargs", "everything", "late"],
)
def test_ruby_is_told_of_a_job_and_runs_it_as_meant(
    ruby: Ruby, client: qg.Client, database: Database, job: qg.Job
) -> None:
    fields = {"queue": job.queue or "default", "priority": job.priority, "error_count": 0, "tags": list(job.tags)}
    ruby('start("default", "mail")')
    client.enqueue(job)
    eventually(lambda: database.count() == 0)
    assert ruby.ran == [{"id": job.id, "type": "Note", "args": job.args, "kwargs": job.kwargs, **fields}]


def test_keyword_arguments_are_rubys_and_a_last_dict_is_none(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    client.enqueue(qg.Job("Greet", ["Ada"], kwargs={"greeting": "Hello", "mark": "!"}))
    dict_last = client.enqueue(qg.Job("Greet", ["Ada", {"greeting": "Hello"}]))
    eventually(lambda: ruby.ran == ["Hello, Ada!"] and row(database, dict_last.id)["error_count"] == 1)
    assert row(database, dict_last.id)["last_error_message"].startswith("ArgumentError: ")


def test_a_batch_of_pythons_is_told_to_ruby_only_if_asked(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default", priorities: [nil])')
    client.enqueue_batch([qg.Job("Note", ["quiet"], priority=1) for _ in range(3)])
    client.enqueue_batch([qg.Job("Note", ["loud"], priority=2) for _ in range(3)], notify=True)
    eventually(lambda: database.count() == 3)
    assert [each["args"] for each in ruby.ran] == [["loud"]] * 3
    ruby(f'start("default", poll: {OFTEN})')
    eventually(lambda: database.count() == 0)
    assert [each["args"] for each in ruby.ran[3:]] == [["quiet"]] * 3


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("Note.enqueue", {}),
        ("Note.enqueue(1, 'zwei ✓', nil, { 'a' => [1.5, true] })", {"args": [1, "zwei ✓", None, {"a": [1.5, True]}]}),
        ("Note.enqueue(1, to: 'Ada', at: { b: 2 })", {"args": [1], "kwargs": {"to": "Ada", "at": {"b": 2}}}),
        ("Note.enqueue(job_options: { tags: ['ä b', 'c\"'], priority: -5 })", {"tags": ["ä b", 'c"'], "priority": -5}),
        ("Note.enqueue(job_options: { queue: 'mail' })", {"queue": "mail"}),
        ("Que::Job.enqueue(1, job_options: { job_class: 'Py::Thon' })", {"type": "Py::Thon", "args": [1]}),
        ("Note.bulk_enqueue(notify: true) { Note.enqueue(1, a: 2) }", {"args": [1], "kwargs": {"a": 2}}),
    ],
    ids=["bare", "args", "kwargs", "options", "queue", "class", "bulk"],
)
def test_a_job_of_rubys_wakes_a_pool_and_arrives_as_meant(
    ruby: Ruby, client: qg.Client, database: Database, code: str, fields: dict[str, Any]
) -> None:
    expected = {"type": "Note", "args": [], "kwargs": {}, "tags": [], "queue": "default", "priority": 100, **fields}
    worked: list[qg.Job] = []
    with resting(client, database, {expected["type"]: worked.append}, queue=expected["queue"]):
        ruby(f"{code}; nil")
        eventually(lambda: database.count() == 0)
    (job,) = worked
    assert {name: getattr(job, name) for name in expected} | {"tags": list(job.tags)} == expected


def test_what_ruby_enqueues_in_bulk_is_found_by_polling(ruby: Ruby, client: qg.Client, database: Database) -> None:
    worked: list[qg.Job] = []
    with resting(client, database, {"Note": worked.append}, interval=OFTEN):
        ruby('Note.bulk_enqueue(job_options: { tags: ["a"] }) { 3.times { |n| Note.enqueue(n, b: n) } }; nil')
        eventually(lambda: database.count() == 0)
    found = sorted((job.args, job.kwargs["b"], job.tags) for job in worked)
    assert found == [([n], n, ["a"]) for n in range(3)]


def test_a_job_of_active_job_is_parsed(ruby: Ruby, client: qg.Client, database: Database) -> None:
    data = {
        "job_class": "ChargeJob",
        "job_id": "6a6d2bd4-3a0c-4f9e-9c0e-2e0d0a7a6e5b",
        "arguments": [{"_aj_globalid": "gid://shop/Order/42"}, {"currency": "EUR", "_aj_ruby2_keywords": ["currency"]}],
    }
    tasks: list[activejob.ActiveJob] = []
    with resting(client, database, {activejob.WRAPPER: lambda job: tasks.append(activejob.parse(job))}):
        enqueue = "ActiveJob::QueueAdapters::QueAdapter::JobWrapper.enqueue"
        ruby(f'{enqueue}(JSON.parse(%q({json.dumps(data)})), job_options: {{ priority: nil, queue: "default" }}); nil')
        eventually(lambda: database.count() == 0)
    (task,) = tasks
    assert (task.job_class, task.job_id, task.kwargs) == (data["job_class"], data["job_id"], {"currency": "EUR"})
    assert [(each.model, each.id) for each in task.arguments] == [("Order", "42")]


# Both on one queue


def test_a_locker_and_a_pool_work_each_job_once(ruby: Ruby, client: qg.Client, database: Database) -> None:
    worked: list[qg.Job] = []
    ruby_has_some = threading.Event()

    def note(job: qg.Job) -> None:
        assert ruby_has_some.wait(PATIENCE)
        worked.append(job)

    ruby('start("default")')
    with resting(client, database, {"Note": note}, interval=OFTEN):
        client.enqueue_batch([qg.Job("Note") for _ in range(100)], notify=True)
        ruby("100.times { Note.enqueue }")
        eventually(lambda: ruby.ran)
        ruby_has_some.set()
        eventually(lambda: database.count() == 0)
        eventually(lambda: not database.locks())
    by_ruby, by_python = [each["id"] for each in ruby.ran], [job.id for job in worked]
    assert min(len(by_ruby), len(by_python)) > 0
    assert sorted(by_ruby + by_python) == list(range(1, 201))


def test_a_pool_of_known_types_leaves_rubys_to_ruby(ruby: Ruby, client: qg.Client, database: Database) -> None:
    worked: list[qg.Job] = []
    # Ruby can't tell types apart before it has a job, but priorities.
    ruby(f'start("default", poll: {OFTEN}, listen: false, priorities: [50, 50])')
    with resting(client, database, {"Python": worked.append}, interval=OFTEN, only_known_types=True):
        ruby("20.times { Note.enqueue(job_options: { priority: 50 }) }")  # all told to Python
        client.enqueue_batch([qg.Job("Python", priority=51) for _ in range(20)], notify=True)
        eventually(lambda: database.count() == 0)
    assert [job.type for job in worked] == ["Python"] * 20
    assert [(each["type"], each["error_count"]) for each in ruby.ran] == [("Note", 0)] * 20


def test_a_class_that_ruby_doesnt_know_fails_there_first(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    job = client.enqueue(qg.Job("Py::Thon"))
    eventually(lambda: row(database, job.id)["error_count"] == 1 and not database.locks())
    assert "uninitialized constant Py" in row(database, job.id)["last_error_message"]
    database.query("UPDATE que_jobs SET run_at = now()")
    worked: list[qg.Job] = []
    assert qg.Worker(client, {"Py::Thon": worked.append}).work_one()
    assert [(each.error_count, each.id) for each in worked] == [(1, job.id)]


# Failures and other ends


def test_what_fails_in_python_is_tried_again_by_ruby(ruby: Ruby, dsn: str, database: Database) -> None:
    with qg.Client(dsn, backoff=lambda error_count: 0.0) as client:
        client.enqueue(qg.Job("Note", ["again"]))
        assert qg.Worker(client, {"Note": fail}).work_one()
    (error,) = ruby('Que.execute("SELECT last_error_message AS text, last_error_backtrace AS trace FROM que_jobs")')
    assert error["text"] == f"RuntimeError: {'ä' * 486}"
    assert 'raise RuntimeError("ä" * 600' in error["trace"]
    ruby(f'start("default", poll: {OFTEN})')
    eventually(lambda: database.count() == 0)
    assert [(each["args"], each["error_count"]) for each in ruby.ran] == [(["again"], 1)]


def test_what_fails_in_ruby_is_tried_again_by_python(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')  # which isn't told of retries
    job = client.enqueue(qg.Job("Fail", ["again"]))
    eventually(lambda: row(database, job.id)["error_count"] == 1 and not database.locks())
    worked: list[qg.Job] = []
    assert qg.Worker(client, {"Fail": worked.append}).work_one()
    (again,) = worked
    assert (again.id, again.args, again.error_count) == (job.id, ["again"], 1)
    message, _, trace = (again.last_error or "").partition("\n")
    assert message == "ArgumentError: no luck"
    assert PROGRAM.name in trace


def test_what_ruby_has_given_up_python_leaves_alone(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    jobs = [client.enqueue(qg.Job(name)) for name in ("FailForGood", "Abandon", "Keep")]
    for job, column in zip(jobs, ("expired_at", "expired_at", "finished_at"), strict=True):
        eventually(lambda job=job, column=column: is_settled(database, column, job.id))
    assert client.lock_job() is None


def test_what_python_has_given_up_ruby_leaves_alone(ruby: Ruby, dsn: str, database: Database) -> None:
    handlers: list[Callable[[qg.Job], None]] = [fail, qg.Job.expire, qg.Job.finish]
    with qg.Client(dsn, maximum_retry_count=0) as client:
        for handler in handlers:
            client.enqueue(qg.Job("Note"))
            assert qg.Worker(client, {"Note": handler}).work_one()
        client.enqueue(qg.Job("Note", ["the last"], priority=200))
    ruby(f'start("default", poll: {OFTEN})')
    eventually(lambda: database.count() == 3)
    assert [each["args"] for each in ruby.ran] == [["the last"]]


@pytest.mark.parametrize(
    ("job_type", "handler", "column"),
    [("Keep", qg.Job.finish, "finished_at"), ("Abandon", qg.Job.expire, "expired_at")],
)
def test_finish_and_expire_leave_what_rubys_leave(
    ruby: Ruby, client: qg.Client, database: Database, job_type: str, handler: qg.WorkFunc, column: str
) -> None:
    mine = client.enqueue(qg.Job(job_type, [1], kwargs={"a": 2}, tags=["b"]))
    assert qg.Worker(client, {job_type: handler}).work_one()
    ruby('start("default")')
    rubys = client.enqueue(qg.Job(job_type, [1], kwargs={"a": 2}, tags=["b"]))
    eventually(lambda: is_settled(database, column, rubys.id))
    assert row(database, mine.id) == row(database, rubys.id)
    assert is_settled(database, column, mine.id)


# What each sees of the other


def test_ruby_sees_what_python_works_and_where(ruby: Ruby, client: qg.Client, database: Database) -> None:
    go = threading.Event()
    with resting(client, database, {"Note": lambda job: go.wait(PATIENCE)}):
        job = client.enqueue(qg.Job("Note", [1]))
        (state,) = eventually(lambda: ruby("Que.job_states"))
        go.set()
        assert (state["id"], state["job_class"], state["args"]) == (job.id, "Note", [1])
        assert (state["ruby_hostname"], state["ruby_pid"]) == (socket.gethostname(), os.getpid())
        eventually(lambda: not ruby("Que.job_states"))


def test_python_sees_what_ruby_works_and_where(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    job = client.enqueue(qg.Job("Wait", priority=7))
    eventually(lambda: ruby.ran)
    (state,) = client.job_states()
    assert (state.id, state.queue, state.type, state.priority) == (job.id, "default", "Wait", 7)
    assert (state.error_count, state.run_at) == (0, job.run_at)
    assert (state.host, state.pid, state.since) == (socket.gethostname(), ruby.pid, None)
    assert state.backend_pid == database.value("SELECT pid FROM que_lockers")
    ruby("GO << 1; nil")
    eventually(lambda: not client.job_states())


def test_the_statistics_agree(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    client.enqueue_batch([qg.Job(name) for name in ("Wait", "Fail", "FailForGood", "Keep")], notify=True)
    eventually(lambda: len(ruby.ran) == 4 and len(database.locks()) == 1)
    client.enqueue_batch([qg.Job("Wait", queue="other"), qg.Job("Fail", queue="other")])
    client.enqueue(qg.Job("Later", run_at=datetime.now(timezone.utc) + timedelta(days=1)))
    with client.lock_job("other"):
        code = "Que.job_stats.map { |each| each.merge(oldest_run_at: each[:oldest_run_at].iso8601(6)) }"
        by_ruby = {each.pop("job_class"): each for each in ruby(code)}
        ours = client.stats()
    assert Counter(each.type for each in ours) == {"Fail": 2, "Later": 1, "Wait": 2}
    for name, theirs in by_ruby.items():
        each = [stats for stats in ours if stats.type == name]
        assert datetime.fromisoformat(theirs.pop("oldest_run_at")) == min(stats.oldest_run_at for stats in each)
        assert theirs.pop("highest_error_count") == max(stats.highest_error_count for stats in each)
        assert theirs == {field: sum(getattr(stats, field) for stats in each) for field in theirs}
    assert {name: each["count_working"] for name, each in by_ruby.items()} == {"Fail": 0, "Later": 0, "Wait": 2}
    ruby("GO << 1; nil")


def test_each_clears_away_its_own_lockers_and_the_dead(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    insert_locker(database, -1, ruby_pid=-1, job_schema_version=2)
    with resting(client, database, {}):
        assert lockers(database) == {ruby.pid: 1, os.getpid(): 3}
        insert_locker(database, -1, ruby_pid=-1, job_schema_version=2)
        ruby('start("mail")')
        assert lockers(database) == {ruby.pid: 2, os.getpid(): 3}
        ruby("LOCKERS.pop.stop!; nil")
        assert lockers(database) == {ruby.pid: 1, os.getpid(): 3}
    assert lockers(database) == {ruby.pid: 1}


def test_a_job_whose_ruby_was_killed_is_pythons(ruby: Ruby, client: qg.Client, database: Database) -> None:
    ruby('start("default")')
    job = client.enqueue(qg.Job("Wait"))
    eventually(lambda: ruby.ran)
    ruby.kill()
    eventually(lambda: not database.locks())
    assert lockers(database) == {ruby.pid: 1}
    worked: list[qg.Job] = []
    with qg.WorkerPool(client, {"Wait": worked.append}, 1, interval=MINUTE):
        eventually(lambda: database.count() == 0)
        assert set(lockers(database)) == {os.getpid()}
    assert [each.id for each in worked] == [job.id]


# Migrations


@pytest.fixture
def migrating(make_database) -> Iterator[tuple[Ruby, str, Database]]:
    """A database whose table Ruby's own migrations made, of version 7."""
    dsn = make_database(migrate=False)
    with closing(Database(dsn)) as database, closing(Ruby(dsn)) as ruby:
        ruby("Que.migrate!(version: 7)")
        yield ruby, dsn, database


def test_a_pool_goes_on_while_ruby_migrates_the_table(migrating: tuple[Ruby, str, Database]) -> None:
    ruby, dsn, database = migrating
    worked: list[qg.Job] = []
    with qg.Client(dsn) as client, qg.WorkerPool(client, {"Note": worked.append}, 2, interval=OFTEN):
        for version in (7, 6, 5, 4, 3, 4, 5, 6, 7):
            ruby(f"Que.migrate!(version: {version})")
            with qg.Client(dsn) as other:  # so that the pool must find out by itself
                other.enqueue_batch([qg.Job("Note", [version])])
            eventually(lambda: database.count() == 0, f"the end of the job on version {version}")
        eventually(lambda: lockers(database)[os.getpid()] == 3, "the registration of all three sessions")
    assert lockers(database) == {}
    assert [job.args for job in worked] == [[version] for version in (7, 6, 5, 4, 3, 4, 5, 6, 7)]


def test_a_job_that_runs_while_ruby_migrates_is_worked_once(migrating: tuple[Ruby, str, Database]) -> None:
    ruby, dsn, database = migrating
    started, go = threading.Semaphore(0), threading.Semaphore(0)

    def wait(job: qg.Job) -> None:
        started.release()
        assert go.acquire(timeout=PATIENCE)

    with qg.Client(dsn) as client, qg.WorkerPool(client, {"Note": wait}, 1, interval=OFTEN):
        ruby("Note.enqueue; nil")
        for version in (3, 7, 6):
            assert started.acquire(timeout=PATIENCE)
            ruby(f"Que.migrate!(version: {version})")
            client.enqueue(qg.Job("Note"))  # at first on a new connection: the pool has the others
            go.release()
        go.release()
        eventually(lambda: database.count() == 0)
        assert started.acquire(timeout=PATIENCE)
    assert not started.acquire(blocking=False)


def test_python_migrates_the_table_and_both_go_on(migrating: tuple[Ruby, str, Database]) -> None:
    ruby, dsn, database = migrating
    ruby("Que.migrate!(version: 3)")
    insert(database, job_class="Note", args='["old"]')
    qg.migrate(dsn, 7)
    assert ruby("Que.db_version") == 7
    ruby(f'start("default", poll: {OFTEN}); Note.enqueue("new"); nil')
    eventually(lambda: database.count() == 0)
    assert sorted(each["args"] for each in ruby.ran) == [["new"], ["old"]]
    ruby('LOCKERS.pop.stop!; Note.enqueue("newest"); nil')
    qg.migrate(dsn, 3)
    worked: list[qg.Job] = []
    with qg.Client(dsn) as client:
        assert qg.Worker(client, {"Note": worked.append}).work_one()
    assert [(job.args, job.queue) for job in worked] == [(["newest"], "")]
