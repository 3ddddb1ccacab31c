"""A proxy in front of the server that reads the protocol, and strikes at chosen messages."""

from __future__ import annotations

import re
import select
import socket
import threading
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path
from typing import NoReturn

import psycopg2
from psycopg2.extensions import make_dsn
from support import PATIENCE

COMMIT = re.compile(r"\bCOMMIT\b")
_DELAY_SECONDS = 0.1


class Strike(Enum):
    """What is done at a message, or to its answer."""

    CUT_BEFORE = "connection cut before {} arrives"
    CUT_AFTER = "connection cut after {} was sent on"
    SWALLOW = "answer to {} swallowed, connection cut"
    TRUNCATE_MESSAGE = "{} cut off in the middle"
    TRUNCATE_ANSWER = "answer to {} cut off in the middle"
    HALF_CLOSE = "half-closed after {}: the client's writing still arrives"
    HALF_CLOSE_SERVER = "half-closed after {}: the server's answer still arrives"
    DELAY = f"{{}} delayed by {_DELAY_SECONDS} s"
    DELAY_ANSWER = f"answer to {{}} delayed by {_DELAY_SECONDS} s"
    FREEZE_BEFORE = "connection frozen before {} arrives"
    FREEZE_AFTER = "connection frozen after {} was sent on"


FREEZES = (Strike.FREEZE_BEFORE, Strike.FREEZE_AFTER)


class _CutError(Exception):
    """The connection is to be cut at both ends."""


class Proxy:
    """Lets everything through, until it is told to strike.

    Args:
        dsn: of the server; a folder with its socket, or a host.

    Attributes:
        dsn: the way through the proxy.
        struck: how often it has struck.
        frozen: how many connections are frozen now.
    """

    def __init__(self, dsn: str) -> None:
        with closing(psycopg2.connect(dsn)) as probe:
            self._target: tuple[str, int] = (probe.info.host, probe.info.port)
            user = probe.info.user
        self._door = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.dsn = make_dsn(
            dsn,
            host="127.0.0.1",
            port=self._door.getsockname()[1],
            user=user,
            gssencmode="disable",
            sslmode="disable",
        )
        self._mutex = threading.Lock()
        self._strike: Strike | None = None
        self._pattern = COMMIT
        self._every = self._most = self._seen = 0
        self.struck = self.frozen = 0
        self._thaw = threading.Event()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def strike(self, strike: Strike, pattern: re.Pattern[str] = COMMIT, *, every: int = 1, most: int) -> None:
        """Strike at every so many-th message that matches, *most* times."""
        with self._mutex:
            self._strike, self._pattern, self._every, self._most, self._seen = strike, pattern, every, most, 0
            self.struck = 0
            self._thaw.clear()

    def heal(self) -> None:
        """Strike no more, and let frozen connections go on."""
        with self._mutex:
            self._strike = None
        self._thaw.set()

    def close(self) -> None:
        self.heal()
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        with self._mutex:
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            try:
                far = self._reach()
            except OSError:  # the server is down
                near.close()
                continue
            with self._mutex:
                self._ends += [near, far]
            self._start(self._serve, near, far)

    def _reach(self) -> socket.socket:
        host, port = self._target
        if not host.startswith("/"):
            return socket.create_connection(self._target)
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(Path(host, f".s.PGSQL.{port}")))
        return far

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        """Carry a connection, message by message from the client, as it comes from the server."""
        unread = b""
        head = 0  # the first message has no type
        with near, far, suppress(OSError, _CutError):
            while True:
                ready, _, _ = select.select([near, far], [], [])
                if far in ready:
                    near.sendall(_received(far))
                if near in ready:
                    unread += _received(near)
                    while (end := _end_of_message(unread, head)) is not None:
                        message, unread, head = unread[:end], unread[end:], 1
                        self._carry(message, near, far)

    def _carry(self, message: bytes, near: socket.socket, far: socket.socket) -> None:
        strike = self._strike_at(message)
        if strike is None:
            far.sendall(message)
        elif strike is Strike.CUT_BEFORE:
            _cut()
        elif strike is Strike.TRUNCATE_MESSAGE:
            far.sendall(message[: len(message) // 2])
            _cut()
        elif strike is Strike.DELAY:
            self._thaw.wait(_DELAY_SECONDS)
            far.sendall(message)
        elif strike is Strike.FREEZE_BEFORE:
            self._freeze()
            far.sendall(message)
        else:
            far.sendall(message)
            self._strike_after(strike, near, far)

    def _strike_after(self, strike: Strike, near: socket.socket, far: socket.socket) -> None:
        if strike is Strike.CUT_AFTER:
            _cut()
        if strike is Strike.HALF_CLOSE:
            near.shutdown(socket.SHUT_WR)
            while True:
                far.sendall(_received(near))
        if strike is Strike.HALF_CLOSE_SERVER:
            far.shutdown(socket.SHUT_WR)
            while True:
                near.sendall(_received(far))
        if strike is Strike.FREEZE_AFTER:
            select.select([far], [], [])  # the server has done it all
            self._freeze()
            return
        answer = _answer(far)
        if strike is Strike.DELAY_ANSWER:
            self._thaw.wait(_DELAY_SECONDS)
            near.sendall(answer)
            return
        if strike is Strike.TRUNCATE_ANSWER:
            near.sendall(answer[: len(answer) // 2])
        _cut()

    def _strike_at(self, message: bytes) -> Strike | None:
        with self._mutex:
            if self._strike is None or self.struck == self._most or message[:1] != b"Q":
                return None
            if not self._pattern.search(message[5:-1].decode("utf-8", "replace")):
                return None
            self._seen += 1
            if self._seen % self._every:
                return None
            self.struck += 1
            return self._strike

    def _freeze(self) -> None:
        with self._mutex:
            self.frozen += 1
        self._thaw.wait()
        with self._mutex:
            self.frozen -= 1


def _cut() -> NoReturn:
    raise _CutError


def _received(end: socket.socket) -> bytes:
    data = end.recv(65536)
    if not data:
        _cut()
    return data


def _end_of_message(data: bytes, head: int) -> int | None:
    """Where the first message of *data* ends; None if it isn't all there. Its length counts itself, not its type."""
    if len(data) < head + 4:
        return None
    end = head + int.from_bytes(data[head : head + 4], "big")
    return end if len(data) >= end else None


def _answer(far: socket.socket) -> bytes:
    """All that the server says up to that it is ready for the next query."""
    answer = b""
    begin = 0
    while True:
        while (end := _end_of_message(answer[begin:], 1)) is not None:
            if answer[begin : begin + 1] == b"Z":
                return answer
            begin += end
        answer += _received(far)
