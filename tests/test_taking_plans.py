"""A plan that was made when the table was empty never reads the whole of it."""

from __future__ import annotations

from contextlib import closing

from support import Database, UntilEmpty, backend_pid, eventually
from taking import do_nothing

import qg


def test_a_plan_from_when_the_table_was_empty_never_reads_the_whole_of_it(make_database) -> None:
    dsn = make_database()
    with closing(Database(dsn)) as database:
        database.query("ALTER TABLE que_jobs SET (autovacuum_enabled = off); ANALYZE que_jobs")

        def scans() -> int:
            eventually(lambda: not database.sessions())
            return database.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'que_jobs'")

        with qg.Client(dsn) as client:
            database.query(
                "INSERT INTO jobs (job_class, run_at) SELECT 'MyJob', '2020-01-01' FROM generate_series(1, 7)"
            )
            for batch_size in (1, 1, 3, 3):
                UntilEmpty(client, {"MyJob": do_nothing}, batch_size=batch_size).work()
            client.enqueue(qg.Job("MyJob"))
            UntilEmpty(client, {"MyJob": do_nothing}, batch_size=3).work()
            pid = backend_pid(client)
            database.query("SELECT pg_stat_force_next_flush()")
            database.query(
                "INSERT INTO jobs (job_class, run_at) SELECT 'MyJob', '2020-01-01' FROM generate_series(1, 20000)"
            )
            before = database.value("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'que_jobs'")
            worked: list[int] = []

            def handler(job: qg.Job) -> None:
                worked.append(job.id)
                if len(worked) % 40 == 0:
                    worker.stop()

            for batch_size in (1, 10):
                worker = UntilEmpty(client, {"MyJob": handler}, batch_size=batch_size)
                worker.work()
            client.lock_job().done()
            assert (len(worked), backend_pid(client)) == (80, pid)
        # The sessions have told what they did, since the beginning, when they ended.
        assert scans() == before
