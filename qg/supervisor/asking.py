"""Asking: how ``qg health`` finds out whether a worker lives. Imports little, for it runs every few seconds."""

from __future__ import annotations

import json
import os
import socket
import time

from qg.failures import printable

__all__ = ["ask_file", "ask_port"]

# A worker touches its file every second; a machine that is loaded may be late.
STALE_SECONDS = 20.0


def ask_file(path: str, *, live: bool, stale_seconds: float = STALE_SECONDS) -> tuple[bool, str]:
    """Return whether the worker whose health file this is does well, and how it stands, in words.

    Args:
        path: of the file.
        live: whether to ask if it lives, and not if it is ready.
        stale_seconds: how old the file may be.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
            age = time.time() - os.fstat(file.fileno()).st_mtime
    except UnicodeDecodeError:
        return False, f"what is told at {path} is no health of a worker"
    except OSError as error:
        return False, f"no worker has written {path}: {error.strerror or error}"
    if age > stale_seconds:
        return False, f"{path} was written {age:.0f} s ago; the worker has ended, or hangs"
    return _read(text, live, path)


def ask_port(host: str, port: int, *, live: bool, timeout: float = 5.0) -> tuple[bool, str]:
    """Return whether the worker that tells its health there does well, and how it stands, in words."""
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout) as conn:
            path = "/live" if live else "/ready"
            conn.sendall(f"GET {path} HTTP/1.0\r\nHost: {where}\r\n\r\n".encode())
            answer = b""
            while part := conn.recv(65536):
                answer += part
    except OSError as error:
        return False, f"no worker answers at {where}: {error.strerror or error}"
    return _read(answer.partition(b"\r\n\r\n")[2].decode("utf-8", "replace"), live, where)


def _read(text: str, live: bool, where: str) -> tuple[bool, str]:
    try:
        told = json.loads(text)
        good = bool(told["live" if live else "ready"])
        queues = ", ".join(repr(each) for each in told["queues"]) or "nothing yet"
        reasons = "".join(f"; {each}" for each in told["reasons"])
        return good, printable(f"{told['stage']} {queues}, {told['workers']} workers{reasons}")
    except (ValueError, KeyError, TypeError):
        return False, f"what is told at {where} is no health of a worker"
