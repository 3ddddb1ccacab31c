"""What taking jobs in one message each costs: messages and statements a job."""

from __future__ import annotations

import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from support import SUFFIX, UNNAMED, VERSION, Database, Network, UntilEmpty
from taking import all_written, do_nothing, each_batch_size, fail, fill, kinds, write

import qg

pytestmark = pytest.mark.usefixtures("written")


def test_a_job_costs_one_message_that_finishes_it_and_takes_the_next(
    counted: qg.Client, network: Network, database: Database
) -> None:
    fill(database, 20)
    worked: list[int] = []
    UntilEmpty(counted, {"MyJob": lambda job: worked.append(job.id)}).work()
    assert worked == list(range(1, 21))
    assert kinds(network) == ["take"] + ["delete jobs+take"] * 20
    text = "".join(network.statements)
    assert (text.count("BEGIN"), text.count("COMMIT"), text.count("que_delete_jobs")) == (20, 20, 20)
    assert sum(each.startswith("BEGIN;EXECUTE que_delete_jobs(") for each in network.statements) == 20


@pytest.mark.parametrize(("count", "size"), [(20, 5), (20, 7), (3, 10), (10, 10)])
def test_a_batch_costs_one_message(
    counted: qg.Client, network: Network, database: Database, no_hurry: None, count: int, size: int
) -> None:
    fill(database, count)
    worked: list[int] = []
    UntilEmpty(counted, {"MyJob": lambda job: worked.append(job.id)}, batch_size=size).work()
    assert worked == list(range(1, count + 1))
    assert kinds(network) == ["take"] + ["delete jobs+take"] * -(-count // size)


def test_an_empty_queue_costs_one_message(counted: qg.Client, network: Network) -> None:
    UntilEmpty(counted, {}).work()
    assert kinds(network) == ["take"]


def test_where_there_are_lockers_a_worker_costs_two_messages_more_however_many_jobs_it_works(
    counted: qg.Client, network: Network, database: Database
) -> None:
    fill(database, 5)
    UntilEmpty(counted, {"MyJob": do_nothing}).work()
    begin, end = ([], []) if VERSION == 3 else (["enlist+leave"], ["leave"])
    assert kinds(network, lockers=True) == [*begin, "take", *["delete jobs+take"] * 5, *end]


@each_batch_size
def test_a_job_that_writes_costs_what_it_writes_its_deletion_and_a_commit(
    counted: qg.Client, network: Network, database: Database, batch_size: int
) -> None:
    fill(database, 1)
    UntilEmpty(counted, {"MyJob": write}, batch_size=batch_size).work()
    assert kinds(network) == ["take", "BEGIN", "write", "delete", "COMMIT", "take"]
    assert all_written(database) == [1]


def test_a_job_that_fails_costs_its_record_and_an_unlock(
    counted: qg.Client, network: Network, database: Database
) -> None:
    fill(database, 1)
    UntilEmpty(counted, {"MyJob": fail}).work()
    assert kinds(network) == ["take", "set error", "unlock", "take"]


def test_a_job_locked_by_hand_costs_a_message_a_step(counted: qg.Client, network: Network, database: Database) -> None:
    fill(database, 1)
    job = counted.lock_job()
    assert kinds(network) == ["take"]
    job.delete()
    destroy_job = f"EXECUTE que_destroy_job{SUFFIX}('{UNNAMED}', 100, '2020-01-01T00:00:00+00:00', 1)"
    assert kinds(network) == ["take", destroy_job]
    job.done()
    assert kinds(network)[2:] == ["unlock"]


def test_to_enqueue_costs_one_message(counted: qg.Client, network: Network) -> None:
    assert counted.enqueue(qg.Job("MyJob")).id == 1
    assert kinds(network) == ["insert"]


def test_to_enqueue_ten_thousand_costs_one_message_and_their_ids_are_in_order(
    counted: qg.Client, network: Network, database: Database
) -> None:
    jobs = counted.enqueue_batch(qg.Job("MyJob", [number]) for number in range(10_000))
    assert kinds(network) == ["insert"]
    assert [(job.id, job.args) for job in jobs] == [(number + 1, [number]) for number in range(10_000)]
    assert database.value("SELECT bool_and((args ->> 0)::bigint = job_id - 1) FROM jobs")


def test_by_hand_the_use_of_the_connection_costs_no_message_more(network: Network, database: Database) -> None:
    fill(database, 2)
    with qg.Client(network.dsn) as client:
        client.lock_job().done()
        for used in (False, True):
            network.statements.clear()
            with client.lock_job() as job:
                if used:
                    assert job.conn.info.transaction_status == TRANSACTION_STATUS_IDLE
                job.delete()
            assert len(network.statements) == 3, network.statements  # lock, delete, unlock
