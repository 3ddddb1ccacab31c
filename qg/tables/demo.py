"""The one table of ``qg demo``: a row for each file whose words were counted.

It has no key on purpose: a job that ran twice shows as two rows.
"""

from __future__ import annotations

from psycopg2 import sql

__all__ = ["ResultStatements"]


class ResultStatements:
    """The statements on a run's own table *name*."""

    def __init__(self, name: str) -> None:
        table = sql.Identifier(name)
        self.create = sql.SQL("CREATE TABLE {} (file text NOT NULL, words bigint NOT NULL)").format(table)
        self.add = sql.SQL("INSERT INTO {} (file, words) VALUES (%s, %s)").format(table)
        self.all = sql.SQL("SELECT file, words FROM {} ORDER BY words DESC, file").format(table)
        self.drop = sql.SQL("DROP TABLE IF EXISTS {}").format(table)
        # What an interrupted run leaves in its queue.
        self.clear_queue = sql.SQL("DELETE FROM que_jobs WHERE queue = %s")
