"""Settings: what ``qg work`` was told, as a parent hands it on to its children."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

__all__ = ["Address", "Settings", "Supervision"]


@dataclass(frozen=True)
class Address:
    """Where the health of a worker is to be asked for.

    Attributes:
        host: a name or an address of this machine.
        port: a TCP port; 0 means any that is free.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Settings:
    """What ``qg work`` was told.

    Attributes:
        app: what to work, as ``"module:name"``.
        dsn: the database, for a work map; "" means that libpq's variables say which.
        queues: the queues to work, for a work map; none means the environment's QUE_QUEUE, or "".
        threads, connections, batch_size, interval: as WorkerPool has them, for a work map; None where nothing was said.
        shutdown_timeout: how many seconds running jobs have to end in.
        max_jobs: after how many jobs the process ends; None means never.
        until_empty: whether the process ends when no job is due.
        tells_metrics: whether the process counts what becomes of jobs.
        looks_at_queues: whether it also looks how the queues stand, for the metrics.
        log_format: "text" or "json".
    """

    app: str
    dsn: str = ""
    queues: tuple[str, ...] = ()
    threads: int | None = None
    connections: int | None = None
    batch_size: int | None = None
    interval: float | None = None
    shutdown_timeout: float = 25.0
    max_jobs: int | None = None
    until_empty: bool = False
    tells_metrics: bool = False
    looks_at_queues: bool = False
    log_format: str = "text"

    def to_json(self) -> str:
        """Return the settings as a line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that to_json() has written."""
        given = json.loads(text)
        return cls(**{**given, "queues": tuple(given["queues"])})


@dataclass(frozen=True)
class Supervision:
    """What is done around the processes that work.

    Attributes:
        processes: how many; None means this one alone, without a parent.
        address: where health is told over HTTP; None means nowhere.
        health_file: where it is written; None means nowhere.
        metrics: whether metrics are told, too.
        reload: whether the processes are replaced when a Python file below the current folder has changed.
    """

    processes: int | None = None
    address: Address | None = None
    health_file: str | None = None
    metrics: bool = False
    reload: bool = False
