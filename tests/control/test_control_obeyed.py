"""Workers obey: they take nothing of a queue that is paused, and hear that a job was cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from outside import Place
from psycopg2.extensions import make_dsn
from support import Network, eventually, on_versions

import qg
from qg import aio
from qg.client import engine_of
from qg.control import Control
from qg.database.paused import PausedQueues
from qg.database.session import Session
from qg.working.sleepers import Sleepers

every_version = on_versions(3, 4, 5, 6, 7)
old_and_new = on_versions(3, 7)
KINDS: list[dict[str, Any]] = [{}, {"batch_size": 5}, {"connections": 1}]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=["plain", "batch_size=5", "connections=1"])
NEVER = 3600.0


class Gate:
    """A handler that begins, and ends when the gate is open."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.opened = threading.Event()
        self.first = threading.Event()

    def __call__(self, job: qg.Job) -> None:
        self.begun.append(job.id)
        self.first.set()
        assert self.opened.wait(10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always time to look."""
    monkeypatch.setattr("qg.database.paused.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("qg.working.loop.LOOK_SECONDS", 0.02)


def wait_for_looks() -> None:
    """Wait until workers have looked so often for pauses that they would have taken something, if they had wanted."""
    looked: list[bool] = []
    look = PausedQueues.look

    def counted(self: PausedQueues, *given: Any) -> None:
        looked.append(True)
        look(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PausedQueues, "look", counted)
        eventually(lambda: len(looked) > 20)


def notify(place: Place) -> None:
    """Let the table notify."""
    if place.version == 3:
        qg.migrate(place.dsn, notify=True)


@pytest.fixture
def listening(place: Place, control: Control) -> Iterator[Callable[[], bool]]:
    """The table notifies; a function that tells whether somebody listens."""
    notify(place)
    yield lambda: any(each.listens for each in control.workers())
    if place.version == 3:
        place.query("DROP TRIGGER qg_notify ON que_jobs")


@every_version
@each_kind
def test_workers_take_nothing_of_a_paused_queue_and_go_on_when_it_is_resumed(
    place: Place, control: Control, client: qg.Client, kind: dict[str, Any], no_wait: None
) -> None:
    control.pause("mail", even_if_unknown=True)
    mail, other = place.add(), place.add(queue="other")
    done: list[int] = []
    work_map = {"MyJob": lambda job: done.append(job.id)}
    with (
        qg.WorkerPool(client, work_map, 2, queue="mail", interval=0.02, **kind),
        qg.WorkerPool(client, work_map, 1, queue="other", interval=0.02, **kind),
    ):
        eventually(lambda: done == [other])
        more = place.add()
        wait_for_looks()
        assert (done, place.locks()) == ([other], [])
        assert control.resume("mail")
        eventually(lambda: sorted(done) == sorted([mail, more, other]))
        eventually(lambda: place.ids() == [])


@old_and_new
@each_kind
def test_what_runs_when_its_queue_is_paused_ends_and_what_waits_is_let_go(
    place: Place, control: Control, client: qg.Client, gate: Gate, kind: dict[str, Any], no_wait: None
) -> None:
    ids = [place.add(ahead=f"-{count} seconds") for count in range(6, 0, -1)]
    with qg.WorkerPool(client, {"MyJob": gate}, 1, queue="mail", interval=0.02, **kind):
        assert gate.first.wait(10)
        control.pause("mail")
        gate.opened.set()
        eventually(lambda: place.locks() == [])
        wait_for_looks()
        eventually(lambda: len(place.ids()) == 6 - len(gate.begun))
        left = place.ids()
        assert ids[0] not in left
        wait_for_looks()
        assert place.ids() == left
        assert left
        control.resume("mail")
        eventually(lambda: place.ids() == [])


@every_version
def test_a_pool_that_listens_obeys_at_once(
    place: Place, control: Control, client: qg.Client, listening: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.database.paused.LOOK_SECONDS", NEVER)
    monkeypatch.setattr("qg.working.loop.LOOK_SECONDS", NEVER)
    done: list[int] = []
    with qg.WorkerPool(client, {"MyJob": lambda job: done.append(job.id)}, 1, queue="mail", interval=NEVER):
        eventually(listening)
        first = place.add()
        eventually(lambda: done == [first])
        seen: list[bool] = []  # each time that the worker wanted to take something
        has = PausedQueues.has
        monkeypatch.setattr(PausedQueues, "has", lambda *given: has(*given) and not seen.append(True))
        control.pause("mail")
        eventually(lambda: seen)
        before = len(seen)
        second = place.add()
        eventually(lambda: len(seen) > before)  # it is woken for it
        assert done == [first]
        control.resume("mail")
        eventually(lambda: done == [first, second])


@old_and_new
def test_a_worker_by_itself_obeys_too(place: Place, control: Control, client: qg.Client, no_wait: None) -> None:
    place.add()
    done: list[int] = []
    worker = qg.Worker(client, {"MyJob": lambda job: done.append(job.id)}, queue="mail", interval=0.02)
    control.pause("mail")
    assert not worker.work_one()
    thread = threading.Thread(target=worker.work)
    thread.start()
    eventually(lambda: any(each.holder.name == "qg worker mail" for each in control.workers()) or not thread.is_alive())
    assert done == []
    control.resume("mail")
    eventually(lambda: len(done) == 1)
    assert worker.shutdown(10)
    thread.join(10)
    place.add()
    assert worker.work_one()
    assert len(done) == 2


def test_whoever_locks_by_hand_isnt_kept_from_it(place: Place, control: Control, client: qg.Client) -> None:
    place.add()
    control.pause("mail")
    with client.lock_job("mail") as job:
        job.delete()


def test_a_pool_that_starts_on_a_paused_queue_takes_nothing_with_any_of_its_workers(
    place: Place, control: Control, client: qg.Client, gate: Gate
) -> None:
    """All of them want to know it at once, and one looks."""
    for _ in range(8):
        place.add()
    control.pause("mail")
    for kind in KINDS:
        with qg.WorkerPool(client, {"MyJob": gate}, 4, queue="mail", interval=0.02, **kind) as pool:
            eventually(lambda: sum(each.holder.name == "qg worker mail" for each in control.workers()) >= 1)
            assert pool.shutdown(10)
        assert gate.begun == []


def test_a_busy_pool_looks_once_in_a_while_whatever_the_number_of_its_workers(
    make_database: Callable[..., str],
) -> None:
    place = Place(make_database(version=7), 7)
    network = Network(place.dsn)
    try:
        place.query(
            "INSERT INTO que_jobs (job_class, queue, job_schema_version) "
            "SELECT 'MyJob', 'mail', 2 FROM generate_series(1, 300)"
        )
        began = time.monotonic()
        with (
            qg.Client(network.dsn) as client,
            qg.WorkerPool(client, {"MyJob": lambda job: None}, 4, queue="mail", interval=0.02),
        ):
            eventually(lambda: place.ids() == [])
        looks = [each for each in network.statements if 'FROM "public".qg_queues' in each]
        assert 1 <= len(looks) <= 1 + (time.monotonic() - began) / 1.5 + 1
    finally:
        network.cut()
        place.close()


@pytest.mark.parametrize("kind", KINDS[:2], ids=["plain", "batch_size=5"])
def test_a_job_whose_end_cant_be_written_isnt_taken_again_at_once_because_it_is_time_to_look(
    place: Place, client: qg.Client, kind: dict[str, Any], no_wait: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = threading.Event()
    monkeypatch.setattr(Sleepers, "pause", lambda self, wake_up, seconds: (paused.set(), wake_up.wait(seconds)))
    place.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;"
        "CREATE TRIGGER refuse BEFORE DELETE OR UPDATE ON que_jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    place.add()
    runs: list[int] = []
    try:
        with qg.WorkerPool(client, {"MyJob": lambda job: runs.append(job.id)}, 1, queue="mail", interval=NEVER, **kind):
            eventually(lambda: len(runs) > 1 or paused.is_set())
            assert len(runs) == 1
    finally:
        place.query("DROP FUNCTION refuse CASCADE")


# Cancelling


@every_version
@each_kind
def test_a_job_that_is_cancelled_is_lost_where_its_pool_listens(
    place: Place,
    control: Control,
    client: qg.Client,
    listening: Callable[[], bool],
    kind: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = threading.Event()
    seen: list[object] = []

    def handler(job: qg.Job) -> None:
        seen.append(job.lost)
        begun.set()
        eventually(lambda: job.lost)
        with pytest.raises(qg.ErrLockLost, match="or it was cancelled; stop here"):
            job.check()
        seen.append(job.lost)

    number = place.add()
    with qg.WorkerPool(client, {"MyJob": handler}, 1, queue="mail", interval=NEVER, **kind):
        assert begun.wait(10)
        eventually(listening)
        assert control.delete([number], cancel=True).cancelled == (number,)
        eventually(lambda: seen == [False, True])
        eventually(lambda: f"job_cancelled id={number}: somebody has deleted it" in caplog.text)
        eventually(lambda: "job_gone" in caplog.text)
    assert "job_failed" not in caplog.text


@old_and_new
def test_a_coroutine_whose_job_is_cancelled_is_cancelled(
    place: Place, control: Control, client: qg.Client, listening: Callable[[], bool]
) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def handler(job: qg.Job) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    number = place.add()
    with qg.WorkerPool(client, {"MyJob": handler}, 1, queue="mail", interval=NEVER):
        assert begun.wait(10)
        eventually(listening)
        control.delete([number], cancel=True)
        assert ended.wait(10)
    assert place.ids() == []


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "x",
        "[]",
        "{}",
        "5",
        "null",
        '{"message_type": "x"}',
        '{"message_type": "qg_cancel"}',
        '{"message_type": "qg_cancel", "ids": ["a"]}',
        *(
            f'{{"message_type": "qg_cancel", "schema": "public", "ids": {ids}}}'
            for ids in ("5", '["a"]', "[Infinity]", "[1e999]", "[1.5]", "[true]", "[9223372036854775808]", "[null, {}]")
        ),
        '{"message_type": "qg_cancel", "schema": [], "ids": [1]}',
        '{"message_type": "qg_cancel", "ids": [' + "9" * 5000 + "]}",
        "[" * 7000,
    ],
    ids=range(20),
)
@old_and_new
def test_what_anybody_else_says_on_the_channel_is_left_alone(
    place: Place, control: Control, client: qg.Client, listening: Callable[[], bool], payload: str
) -> None:
    done = threading.Event()
    with qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 1, queue="mail", interval=NEVER):
        pid = eventually(lambda: listener_of(control))
        place.query("SELECT pg_notify('qg_control', %s)", (payload,))
        channel = "qg_jobs" if place.version == 3 else f"que_listener_{pid}"
        for each in (payload, f"{'9' * 5000} mail"):
            place.query("SELECT pg_notify(%s, %s)", (channel, each))
        place.add()
        assert done.wait(10)
        eventually(lambda: place.ids() == [])
        assert listener_of(control) == pid


def listener_of(control: Control) -> int | None:
    """The session that listens."""
    return next((each.holder.backend_pid for each in control.workers() if each.listens), None)


def test_a_job_is_lost_only_if_its_own_row_is_gone(
    place: Place, control: Control, client: qg.Client, listening: Callable[[], bool], gate: Gate
) -> None:
    """Anybody may notify of anything, and another schema has jobs with the same ids."""
    place.query("CREATE SCHEMA tenant")
    other = Place(make_dsn(place.dsn, options="-c search_path=tenant"), place.version)
    jobs: dict[int, qg.Job] = {}

    def handler(job: qg.Job) -> None:
        jobs[job.id] = job
        gate(job)

    try:
        qg.migrate(other.dsn, place.version)
        ids = [place.add(), place.add()]
        with Control(other.dsn) as tenant, qg.WorkerPool(client, {"MyJob": handler}, 2, queue="mail", interval=NEVER):
            eventually(lambda: len(gate.begun) == 2)
            eventually(listening)
            assert other.add() == ids[0]
            assert tenant.delete([ids[0]], cancel=True).cancelled == (ids[0],)
            told = '{"message_type": "qg_cancel", "schema": "public", "ids": [%s]}'
            place.query("SELECT pg_notify('qg_control', %s)", (told % ids[0],))
            assert control.delete([ids[1]], cancel=True).cancelled == (ids[1],)
            eventually(lambda: jobs[ids[1]].lost)
            assert not jobs[ids[0]].lost
            gate.opened.set()
            eventually(lambda: place.ids() == [])
    finally:
        gate.opened.set()
        other.close()
        place.query("DROP SCHEMA tenant CASCADE")


@every_version
@pytest.mark.parametrize("plainly", [False, True])
def test_an_id_that_is_used_again_is_another_job(
    place: Place, client: qg.Client, plainly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = engine_of(client).rows.cancelled
    if plainly:
        monkeypatch.setattr(Session, "takes_plainly", True)
    number = place.add()
    cancelled.note([number, number + 1])
    seen: list[bool] = []
    assert qg.Worker(client, {"MyJob": lambda job: seen.append(job.lost)}, queue="mail").work_one()
    assert seen == [False]
    assert cancelled.has(number + 1)


# Coroutines


@old_and_new
def test_a_pool_of_coroutines_obeys_and_cancels_what_was_cancelled(
    place: Place, control: Control, listening: Callable[[], bool], no_wait: None
) -> None:
    async def work() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def handler(job: aio.Job) -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        async with aio.Client(place.dsn) as client:
            control.pause("mail", even_if_unknown=True)
            number = place.add()
            async with aio.WorkerPool(client, {"MyJob": handler}, 3, queue="mail", interval=0.02):
                await asyncio.to_thread(wait_for_looks)
                assert not begun.is_set()
                await asyncio.to_thread(control.resume, "mail")
                await asyncio.wait_for(begun.wait(), 10)
                await asyncio.to_thread(eventually, listening)
                report = await asyncio.to_thread(control.delete, [number], cancel=True)
                assert report.cancelled == (number,)
                await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(work())
    assert place.ids() == []
