"""Ctrl-C while a worker works."""

from __future__ import annotations

import logging

import pytest
from support import Database
from taking import all_written, each_batch_size, events, fill, first_lines, write_and_delete

import qg

pytestmark = pytest.mark.usefixtures("written")


@each_batch_size
@pytest.mark.parametrize("use", ["idle", "deleted"])
def test_ctrl_c_finishes_the_finished_jobs_and_frees_the_others_unharmed(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, no_hurry: None, use: str, batch_size: int
) -> None:
    caplog.set_level(logging.INFO)

    def handler(job: qg.Job) -> None:
        if job.id == 3:
            if use == "deleted":
                write_and_delete(job)
            raise KeyboardInterrupt

    fill(database, 8)
    with pytest.raises(KeyboardInterrupt):
        qg.Worker(client, {"MyJob": handler}, batch_size=batch_size).work()
    assert database.locks() == []
    assert first_lines(database) == [(number, 0, None) for number in range(3, 9)]
    assert all_written(database) == []
    assert sorted(events(caplog)) == ["job_worked id=1 type=MyJob", "job_worked id=2 type=MyJob"]
