"""The disk that the database is on is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest
from experiment import Experiment, Kind
from psycopg2.extensions import make_dsn
from servers import Server
from support import Database, eventually

import qg

pytestmark = pytest.mark.slow

JOBS = 300
SIZE = "32m"
FULL = "DiskFull"


@pytest.fixture
def small_disk(short_path: Path, server: Server, version: int) -> Iterator[str]:
    """The DSN of a database on a disk of its own that holds little more."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a small disk is a tmpfs, which only root can mount, on Linux")
    folder = short_path / f"disk{version}"
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.chown(folder, "embedded_postgres")
        with closing(Database(server.dsn)) as database:
            database.query(f"CREATE TABLESPACE small LOCATION '{folder}'")
            database.query("CREATE DATABASE small TABLESPACE small")
            try:
                dsn = make_dsn(server.dsn, dbname="small")
                qg.migrate(dsn, version)
                yield dsn
            finally:
                database.query("DROP DATABASE small WITH (FORCE)")
                database.query("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_up(experiment: Experiment) -> None:
    """Write until nothing more can be written: no page in any table of the database."""
    # What is rolled back keeps its room until VACUUM.
    experiment.query("CREATE TABLE ballast (x text) WITH (autovacuum_enabled = off)")
    for rows in (100_000, 100, 1):
        with suppress(psycopg2.errors.DiskFull):
            while True:
                experiment.query("INSERT INTO ballast SELECT repeat('x', 500) FROM generate_series(1, %s)", (rows,))


def test_jobs_fail_while_the_disk_is_full_and_are_worked_when_there_is_room(
    begin: Callable[..., Experiment], small_disk: str, caplog: pytest.LogCaptureFixture, kind: Kind
) -> None:
    experiment = begin("disk full, then room again", kind, queue=small_disk)
    # Effects that need more room than there is in the pages of the table.
    experiment.query("ALTER TABLE effects ADD padding text DEFAULT repeat('x', 1900)")
    with experiment.pool(), experiment.observer() as observer:
        experiment.enqueue(10)
        experiment.wait_until_worked()
        observer.query("BEGIN; LOCK TABLE effects IN EXCLUSIVE MODE")
        experiment.enqueue(JOBS)
        fill_up(experiment)
        observer.query("ROLLBACK")
        # First the jobs fail, and can't be marked as failed. The workers then have no room for new sessions' functions.
        eventually(lambda: any(FULL in each.getMessage() for each in caplog.records), timeout=30)
        with pytest.raises(psycopg2.errors.DiskFull):
            while True:
                experiment.enqueue(JOBS)
        experiment.query("DROP TABLE ballast")
        experiment.fault_is_over()
        experiment.enqueue(JOBS)
        experiment.wait_until_worked()
    experiment.check()
