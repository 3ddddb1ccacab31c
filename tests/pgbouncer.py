"""A PgBouncer in front of the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import make_dsn
from support import eventually, free_port


@contextmanager
def pgbouncer(dsn: str, mode: str, folder: Path, sessions: int) -> Iterator[str]:
    """A way to *dsn* through a PgBouncer that pools in this *mode*, over so many *sessions* with the server."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("there is no pgbouncer; apt-get install pgbouncer")
    with closing(psycopg2.connect(dsn)) as conn:
        info, port = conn.info, free_port()
        target = {"host": info.host, "port": info.port, "user": info.user, "password": info.password}
        dbname = info.dbname
    settings, log = folder / f"{mode}.ini", folder / f"{mode}.log"
    settings.write_text(
        f"[databases]\n* = {' '.join(f'{name}={value}' for name, value in target.items() if value)}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {sessions}\nserver_round_robin = 1\n"
    )
    # PgBouncer refuses to be root. The embedded server's user can read what is in the folder of its socket.
    socket_folder = Path(str(target["host"] or folder))
    user = ["-u", socket_folder.owner()] if os.geteuid() == 0 and socket_folder.is_dir() else []
    with log.open("wb") as output, settings.open("rb") as given:
        process = subprocess.Popen(
            [program, "-q", *user, "/dev/stdin"], stdin=given, stdout=output, stderr=subprocess.STDOUT
        )
    through = make_dsn(host="127.0.0.1", port=port, user="anybody", dbname=dbname, sslmode="disable")

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(psycopg2.OperationalError), closing(psycopg2.connect(through)):
            return True
        return False

    try:
        eventually(answers, "an answer of pgbouncer")
        yield through
    finally:
        process.terminate()
        process.wait()
