"""What the tests of qg.control share: jobs of every state on every version, and who else works them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from migrating import insert_locker
from psycopg2.extensions import connection
from support import Database

import qg

__all__ = ["EVERY_VERSION", "OLD_AND_NEW", "Place", "locked_by_others"]

OLD_AND_NEW = (3, 7)
EVERY_VERSION = (3, 4, 5, 6, 7)


class Place(Database):
    """A database with a table of one version."""

    def __init__(self, dsn: str, version: int) -> None:
        super().__init__(dsn)
        self.version = version
        self.id = "job_id" if version == 3 else "id"

    def empty(self) -> None:
        """Leave no job, no pause and no locker."""
        self.query("TRUNCATE que_jobs RESTART IDENTITY; TRUNCATE qg_queues")
        if self.version > 3:
            self.query("TRUNCATE que_lockers")

    def add(self, *, ahead: str = "-1 second", state: str = "ready", error: str = "Oops: no", **values: Any) -> int:
        """Store a job that is due in *ahead*, as whoever works it would leave it in this *state*; return its id."""
        failed = state in ("failing", "expired")
        values = {"job_class": "MyJob", "queue": "mail", "error_count": 5 if failed else 0, **values}
        if failed and self.version == 3:
            values["last_error"] = f"{error}\nfile.py"
        elif failed:
            values |= {"last_error_message": error, "last_error_backtrace": "file.py"}
        if self.version >= 6:
            values.setdefault("job_schema_version", 2)
        when = ahead
        if state == "expired" and self.version == 3:
            when = "3153600000 seconds"
        settled = {"expired": "expired_at", "finished": "finished_at"}.get(state) if self.version > 3 else None
        columns = [*values, "run_at", *([settled] if settled else [])]
        places = ", ".join(["%s"] * len(values)) + ", now() + %s::interval" + (", now()" if settled else "")
        return int(
            self.value(
                f"INSERT INTO que_jobs ({', '.join(columns)}) VALUES ({places}) RETURNING {self.id}",
                (*values.values(), when),
            )
        )

    def row(self, number: int) -> dict[str, Any] | None:
        """All columns of a job; whether its run_at is over, too."""
        found = self.query(f"SELECT to_jsonb(que_jobs), run_at <= now() FROM que_jobs WHERE {self.id} = %s", (number,))
        return {**found[0][0], "due": found[0][1]} if found else None

    def ids(self) -> list[int]:
        return [number for (number,) in self.query(f"SELECT {self.id} FROM que_jobs ORDER BY 1")]

    def register_locker(self, pid: int, **values: Any) -> None:
        """Be in the table of lockers, as one of Ruby's."""
        more = (
            {"job_schema_version": 2} if self.version >= 6 else {"job_schema_version": 1} if self.version == 5 else {}
        )
        insert_locker(self, pid, **{"ruby_pid": 41, "ruby_hostname": "web-2", "queues": ["mail"], **more, **values})


@contextmanager
def locked_by_others(place: Place, *ids: int, name: str = "", registered: bool = True) -> Iterator[connection]:
    """As other programs do it, on a session that qg knows nothing of: Ruby's registers, and Go's doesn't."""
    conn = place.connect()
    conn.autocommit = True
    try:
        with conn.cursor() as cur:
            cur.execute("SELECT set_config('application_name', %s, false)", (name,))
            for number in ids:
                cur.execute("SELECT pg_try_advisory_lock(%s)", (number,))
                assert cur.fetchone() == (True,)
        if registered and place.version > 3:
            place.register_locker(conn.info.backend_pid)
        yield conn
    finally:
        conn.close()


def nothing(job: qg.Job) -> None:
    """A handler."""
