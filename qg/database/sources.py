"""Where connections come from, and how they are leased and given back.

A *source* is a DSN, a psycopg2 pool, a SQLAlchemy engine or a callable. Whatever it is, the rest of
qg sees a :class:`Source`: ``lease()`` a connection, use it, call its ``give_back``. qg closes only
what it opened.
"""

from __future__ import annotations

import inspect
import math
import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import psycopg2
import psycopg2.pool
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    connection,
    cursor,
    libpq_version,
    make_dsn,
    parse_dsn,
)

from qg.database.deadline import Deadline
from qg.database.driver import close, commit, is_quiet, plain_cursor, rollback
from qg.errors import ErrUnusable

__all__ = ["Lease", "Source", "connector", "source_from", "transaction"]

# What libpq is told where the DSN says nothing of it, so that a network that has gone silent is noticed
# within a minute and not after TCP's quarter of an hour, or never. A Unix socket takes no notice.
_PATIENCE = {
    "connect_timeout": 10,  # s, for each host
    "keepalives": 1,
    "keepalives_idle": 30,  # s
    "keepalives_interval": 10,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}

# Connections an owned source keeps open between leases; what comes back beyond that is closed.
_MAX_IDLE = 16

# The share of its lifetime after which a connection is replaced. Not the same for all, so that those which were
# opened together aren't all opened anew together.
_REPLACED_AFTER = (0.9, 1.0)


@dataclass(frozen=True)
class Lease:
    """A connection that is the holder's alone until it calls ``give_back(reusable)``, once.

    ``reusable`` says whether the connection is idle, free of locks and known to be sound; if it
    is not, the connection is closed instead of being used again. ``own`` says that nobody but qg
    ever uses the connection, so that its settings may stay as qg made them. ``expires_at``, on the
    monotonic clock, says when a worker that holds it is to replace it by another one.
    """

    conn: connection
    give_back: Callable[[bool], None]
    own: bool
    expires_at: float


class Source(Protocol):
    """What leases connections. Safe to use from any thread."""

    def lease(self) -> Lease:
        """Lease a connection that isn't known to be dead."""

    def spare(self) -> int | None:
        """How many connections could be leased now without waiting; None where nobody knows."""

    def close(self) -> None:
        """Close the connections that this source opened and nobody leases."""


def source_from(source: object, max_lifetime: float | None = None, name: str = "qg") -> Source:
    """Return the :class:`Source` for what a caller gave as *source*; opens nothing yet.

    Args:
        source: as in :class:`qg.Client`.
        max_lifetime: seconds after which a connection expires; None means never. What counts is when qg
            opened it, or first had it from a pool.
        name: what pg_stat_activity shows as the application_name of a connection that qg opens from a DSN, unless
            that or PGAPPNAME says otherwise.

    Raises:
        ErrUnusable: if *source* is none of the kinds that qg knows.
    """
    if isinstance(source, str):
        return _Owned(connector(source, name), max_lifetime)
    if isinstance(source, connection):
        raise ErrUnusable(
            "a single connection can't be a source, since every locked job owns one; "
            "give its DSN, a pool or a callable that opens connections"
        )
    if any(inspect.iscoroutinefunction(each) for each in (source, getattr(source, "getconn", None))):
        raise ErrUnusable(
            f"a source can't be awaited, as {type(source).__name__} is; give the DSN, and qg connects by psycopg2"
        )
    if hasattr(source, "getconn") and hasattr(source, "putconn"):
        return _Pool(source, max_lifetime)
    if hasattr(source, "sync_engine"):
        raise ErrUnusable(
            "an AsyncEngine can't be a source, since qg connects by psycopg2; give its DSN: "
            'engine.url.set(drivername="postgresql").render_as_string(hide_password=False)'
        )
    if hasattr(source, "raw_connection") and hasattr(source, "dialect"):
        return _SQLAlchemyEngine(source, max_lifetime)
    if callable(source):
        return _Owned(source, max_lifetime)
    raise ErrUnusable(
        f"a source can't be of type {type(source).__name__}; give a DSN or postgresql:// URL, a psycopg2 "
        "pool, a SQLAlchemy engine, or a callable that returns a new psycopg2 connection"
    )


# Advisory locks let the session that has one take it again, so a connection in two hands would
# hand one job out twice.
_leased: weakref.WeakSet[connection] = weakref.WeakSet()

# Since when each connection is known, and after which share of its lifetime it is to be replaced.
_known: weakref.WeakKeyDictionary[connection, tuple[float, float]] = weakref.WeakKeyDictionary()


def _expiry(conn: connection, max_lifetime: float | None) -> float:
    """Return when *conn* expires, on the monotonic clock."""
    if max_lifetime is None:
        return math.inf
    since, share = _known.setdefault(conn, (time.monotonic(), random.uniform(*_REPLACED_AFTER)))  # noqa: S311 - no secret
    return since + share * max_lifetime


def _accept(conn: object, origin: object) -> connection:
    """Return what *origin* gave if it is a psycopg2 connection in nobody's hands; does nothing with it."""
    if not isinstance(conn, connection):
        raise ErrUnusable(
            f"the source {type(origin).__name__} gave an object of type {type(conn).__module__}."
            f"{type(conn).__name__} instead of a psycopg2 connection; give a source of psycopg2 connections"
        )
    if conn in _leased:
        raise ErrUnusable(
            "the source gave a connection that it gave before and hasn't got back; "
            "make it open a new one each time, or give its DSN"
        )
    return conn


def _lease(
    conn: connection, give_back: Callable[[bool], None], max_lifetime: float | None, *, own: bool = False
) -> Lease:
    _leased.add(conn)
    process = os.getpid()

    def return_it(reusable: bool) -> None:
        _leased.discard(conn)
        # In a process forked meanwhile it is the parent's still, and closing it here would end it there.
        if process == os.getpid():
            give_back(reusable)

    return Lease(conn, return_it, own, _expiry(conn, max_lifetime))


@contextmanager
def transaction(source: Source, deadline: float | None = None) -> Iterator[cursor]:
    """Lease a connection for one transaction; what the block doesn't commit is rolled back.

    Args:
        source: what leases it.
        deadline: how many seconds the block may take; None means any time. Then the connection is shut down.
    """
    lease = source.lease()
    conn, autocommit = lease.conn, lease.conn.autocommit
    try:
        with Deadline(conn, deadline):
            conn.autocommit = False
            with plain_cursor(conn) as cur:
                yield cur
            conn.rollback()
            conn.autocommit = autocommit
    except BaseException:
        lease.give_back(False)
        raise
    lease.give_back(True)


def connector(dsn: str, name: str) -> Callable[[], connection]:
    """Return what opens connections as a source from *dsn* does.

    Args:
        dsn: a libpq DSN or a URL.
        name: as in source_from().

    Raises:
        ErrUnusable: if *dsn* is none.
    """
    # No message here may repeat the string, or a part of it: it can hold a password.
    try:
        parts = parse_dsn(dsn)
    except UnicodeError:  # it holds lone surrogates, which is how Python reads such bytes of a command line
        raise ErrUnusable("the source string isn't UTF-8; write it in UTF-8, %XX in a URL too") from None
    except psycopg2.ProgrammingError:
        raise ErrUnusable(
            "the source string is neither a libpq DSN nor a postgresql:// URL; "
            "write it like 'postgresql://user@host/dbname' or 'host=… dbname=…'"
        ) from None
    if "@" in parts.get("host", "")[1:] or not re.fullmatch(r"[\d,]*", parts.get("port", "")):
        raise ErrUnusable(
            "the source URL's host or port can't be right, so its password probably isn't escaped; "
            "write @ : / and # in it as %40 %3A %2F and %23"
        )
    return lambda: psycopg2.connect(_with_patience(dsn, parts, name))


def _with_patience(dsn: str, parts: Mapping[str, str], name: str) -> str:
    """Return *dsn*, whose *parts* are given, with what it doesn't say of _PATIENCE, and the *name* it falls back on.

    A service counts as part of a DSN. Its file is libpq's to read, and what the DSN says counts for more; so
    with a service nothing is added.
    """
    if "service" in parts or "PGSERVICE" in os.environ:
        return dsn
    wanted = {**_PATIENCE, "fallback_application_name": name}
    added = {key: value for key, value in wanted.items() if key not in parts}
    if "PGCONNECT_TIMEOUT" in os.environ:
        added.pop("connect_timeout", None)
    if libpq_version() < 120000:
        added.pop("tcp_user_timeout", None)
    return str(make_dsn(dsn, **added))


class _Owned:
    """Connections that qg opens by a callable, a few of them kept while idle."""

    def __init__(self, connect: Callable[[], Any], max_lifetime: float | None) -> None:
        self._connect = connect
        self._max_lifetime = max_lifetime
        self._begin_in_this_process()

    def _begin_in_this_process(self) -> None:
        self._process = os.getpid()
        self._mutex = threading.Lock()
        self._idle: list[connection] = []
        self._closed = False

    def lease(self) -> Lease:
        if self._process != os.getpid():
            # A fork copied the sockets of the parent. They stay the parent's: psycopg2 drops a
            # connection without a word to the server in a process that didn't open it.
            self._begin_in_this_process()
        while (conn := self._pop()) is not None:
            if is_quiet(conn) and time.monotonic() <= _expiry(conn, self._max_lifetime):
                return self._lease(conn)
            close(conn)
        return self._lease(self._open())

    def _lease(self, conn: connection) -> Lease:
        return _lease(conn, partial(self._take_back, conn), self._max_lifetime, own=True)

    def _pop(self) -> connection | None:
        with self._mutex:
            return self._idle.pop() if self._idle else None

    def _open(self) -> connection:
        conn = _accept(self._connect(), self._connect)
        # Where the callable left a transaction open, the settings it made stay, as it surely meant.
        commit(conn)
        return conn

    def _take_back(self, conn: connection, reusable: bool) -> None:
        if reusable:
            with self._mutex:
                if not self._closed and len(self._idle) < _MAX_IDLE:
                    self._idle.append(conn)
                    return
        close(conn)

    def spare(self) -> None:
        """Unknown: the server may refuse the next one."""

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for conn in idle:
            close(conn)


class _Pool:
    """A pool of the caller's with getconn and putconn, as psycopg2.pool has it."""

    def __init__(self, pool: Any, max_lifetime: float | None) -> None:
        self._pool = pool
        self._max_lifetime = max_lifetime
        # The one pool of psycopg2 that isn't safe between threads; its calls never wait.
        simple = isinstance(pool, psycopg2.pool.SimpleConnectionPool)
        self._mutex: Any = threading.Lock() if simple else nullcontext()

    def lease(self) -> Lease:
        while True:
            with self._mutex:
                conn = self._pool.getconn()
            if not isinstance(conn, connection):
                self._pool.putconn(conn)
            _accept(conn, self._pool)
            if (lease := _lease_if_fit(conn, partial(self._give_back, conn), self._max_lifetime)) is not None:
                return lease

    def _give_back(self, conn: connection, reusable: bool) -> None:
        if not reusable:
            close(conn)
        try:
            with self._mutex:
                # Every pool of this kind throws a closed connection away.
                self._pool.putconn(conn)
        except psycopg2.pool.PoolError:
            # The pool was closed meanwhile and wants nothing back.
            close(conn)

    def spare(self) -> None:
        """Unknown; a pool of psycopg2 says at once when it has none."""

    def close(self) -> None:
        """Nothing: the pool is the caller's."""


class _SQLAlchemyEngine:
    """A SQLAlchemy engine over psycopg2."""

    def __init__(self, engine: Any, max_lifetime: float | None) -> None:
        if engine.dialect.driver != "psycopg2":
            raise ErrUnusable(
                f"an engine over {engine.dialect.name}+{engine.dialect.driver} can't be a source; "
                "create it with a postgresql+psycopg2:// URL"
            )
        self._engine = engine
        self._max_lifetime = max_lifetime

    def lease(self) -> Lease:
        while True:
            proxy = self._engine.raw_connection()
            conn = _accept(proxy.driver_connection, self._engine)
            if (lease := _lease_if_fit(conn, partial(self._give_back, proxy), self._max_lifetime)) is not None:
                return lease

    def _give_back(self, proxy: Any, reusable: bool) -> None:
        if not reusable:
            proxy.invalidate()
        proxy.close()

    def spare(self) -> int | None:
        # SQLAlchemy's QueuePool waits half a minute before it says that it has none, and tells its
        # overflow to nobody; a pool without these attributes has no limit that we know.
        pool = self._engine.pool
        overflow = getattr(pool, "_max_overflow", -1)
        if overflow < 0:
            return None
        return int(pool.size() + overflow - pool.checkedout())

    def close(self) -> None:
        """Nothing: the engine is the caller's."""


def _lease_if_fit(conn: connection, give_back: Callable[[bool], None], max_lifetime: float | None) -> Lease | None:
    """Lease a pool's connection; one that can't be used is given back to be closed, and None returned."""
    try:
        if _is_fit(conn):
            return _lease(conn, give_back, max_lifetime)
    except BaseException:  # Ctrl-C; nobody else would give it back
        give_back(False)
        raise
    give_back(False)
    return None


def _is_fit(conn: connection) -> bool:
    """Whether a pool's connection can be used; rolls back what its last user left open."""
    if not is_quiet(conn):
        return False
    try:
        rollback(conn)
    except psycopg2.Error:
        return False
    return conn.info.transaction_status == TRANSACTION_STATUS_IDLE
