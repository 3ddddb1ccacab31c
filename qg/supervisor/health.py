"""Health: what a worker tells those who ask: over HTTP, and in a file for those who can't ask over the network."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from qg.errors import QgError
from qg.failures import printable
from qg.supervisor.settings import Address
from qg.supervisor.standing import Standing

__all__ = ["ErrAddress", "HealthFile", "HealthServer"]

_logger = logging.getLogger("qg")

# How long somebody may take to ask, and to read the answer, in all; and how many may do so at once.
_PATIENCE_SECONDS = 5.0
_MOST_ASKING = 32
# How long close() may take.
_POLL_SECONDS = 0.2


class ErrAddress(QgError):
    """Health can't be told at this address: somebody else listens there, or it is none of this machine."""


class HealthServer:
    """Answers /live, /ready and /metrics, each in a thread of its own.

    Args:
        address: where to listen.
        look: tells how it stands; called in those threads.
        metrics: writes that as metrics, with their content type; None where there are none.

    Attributes:
        address: where it listens.

    Raises:
        ErrAddress: if it can't listen there.
    """

    def __init__(
        self, address: Address, look: Callable[[], Standing], metrics: Callable[[Standing], tuple[bytes, str]] | None
    ) -> None:
        def answer(path: str) -> tuple[int, str, bytes]:
            if path == "/metrics" and metrics is not None:
                text, kind = metrics(look())
                return HTTPStatus.OK, kind, text
            if path in ("/live", "/ready"):
                standing = look()
                good = standing.live if path == "/live" else standing.ready
                return (HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE), "application/json", _told(standing)
            paths = "/live, /ready" if metrics is None else "/live, /ready, /metrics"
            return HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there is nothing here but {paths}\n".encode()

        try:
            self._server = _Server(address, answer)
        except (OSError, OverflowError) as error:
            raise ErrAddress(
                f"health can't be told at {address}: {getattr(error, 'strerror', None) or error}; "
                "give --health-port another port or address"
            ) from error
        self.address = Address(address.host, int(self._server.server_address[1]))
        threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="qg-health", daemon=True
        ).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Elsewhere than on POSIX this lets two listen at one address.
    allow_reuse_address = os.name == "posix"

    def __init__(self, address: Address, answer: Callable[[str], tuple[int, str, bytes]]) -> None:
        self.answer = answer
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        self.address_family = family
        # Who asks, until when; both of the thread that accepts, and of those that answer.
        self._asking: dict[socket.socket, float] = {}
        super().__init__((address.host, address.port), _Request)

    def verify_request(self, request: Any, client_address: object) -> bool:
        """Whether there is room for one more who asks."""
        if len(self._asking) >= _MOST_ASKING:
            return False
        self._asking[request] = time.monotonic() + _PATIENCE_SECONDS
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close the connection."""
        self._asking.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End the connections of those who are too slow. Called several times a second."""
        now = time.monotonic()
        for request, deadline in list(self._asking.items()):
            if now >= deadline:
                with suppress(OSError):  # it has ended meanwhile
                    request.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        """Bind, without the look at the name server that HTTPServer takes."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what is no trouble with the connection: whoever has asked may have gone, or have been too slow."""
        if not isinstance(sys.exc_info()[1], OSError):
            _logger.exception("health_failed")


class _Request(BaseHTTPRequestHandler):
    timeout = _PATIENCE_SECONDS
    server: _Server
    server_version = "qg"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name in the standard library
        """Nothing: somebody asks every few seconds."""

    def _answer(self, *, with_body: bool) -> None:
        try:
            status, kind, body = self.server.answer(self.path.split("?", 1)[0])
        except Exception:
            _logger.exception("health_failed path=%s", printable(self.path))
            status, kind, body = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", b"see the log\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


class HealthFile:
    """A file that says how it stands. That it is alive, its time of modification says.

    What it says is replaced as a whole, when it changes. Between these times only its time is set, which takes no room
    on the disk. If it can't be written, that is logged once, and the work goes on.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._written: bytes | None = None
        self._has_failed = False

    def write(self, standing: Standing) -> None:
        """Let the file say how it stands now."""
        told = _told(standing)
        try:
            if told == self._written:
                os.utime(self._path)
            else:
                self._replace(told)
            if self._has_failed:
                self._has_failed = False
                _logger.warning("health_file_back path=%s", printable(self._path))
        except OSError as error:
            self._written = None
            if not self._has_failed:
                self._has_failed = True
                _logger.error(
                    "health_file_failed path=%s: %s; the work goes on, and the file is tried again",
                    printable(self._path),
                    printable(error.strerror or error),
                )

    def remove(self) -> None:
        """Remove the file: nobody works any more."""
        with suppress(OSError):
            self._path.unlink()

    def _replace(self, told: bytes) -> None:
        new = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        try:
            with new.open("xb") as file:  # never through a link that somebody has put there
                file.write(told)
            new.replace(self._path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        self._written = told


def _told(standing: Standing) -> bytes:
    """Return what is told of health alone, which changes seldom."""
    told = {
        "live": standing.live,
        "ready": standing.ready,
        "reasons": standing.reasons,
        "stage": standing.stage,
        "queues": standing.queues,
        "workers": standing.workers,
        "restarts": standing.restarts,
        "pid": os.getpid(),
    }
    return json.dumps(told).encode() + b"\n"
