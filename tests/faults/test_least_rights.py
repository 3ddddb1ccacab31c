"""Roles with the rights that the docs say they need, and no others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from experiment import BATCHES, PASSWORD, Experiment, Kind
from psycopg2.extensions import make_dsn

import qg

POOLS_OF_EVERY_RUN = [BATCHES]

JOBS = 100


def to_work(version: int) -> list[str]:
    lockers = ["SELECT, INSERT, DELETE ON que_lockers"] if version > 3 else []
    return ["USAGE ON SCHEMA public", "SELECT, UPDATE, DELETE ON que_jobs", *lockers]


def to_enqueue(version: int) -> list[str]:
    sequence = "que_jobs_job_id_seq" if version == 3 else "que_jobs_id_seq"
    lockers = ["SELECT ON que_lockers"] if version > 3 else []
    return ["USAGE ON SCHEMA public", "SELECT, INSERT ON que_jobs", f"USAGE ON SEQUENCE {sequence}", *lockers]


@pytest.mark.parametrize("temporary", [True, False], ids=["TEMPORARY", "no TEMPORARY"])
def test_least_rights_are_enough_to_enqueue_and_to_work(
    begin: Callable[..., Experiment], temporary: bool, kind: Kind
) -> None:
    experiment = begin(f"least rights, {'with' if temporary else 'without'} TEMPORARY on the database", kind)
    ((name,),) = experiment.query("SELECT current_database()")
    experiment.query(
        "REVOKE ALL ON SCHEMA public FROM PUBLIC;"
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO PUBLIC"
    )
    with ExitStack() as stack:
        grants = [*to_work(experiment.version), "INSERT ON effects"]
        if temporary:
            grants.append(f"TEMPORARY ON DATABASE {name}")
        worker = stack.enter_context(experiment.role(*grants, options="LOGIN"))
        enqueuer = stack.enter_context(experiment.role(*to_enqueue(experiment.version), options="LOGIN"))
        types = experiment.next_types(JOBS)
        with qg.Client(make_dsn(experiment.queue, user=enqueuer, password=PASSWORD)) as client:
            client.enqueue_batch([qg.Job(each, args=[number]) for number, each in types.items()])
        experiment.note_enqueued(types)
        with experiment.pool(make_dsn(experiment.queue, user=worker, password=PASSWORD)):
            experiment.wait_until_worked()
        assert experiment.check().runs == JOBS
