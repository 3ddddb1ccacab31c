"""Surfaces: everywhere that it is told how ``qg work`` stands: HTTP, a file, systemd."""

from __future__ import annotations

import dataclasses
import logging
import time

from qg.failures import printable
from qg.supervisor.health import HealthFile, HealthServer
from qg.supervisor.metrics import metrics_writer
from qg.supervisor.settings import Address
from qg.supervisor.standing import Standing
from qg.supervisor.systemd import Manager

__all__ = ["TICK_SECONDS", "Surfaces"]

TICK_SECONDS = 1.0
"""How often it is told."""

_logger = logging.getLogger("qg")

# Who hasn't told anything for so long hangs.
_SILENT_SECONDS = 30.0
# How much time to ask systemd for while the database is waited for.
_EXTENSION_MICROSECONDS = 30_000_000


class Surfaces:
    """Tells how it stands.

    Args:
        address: where to answer over HTTP; None answers nowhere.
        file: which file to write; None writes none.
        metrics: whether to answer /metrics, too.

    Raises:
        ErrAddress: if nobody can listen at *address*.
        ErrMissingExtra: if metrics are wanted, and prometheus-client isn't installed.
    """

    def __init__(self, address: Address | None, file: str | None, *, metrics: bool) -> None:
        self._standing = Standing()
        self._told_at = time.monotonic()
        writer = metrics_writer() if metrics else None
        self._server = None if address is None else HealthServer(address, self.look, writer)
        if self._server is not None:
            _logger.info("health_told address=%s", printable(self._server.address))
        self._file = None if file is None else HealthFile(file)
        self._manager = Manager()
        self._has_been_ready = False

    @property
    def seconds_until_next(self) -> float:
        """How long to wait until tell() is to be called again."""
        watchdog = self._manager.watchdog_seconds
        return TICK_SECONDS if watchdog is None else min(TICK_SECONDS, watchdog / 3)

    def look(self) -> Standing:
        """Return how it stood last; not live if that was long ago."""
        silent = time.monotonic() - self._told_at
        if silent < _SILENT_SECONDS:
            return self._standing
        return dataclasses.replace(
            self._standing, live=False, ready=False, reasons=(f"its main thread has hung for {silent:.0f} s",)
        )

    def tell(self, standing: Standing) -> None:
        """Tell how it stands now."""
        self._standing, self._told_at = standing, time.monotonic()
        if self._file is not None:
            self._file.write(standing)
        self._has_been_ready = self._has_been_ready or standing.ready
        if not self._has_been_ready and standing.stage != "ending":  # systemd waits for READY=1
            self._manager.tell(EXTEND_TIMEOUT_USEC=str(_EXTENSION_MICROSECONDS))
        elif standing.stage == "ending":
            self._manager.tell_once(STOPPING="1")
        elif standing.ready:
            self._manager.tell_once(READY="1")
        self._manager.tell_once(STATUS=standing.summary)
        if standing.live and self._manager.watchdog_seconds is not None:
            self._manager.tell(WATCHDOG="1")

    def close(self) -> None:
        """Tell nothing more."""
        if self._server is not None:
            self._server.close()
        if self._file is not None:
            self._file.remove()
