"""A proxy strikes at the messages that commit, and at those that enqueue."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg2
import pytest
from experiment import Experiment, Kind
from proxy import FREEZES, Proxy, Strike
from support import eventually

import qg

INSERT = re.compile(r"\bINSERT INTO\b")
JOBS = 60
STRIKES = 5


@pytest.fixture
def begin_behind_proxy(begin: Callable[..., Experiment]) -> Iterator[Callable[..., tuple[Experiment, Proxy]]]:
    """A function that begins an experiment, and puts a proxy in front of its database."""
    proxies: list[Proxy] = []

    def begin_behind_proxy(*args: object) -> tuple[Experiment, Proxy]:
        experiment = begin(*args)
        proxies.append(Proxy(experiment.queue))
        return experiment, proxies[-1]

    yield begin_behind_proxy
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("strike", [each for each in Strike if each not in FREEZES], ids=lambda strike: strike.name)
def test_no_effect_is_lost_or_doubled_when_a_commit_goes_wrong(
    begin_behind_proxy: Callable[..., tuple[Experiment, Proxy]], strike: Strike, kind: Kind
) -> None:
    experiment, proxy = begin_behind_proxy(strike.value.format("COMMIT"), kind)
    experiment.enqueue(JOBS)
    proxy.strike(strike, every=6, most=STRIKES)
    with experiment.pool(proxy.dsn):
        eventually(lambda: proxy.struck == STRIKES, lambda: f"strike {STRIKES} after {proxy.struck}", timeout=30)
        experiment.enqueue(3)
        experiment.fault_is_over()
        experiment.wait_until_worked()
    experiment.check(faults=STRIKES)


@pytest.mark.parametrize("strike", FREEZES, ids=lambda strike: strike.name)
def test_a_frozen_connection_holds_up_its_own_job_only_and_goes_on_when_it_thaws(
    begin_behind_proxy: Callable[..., tuple[Experiment, Proxy]], strike: Strike, kind: Kind
) -> None:
    experiment, proxy = begin_behind_proxy(strike.value.format("COMMIT"), kind)
    proxy.strike(strike, most=1)
    with experiment.pool(proxy.dsn):
        # Where workers share a session, it is the one of a job's own that is frozen; theirs would hold up all of them.
        experiment.enqueue(1, "Effect" if kind.shared else None)
        eventually(lambda: proxy.frozen == 1, "a frozen connection")
        numbers = set(experiment.enqueue(JOBS)) & experiment.effects_due
        eventually(lambda: numbers <= set(experiment.effects()), "the effects of all other jobs")
        proxy.heal()
        experiment.fault_is_over()
        experiment.enqueue(3)
        experiment.wait_until_worked()
    experiment.check()


@pytest.mark.parametrize("strike", [Strike.SWALLOW, Strike.CUT_BEFORE], ids=lambda strike: strike.name)
def test_to_enqueue_again_after_a_lost_answer_may_store_a_job_twice(
    begin_behind_proxy: Callable[..., tuple[Experiment, Proxy]], strike: Strike
) -> None:
    """What qg doesn't promise: only the caller can know whether two calls mean the same job."""
    experiment, proxy = begin_behind_proxy(f"enqueuing, {strike.value.format('INSERT')}, called again")
    proxy.strike(strike, INSERT, every=3, most=STRIKES)
    wanted = 20
    with qg.Client(proxy.dsn) as client:
        for call in range(1, wanted + 1):
            while True:
                try:
                    client.enqueue(qg.Job("Effect", args=[call]))
                    break
                except psycopg2.OperationalError:
                    continue
    ((rows, calls),) = experiment.query("SELECT count(*), count(DISTINCT args ->> 0) FROM que_jobs")
    assert (proxy.struck, calls) == (STRIKES, wanted)
    assert rows == wanted + (STRIKES if strike is Strike.SWALLOW else 0)
    # Each row is a job of its own from here on.
    numbered = "json_build_array(job_id)" if experiment.version == 3 else "jsonb_build_array(id)"
    experiment.query(f"UPDATE que_jobs SET args = {numbered}")
    experiment.note_enqueued(experiment.next_types(rows))
    with experiment.pool():
        experiment.wait_until_worked()
    experiment.check(note=f"{wanted} calls", faults=STRIKES)
