"""qg.testing: handlers are tested without a locked job."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

import qg
from qg.testing import inject_job_conn, inject_job_tx


def test_inject_job_conn_gives_the_job_a_connection_and_returns_it() -> None:
    job, conn = qg.Job("MyJob"), MagicMock()
    assert inject_job_conn(job, conn) is job
    assert job.conn is conn
    assert job.tx is None


def test_inject_job_tx_gives_the_job_a_transaction_and_returns_it() -> None:
    job, tx = qg.Job("MyJob"), MagicMock()
    assert inject_job_tx(job, tx) is job
    assert job.tx is tx
    assert job.conn is None


def test_a_handler_that_settles_its_job_can_be_tested() -> None:
    tx = MagicMock()
    job = inject_job_tx(qg.Job("MyJob"), tx)
    with job:
        job.delete()
        job.error("and again")
    assert tx.mock_calls == []
    assert job.tx is None


def test_an_exception_in_the_block_passes_on() -> None:
    with pytest.raises(LookupError), inject_job_tx(qg.Job("MyJob"), MagicMock()):
        raise LookupError


def test_the_protocols_tell_what_fits() -> None:
    def having(*methods: str) -> object:
        return type("Fake", (), {method: lambda self: None for method in methods})()

    assert isinstance(having("cursor"), qg.Queryer)
    assert isinstance(having("cursor", "commit", "rollback"), qg.Txer)
    assert not isinstance(having("cursor"), qg.Txer)
    assert isinstance(having("cursor", "commit", "rollback", "close"), qg.Conner)
    assert not isinstance(having("cursor", "commit", "rollback"), qg.Conner)


def test_a_handler_under_test_may_enqueue_its_own_job_again(client: qg.Client) -> None:
    conn = MagicMock()
    job = inject_job_conn(qg.Job("MyJob"), conn)
    client.enqueue(job)
    assert (job.id, job.conn) == (1, conn)
    job.delete()
