"""Counting round trips: a relay between a client and the server that looks at nothing but who speaks."""

from __future__ import annotations

import selectors
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["RoundTrips", "counted_round_trips"]

_CHUNK = 1 << 16
_SOCKET = ".s.PGSQL"


class RoundTrips:
    """How often a client began to speak after the server had.

    Statements that are sent together are one round trip, and so is one that is sent in parts.
    """

    def __init__(self, listener: socket.socket, host: str, port: str) -> None:
        self.count = 0
        self._listener = listener
        self._host = host
        self._port = port
        self._stop, self._stopper = socket.socketpair()

    def stop(self) -> None:
        """End relay()."""
        self._stopper.close()

    def relay(self) -> None:
        """Pass on what is said, until stop()."""
        spoken_by_server: dict[socket.socket, bool] = {}  # by the client's socket
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stop, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._stop:
                        self._close_all(selector)
                        return
                    if key.fileobj is self._listener:
                        self._accept(selector, spoken_by_server)
                    else:
                        self._pass_on(selector, key, spoken_by_server)

    def _accept(self, selector: selectors.BaseSelector, spoken_by_server: dict[socket.socket, bool]) -> None:
        client, _ = self._listener.accept()
        server = self._connected()
        spoken_by_server[client] = True
        selector.register(client, selectors.EVENT_READ, (server, client))
        selector.register(server, selectors.EVENT_READ, (client, client))

    def _connected(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, int(self._port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{self._host}/{_SOCKET}.{self._port}")
        return server

    def _pass_on(
        self,
        selector: selectors.BaseSelector,
        key: selectors.SelectorKey,
        spoken_by_server: dict[socket.socket, bool],
    ) -> None:
        speaker = key.fileobj
        assert isinstance(speaker, socket.socket)
        listener, client = key.data
        try:
            said = speaker.recv(_CHUNK)
            listener.sendall(said)
        except OSError:
            said = b""
        if not said:
            for end in (speaker, listener):
                with suppress(KeyError, ValueError):
                    selector.unregister(end)
                end.close()
            return
        if speaker is client and spoken_by_server[client]:
            self.count += 1
        spoken_by_server[client] = speaker is not client

    def _close_all(self, selector: selectors.BaseSelector) -> None:
        for key in list(selector.get_map().values()):
            if key.fileobj is not self._listener and isinstance(key.fileobj, socket.socket):
                key.fileobj.close()


@contextmanager
def counted_round_trips(environment: dict[str, str]) -> Iterator[tuple[dict[str, str], RoundTrips]]:
    """Yield an environment in which clients connect to the server by a relay, and what it counts."""
    host, port = environment.get("PGHOST", "localhost"), environment["PGPORT"]
    with tempfile.TemporaryDirectory(prefix="qg-wire-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(folder) / f"{_SOCKET}.{port}"))
        listener.listen(64)
        trips = RoundTrips(listener, host, port)
        thread = threading.Thread(target=trips.relay)
        thread.start()
        try:
            yield {**environment, "PGHOST": folder}, trips
        finally:
            trips.stop()
            thread.join()
