"""systemd: what a service tells its manager, as sd_notify(3) has it. Without a manager nothing is told."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["Manager"]


class Manager:
    """The manager that has started this process, if one has. What it is told of, children aren't to tell it."""

    def __init__(self) -> None:
        path = os.environ.pop("NOTIFY_SOCKET", "")
        # A name that begins with @ is an abstract one, whose first byte is 0.
        self._path = "\0" + path[1:] if path.startswith("@") else path
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        is_ours = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdigit() and is_ours else None
        self._said: dict[str, str] = {}

    def tell(self, **fields: str) -> None:
        """Tell *fields*, ``READY="1"`` for instance. If the manager doesn't listen, that is no trouble of ours."""
        if self._path:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.sendto("\n".join(f"{name}={value}" for name, value in fields.items()).encode(), self._path)

    def tell_once(self, **fields: str) -> None:
        """Tell those of *fields* that aren't what was told last."""
        new = {name: value for name, value in fields.items() if self._said.get(name) != value}
        if new:
            self._said.update(new)
            self.tell(**new)
