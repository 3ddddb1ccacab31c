"""All sessions end under a running pool."""

from __future__ import annotations

from collections.abc import Callable

from experiment import SHARED, Experiment, Kind

import qg

END_ALL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name NOT IN ('ledger', 'observer')
"""
END_LOCKERS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')
"""
TIMES = 20


def test_a_pool_goes_on_after_all_its_sessions_have_ended(begin: Callable[..., Experiment], kind: Kind) -> None:
    experiment = begin("all sessions ended", kind)
    qg.migrate(experiment.queue, experiment.version, notify=True)
    ended = 0
    with experiment.pool(), experiment.observer() as observer:
        for _ in range(TIMES):
            experiment.enqueue(20)
            experiment.wait_for_runs(5)
            ended += observer.value(END_ALL)
            experiment.fault_is_over()
        experiment.enqueue(20)
        experiment.wait_until_worked()
    experiment.check()
    assert ended > TIMES


def test_many_jobs_on_one_session_lose_it_in_mid_flight(begin: Callable[..., Experiment]) -> None:
    """What runs goes on, while others may begin it again: the row is the fence."""
    experiment = begin("the session that holds the locks of 200 running jobs ended", SHARED)
    ended = 0
    # As many transactions at once as there are jobs would leave no connection for the experiment.
    with experiment.pool(count=200, transactions=20), experiment.observer() as observer:
        for _ in range(5):
            experiment.enqueue(400)
            experiment.wait_for_runs(100)
            ended += observer.value(END_LOCKERS)
            experiment.fault_is_over()
        experiment.enqueue(20)
        experiment.wait_until_worked()
    experiment.check()
    assert ended >= 5
