"""What looking, acting and pausing have in common: a database, who acts, and which right is missing if one is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import psycopg2

from qg.client import Client, engine_of
from qg.control.options import checked_text
from qg.control.pausing import require_queue
from qg.database.database import Database
from qg.database.rights import require_rights
from qg.database.session import Session
from qg.enqueuing.fields import check_queue
from qg.errors import ErrInvalidOption
from qg.failures import Logger
from qg.tables import Table
from qg.tables.rights import Right, to_look

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Base"]

_Result = TypeVar("_Result")


class Base:
    """What has a database; see :class:`qg.control.Control`."""

    def __init__(
        self, source: object, *, by: str | None = None, deadline: float | None = 60.0, logger: Logger | None = None
    ) -> None:
        self._by = checked_text("by", by)
        self._owns_database = not isinstance(source, Client)
        self._database = (
            engine_of(source).database
            if isinstance(source, Client)
            else Database(source, logger or logging.getLogger("qg"), deadline=deadline, name="qg control")
        )
        self._logger = logger or self._database.logger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take nothing more, and close the connections that qg opened. A second call does nothing."""
        if self._owns_database:
            self._database.close()

    def _look(self, find: Callable[[Session, Table], _Result], *, hurries: bool = True) -> _Result:
        """Return what *find* gives; no deadline holds for one that doesn't hurry."""
        with self._rights(to_look, lambda: "not all can be seen"):
            return self._database.run(find, hurries=hurries)

    def _name(self, by: str | None) -> str:
        """Return who acts."""
        name = checked_text("by", by) or self._by
        if name is None:
            with self._database.session() as session:
                name = self._by = str(session.conn.info.user)
        return name

    def _known_queue(self, queue: str, *, even_if_unknown: bool = False) -> str:
        """Return what *queue* is called in the table; raise ErrUnknownQueue if nobody knows it."""
        check_queue(queue)

        def find(session: Session, table: Table) -> str:
            name, longest = table.queue_name(queue), table.longest_queue_name
            if longest is not None and len(name) > longest:
                raise ErrInvalidOption(
                    f"the queue {name!r} is {len(name)} characters long; the table holds {longest} at the most"
                )
            if not even_if_unknown:
                require_queue(session, table, name)
            return name

        return self._look(find)

    @contextmanager
    def _rights(self, needed: Callable[[Table], list[Right]], without: Callable[[], str]) -> Iterator[None]:
        """Say which right is missing if one is, and what is so *without* it, as that is asked for then."""
        try:
            yield
        except psycopg2.errors.InsufficientPrivilege:
            self._database.run(lambda session, table: require_rights(session, needed(table), without()))
            raise
