"""What others have in a schema of the search_path is never called, however well it would fit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone

import psycopg2
import pytest
from planting import plant_in
from support import UntilEmpty, on_versions, take_plainly

import qg


@pytest.fixture
def planted(make_database: Callable[..., str], version: int) -> str:
    """A DSN whose sessions have a schema with all of that in their search_path."""
    return plant_in(make_database(version=version))


@on_versions(3, 4, 5, 7)
def test_no_function_and_no_operator_that_others_have_planted_is_called(
    planted: str, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    if version == 3:
        qg.migrate(planted, notify=True)
    assert qg.schema_version(planted) == version
    with closing(psycopg2.connect(planted)) as conn:
        qg.prepare_statements(conn)
    with qg.Client(planted, backoff=lambda error_count: 3600) as client:
        for tags in ([], ["a"]) if version > 3 else ([],):
            client.enqueue(qg.Job("MyJob", [1], tags=tags))
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")])
        client.enqueue_batch([qg.Job("MyJob"), qg.Job("MyJob")], notify=True)
        with closing(psycopg2.connect(planted)) as conn, conn:
            client.enqueue_in_tx(qg.Job("MyJob"), conn)
            client.enqueue_batch_in_tx([qg.Job("MyJob"), qg.Job("MyJob")], conn)
        assert sum(stats.count for stats in client.stats()) == (9 if version > 3 else 8)
        for plainly in (False, True):
            take_plainly(client, plainly)
            with client.lock_job() as job:
                assert [state.id for state in client.job_states()] == [job.id]
                job.error("first\nsecond")
            with client.lock_job() as job:
                job.delete()
                job.tx.commit()
            client.enqueue(qg.Job("MyJob"))
        handled: list[int] = []

        def handler(job: qg.Job) -> object:
            if job.type == "Failing":
                raise ValueError("no")
            if job.type == "Later":
                raise qg.Reschedule(at=datetime(2100, 1, 1, tzinfo=timezone.utc))
            handled.append(job.id)
            return None

        for strategy in qg.PollStrategy:
            for known in (False, True):
                for batch_size in (1, 3):
                    for plainly in (False, True):
                        take_plainly(client, plainly)
                        kinds = ["MyJob", "Failing", "MyJob", "Later", "MyJob", "MyJob"]
                        client.enqueue_batch([qg.Job(kind) for kind in kinds])
                        handled.clear()
                        UntilEmpty(
                            client,
                            dict.fromkeys(kinds, handler),
                            poll_strategy=strategy,
                            only_known_types=known,
                            batch_size=batch_size,
                        ).work()
                        assert len(handled) >= 4
        take_plainly(client, False)
        done = threading.Event()
        with qg.WorkerPool(client, {"MyJob": lambda job: done.set()}, 2, interval=3600):
            client.enqueue(qg.Job("MyJob"))
            assert done.wait(10)
        assert [stats.count for stats in client.stats() if stats.type == "MyJob"] == [2]
    assert "called evil" not in caplog.text
    assert "not_listening" not in caplog.text
    assert "plainly" not in caplog.text
