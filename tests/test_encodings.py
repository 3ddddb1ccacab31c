"""Text that isn't UTF-8: another client_encoding, and rows that PostgreSQL can't give as UTF-8."""

from __future__ import annotations

import logging
from contextlib import closing

import psycopg2
import psycopg2.pool
import pytest
from psycopg2.extensions import make_dsn
from support import ID, VERSION, Database, Network, UntilEmpty, lease, take_plainly

import qg

JAPANESE = "日本語のジョブ – été 🐘"
WAYS = {
    "one by one": {},
    "in batches": {"batch_size": 5},
    "by run_at": {"poll_strategy": qg.PollStrategy.RUN_AT},
    "by run_at in batches": {"batch_size": 3, "poll_strategy": qg.PollStrategy.RUN_AT},
    "of known types": {"only_known_types": True},
}


def in_encoding(encoding: str) -> str:
    return f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII", "utf8"])
def test_any_text_is_stored_and_worked_whatever_the_dsn_says_of_encodings(dsn: str, encoding: str) -> None:
    seen: list[str] = []
    with qg.Client(make_dsn(dsn, client_encoding=encoding)) as client:
        for _ in range(3):
            client.enqueue(qg.Job("MyJob", [JAPANESE]))
        with client.lock_job() as job:
            with job.tx.cursor() as cur:
                cur.execute("SELECT %s", (JAPANESE,))
                assert cur.fetchone() == (JAPANESE,)
            seen.append(job.args[0])
            job.delete()
        UntilEmpty(client, {"MyJob": lambda job: seen.append(job.args[0])}, batch_size=2).work()
    assert seen == [JAPANESE] * 3


def test_a_pools_connection_gets_its_own_encoding_back(dsn: str) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 2, make_dsn(dsn, client_encoding="LATIN1"))
    try:
        with qg.Client(pool) as client:
            client.enqueue(qg.Job("MyJob", [JAPANESE]))
            with client.lock_job() as job:
                assert job.conn.encoding == "UTF8"
                job.delete()
        conn = pool.getconn()
        assert conn.encoding == "LATIN1"
        with conn.cursor() as cur:
            cur.execute("SHOW client_encoding")
            assert cur.fetchone() == ("LATIN1",)
        pool.putconn(conn)
    finally:
        pool.closeall()


def test_to_speak_utf8_costs_one_message_where_something_else_is_spoken(network: Network) -> None:
    for encoding, expected in (("UTF8", []), ("LATIN1", ["SET client_encoding TO 'UTF8'"])):
        with qg.Client(make_dsn(network.dsn, client_encoding=encoding)) as client:
            network.statements.clear()
            for _ in range(3):
                client.enqueue(qg.Job("MyJob"))
            said = [each for each in network.statements if "client_encoding" in each]
            assert said == expected


def enqueue_unreadable(client: qg.Client, database: Database, encoding: str) -> int:
    """Enqueue a job whose args no UTF-8 holds, and return its id."""
    number = client.enqueue(qg.Job("MyJob")).id
    args = {"SQL_ASCII": r"""E'["\xe4"]'""", "WIN1252": r"""E'["\x81"]'"""}[encoding]
    database.query(f"UPDATE que_jobs SET args = {args} WHERE {ID} = {number}")
    return number


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "WIN1252"])
@pytest.mark.parametrize("possible", [True, False], ids=["one message", "plain statements"])
@pytest.mark.parametrize("way", [*WAYS, "by hand"])
def test_a_job_that_no_utf8_holds_fails_and_the_next_ones_are_worked(
    make_database, caplog: pytest.LogCaptureFixture, way: str, possible: bool, encoding: str
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[str] = []
    # jsonb takes no \u00e9 where the database is in SQL_ASCII.
    words = ["ete", "a"] if VERSION > 3 and encoding == "SQL_ASCII" else ["été", "à"]
    with closing(Database(make_database(options=in_encoding(encoding)))) as database:
        with qg.Client(database.dsn) as client:
            take_plainly(client, not possible)
            client.enqueue(qg.Job("MyJob", words[:1]))
            bad = enqueue_unreadable(client, database, encoding)
            client.enqueue(qg.Job("MyJob", words[1:]))
            client.enqueue(qg.Job("MyJob", ["plain"]))
            if way == "by hand":
                while (job := client.lock_job()) is not None:
                    with job:
                        seen.append(job.args[0])
                        job.delete()
            else:
                UntilEmpty(client, {"MyJob": lambda job: seen.append(job.args[0])}, **WAYS[way]).work()
            assert database.locks() == []
        assert seen == [*words, "plain"]
        ((number, error_count, error),) = database.query("SELECT job_id, error_count, last_error FROM jobs")
        assert (number, error_count) == (bad, 1)
        byte = "0x81" if encoding == "WIN1252" else "0xe4"
        assert error.startswith(f"ValueError: the byte {byte} in its args isn't text in the database's encoding")
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert events.count("job_unreadable") == 1
    assert not {"outage_begins", "unlock_failed", "lock_not_ours"} & set(events)


def test_stats_tell_of_types_that_no_utf8_holds(make_database) -> None:
    dsn = make_database(options=in_encoding("SQL_ASCII"))
    with closing(Database(dsn)) as database, qg.Client(dsn) as client:
        client.enqueue(qg.Job("MyJob"))
        database.query(r"UPDATE que_jobs SET job_class = E'\xe4'")
        assert [each.type for each in client.stats()] == ["\udce4"]
        session = lease(client)
        assert session.conn.encoding == "UTF8"
        session.give_back()
