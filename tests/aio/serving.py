"""A web application in a process of its own, by uvicorn on localhost."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guides import environment
from psycopg2.extensions import parse_dsn
from support import PATIENCE, eventually, free_port, needs


def url(dsn: str, driver: str = "postgresql") -> str:
    """*dsn* as a URL."""
    given: dict[str, Any] = parse_dsn(dsn)
    query = {"host": given["host"]} if given["host"].startswith("/") else {}
    made = needs("sqlalchemy").URL.create(
        driver,
        username=given.get("user"),
        password=given.get("password"),
        host=None if query else given["host"],
        port=int(given["port"]) if "port" in given else None,
        database=given["dbname"],
        query=query,
    )
    return made.render_as_string(hide_password=False)


@contextmanager
def served(folder: Path, app: str, *options: str, **more: str) -> Iterator[Any]:
    """A httpx.Client for the application; its server ends by SIGTERM, and then must have ended well."""
    httpx, port = needs("httpx"), free_port()
    needs("uvicorn")
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", *options]
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE * 2) as client:

            def answers() -> bool:
                assert server.poll() is None, server.communicate()[0]
                try:
                    client.get("/")
                except httpx.TransportError:
                    return False
                return True

            eventually(answers, timeout=30)
            yield client
        server.send_signal(signal.SIGTERM)
        log, _ = server.communicate(timeout=30)
    finally:
        server.kill()
        server.communicate()
    assert log == "", log
