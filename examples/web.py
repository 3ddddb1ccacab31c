"""A web application that stores a user, and the job to greet them, in one transaction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, abort, request
from psycopg2.errors import UniqueViolation
from psycopg2.extensions import connection
from psycopg2.pool import ThreadedConnectionPool
from tasks import GreetUser

from qg import jobs


def create_app() -> Flask:
    """Return the application, on the database in DATABASE_URL."""
    app = Flask(__name__)
    pool = ThreadedConnectionPool(1, 20, os.environ["DATABASE_URL"])
    # It has no functions, so it only enqueues. What opens no transaction gets one from the same pool.
    queue = jobs.PostgresJobs(pool)

    @contextmanager
    def transaction() -> Iterator[connection]:
        conn = pool.getconn()
        try:
            with conn, jobs.transaction(conn):  # commits at its end, or rolls back
                yield conn
        finally:
            pool.putconn(conn)

    @app.post("/users")
    def add_user() -> tuple[dict[str, object], int]:
        try:
            with transaction() as conn, conn.cursor() as cur:
                cur.execute("INSERT INTO users (name) VALUES (%s) RETURNING id", (request.form["name"],))
                ((user_id,),) = cur.fetchall()
                queue.enqueue(GreetUser(user_id))
                if not request.form["name"].strip():
                    abort(400, "a user needs a name")  # and neither the user nor the job is there
        except UniqueViolation:
            abort(409, "there is a user of that name")
        return {"id": user_id}, 201

    @app.get("/users")
    def list_users() -> list[dict[str, object]]:
        with transaction() as conn, conn.cursor() as cur:
            cur.execute("SELECT id, name, greeted FROM users ORDER BY id")
            return [{"id": number, "name": name, "greeted": greeted} for number, name, greeted in cur.fetchall()]

    return app
