"""Creates the tables that the example needs; may be run again."""

from __future__ import annotations

import os
from contextlib import closing

import psycopg2

import qg
from qg import jobs


def create(dsn: str) -> None:
    """Create the tables of the queue, those of qg.jobs, and the application's own."""
    qg.migrate(dsn, notify=True)
    jobs.migrate(dsn)
    with closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cur:
        cur.execute(
            "CREATE TABLE IF NOT EXISTS users "
            "(id serial PRIMARY KEY, name text NOT NULL UNIQUE, greeted boolean NOT NULL DEFAULT false)"
        )


if __name__ == "__main__":
    create(os.environ["DATABASE_URL"])
