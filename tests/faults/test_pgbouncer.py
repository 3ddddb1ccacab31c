"""Behind PgBouncer, in each of its modes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
from experiment import WORKERS, Experiment, Kind, Left
from pgbouncer import pgbouncer

import qg

JOBS = 200


def test_a_pool_works_behind_a_pooler_of_sessions(begin: Callable[..., Experiment], tmp_path: Path, kind: Kind) -> None:
    experiment = begin("PgBouncer pools sessions", kind)
    experiment.enqueue(JOBS)
    with pgbouncer(experiment.queue, "session", tmp_path, WORKERS + 2) as dsn:
        with experiment.pool(dsn):
            experiment.wait_until_worked()
        # Its sessions stay open for others, with none of our locks.
        with experiment.observer() as observer:
            assert observer.locks() == []
    assert experiment.check().runs == JOBS


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pool_refuses_to_work_behind_a_pooler_that_breaks_locks(
    begin: Callable[..., Experiment], tmp_path: Path, mode: str, kind: Kind
) -> None:
    experiment = begin(f"PgBouncer pools {mode}s", kind)
    experiment.enqueue(JOBS)
    # Even a client is refused behind one that pools statements: it ends a session that begins a transaction.
    error = qg.ErrPooler if mode == "transaction" else psycopg2.OperationalError
    with pgbouncer(experiment.queue, mode, tmp_path, 2) as dsn, pytest.raises(error), experiment.pool(dsn):
        pass
    figures = experiment.count(note="refused")
    assert (figures.runs, figures.left) == (0, Left())


def test_a_client_that_only_enqueues_works_behind_a_pooler_of_transactions(
    begin: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = begin("PgBouncer pools transactions, for a client that only enqueues")

    def enqueue(types: dict[int, str]) -> None:
        with qg.Client(dsn) as client:
            for number, each in types.items():
                client.enqueue(qg.Job(each, args=[number]))
                client.stats()

    with pgbouncer(experiment.queue, "transaction", tmp_path, 2) as dsn, ThreadPoolExecutor(4) as threads:
        shares = []
        for _ in range(4):
            shares.append(experiment.next_types(JOBS // 4))
            experiment.note_enqueued(shares[-1])
        list(threads.map(enqueue, shares))
    with experiment.pool():
        experiment.wait_until_worked()
    assert experiment.check().runs == JOBS
