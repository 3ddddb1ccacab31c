"""Actions on jobs: in batches, each under the locks of its jobs, committed before they are unlocked.

A worker that got the lock in between would work a job that is deleted, or take it in a state that it isn't in any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import psycopg2

from qg.control.filters import Filter
from qg.control.listing import Seen, find_by_ids, walk
from qg.control.records import Order, State
from qg.control.reports import Left, Report
from qg.control.sessions import find_holders, find_locks
from qg.database.database import Database
from qg.database.known_table import STALE
from qg.database.rights import require_rights
from qg.database.session import Session
from qg.errors import ErrAgain, ErrInvalidOption
from qg.failures import Logger, one_line
from qg.tables import Statement, Table
from qg.tables.acts import TRY_LOCKS, Acts, acts_on
from qg.tables.locking import UNLOCK_JOBS, array
from qg.tables.pauses import NOTIFY, tell_cancelled
from qg.tables.rights import to_act
from qg.tables.table import GREATEST_ID

__all__ = ["Action", "act", "checked_ids"]

# Each locked job takes room in the server's lock table, which is small by default.
_BATCH = 500
# So many ids fit into a notification.
_TOLD = 300

_UNKNOWN = "there is no such job"
_SETTLED = "it was settled, or deleted, meanwhile"
_WORKED = "somebody worked it just now"
_ROW_LOCKED = "another transaction has locked its row"


@dataclass(frozen=True)
class Action:
    """Something that can be done to jobs.

    Attributes:
        name: what it is called.
        statement: which one of the table's does it.
        params: what that is given besides.
        states: of which jobs; others are left alone.
        ahead: whether jobs that are due are left alone, too.
        wakes: whether the jobs may be due then, so that workers are to be told.
        cancels: whether it is done to jobs that are being worked, too.
    """

    name: str
    statement: Callable[[Acts], Statement]
    params: tuple[object, ...] = ()
    states: tuple[State, ...] = tuple(State)
    ahead: bool = False
    wakes: bool = False
    cancels: bool = False


def checked_ids(ids: object) -> list[int]:
    """Return *ids*, each once.

    Raises:
        ErrInvalidOption: if one of them is no id that a job can have.
    """
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
        ids = [ids]
    checked: dict[int, None] = {}
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, int) or not -GREATEST_ID <= each <= GREATEST_ID:
            raise ErrInvalidOption(f"the id of a job is a number, not {each!r}")
        checked[each] = None
    return list(checked)


def act(
    database: Database,
    action: Action,
    what: Filter | Sequence[int],
    *,
    dry_run: bool,
    progress: Callable[[Report], None],
) -> Report:
    """Do *action* to what is meant, and return what came of it.

    Args:
        database: where the jobs are.
        action: what to do.
        what: to which jobs.
        dry_run: whether only to look what would be done.
        progress: is called after each batch, with the report so far.

    Raises:
        ErrRights: if the role may not do it; nothing is done then.
        ErrAgain: if the table was migrated meanwhile. What is reported until then is done.
        psycopg2.Error: if the database fails. Nothing is left locked, and what is reported until then is done.
    """
    report = Report.empty(action.name, dry_run=dry_run)
    session = database.lease()
    try:
        table = database.on_table(session, lambda table: _reached(session, table))
        try:
            if not dry_run:
                require_rights(session, to_act(table), "the jobs stay as they are")
            for found, missing in _batches(session, table, action, what):
                batch = _Batch(database.logger, session, table, action, what, found)
                batch.left += [Left(each, _UNKNOWN) for each in missing]
                try:
                    batch.look() if dry_run else batch.run()
                finally:  # what is committed is told, whatever fails afterwards
                    report = report.adding([*batch.done, *batch.cancelled], batch.left, batch.cancelled)
                    progress(report)
        except STALE as error:
            if not (session.usable and database.recheck(table, session)):
                raise
            raise ErrAgain(
                f"the table was migrated to version {database.table.version} meanwhile, after {report.count} jobs; "
                "call again for the rest"
            ) from error
    except BaseException:
        # Closing it is what frees every lock, whatever has failed.
        session.close_now()
        raise
    session.give_back()
    return report


def _reached(session: Session, table: Table) -> Table:
    """Return *table* if its statements work. One message."""
    walk(session, table, Filter(), Order.NEXT, "", 1)
    return table


def _batches(
    session: Session, table: Table, action: Action, what: Filter | Sequence[int]
) -> Iterator[tuple[list[Seen], list[int]]]:
    """Yield jobs to do it to, and the ids of those that aren't there."""
    if not isinstance(what, Filter):
        ids = iter(what)
        while batch := list(islice(ids, _BATCH)):
            found = find_by_ids(session, table, batch)
            there = {each.row.id for each in found}
            yield found, [number for number in batch if number not in there]
        return
    if what.state not in (None, *action.states):
        return
    # By id nothing that is done to a job moves it. In version 3 it moves, and may be met again.
    order = Order.NEXT if table.version == 3 else Order.NEWEST
    met: set[int] = set()
    key: str | None = ""
    while key is not None:
        step = walk(session, table, what, order, key, _BATCH, action.states)
        key = step.key
        found = [each for each in step.found if each.row.id not in met]
        if table.version == 3:
            met.update(each.row.id for each in found)
        if found:
            yield found, []


class _Batch:
    """Some jobs that something is done to.

    Attributes:
        done: the ids of those that were changed, or would be; committed.
        cancelled: those of them that somebody was working.
        left: those that were left alone.
    """

    def __init__(
        self,
        logger: Logger,
        session: Session,
        table: Table,
        action: Action,
        what: Filter | Sequence[int],
        found: Sequence[Seen],
    ) -> None:
        self._logger = logger
        self._session = session
        self._table = table
        self._action = action
        self._acts = acts_on(table)
        self._where = what if isinstance(what, Filter) else Filter()
        self._is_filtered = isinstance(what, Filter)
        self._found = {each.row.id: each for each in found}
        self.done: list[int] = []
        self.cancelled: list[int] = []
        self.left: list[Left] = []

    def run(self) -> None:
        """Do it."""
        wanted = [number for number, each in self._found.items() if not self._why_not(each)]
        locked = [number for (number,) in self._session.run(TRY_LOCKS, (array(wanted),))] if wanted else []
        if locked:
            changed = self._change(locked)
            # Whatever was changed is committed by now.
            self.done = [number for number, _ in changed]
            if self._table.version == 3 and len(changed) < len(locked):
                changed += self._change_moved(set(locked).difference(self.done))
                self.done = [number for number, _ in changed]
            self._session.run(UNLOCK_JOBS, (array(locked),))
            if changed and self._action.wakes:
                self._tell(self._acts.wake, self._acts.wake_params(changed))
        held = set(wanted) - set(locked)
        if held and self._action.cancels:
            self._cancel(sorted(held))
            held -= set(self.cancelled)
        others = set(self._found).difference(self.done, held, self.cancelled)
        self.left += self._left_held(held) + self._left_unchanged(others)

    def look(self) -> None:
        """Look what would be done."""
        held = set(find_locks(self._session)) & set(self._found)
        would = [number for number, each in self._found.items() if not self._why_not(each)]
        self.done = [number for number in would if number not in held]
        if self._action.cancels:
            self.cancelled = [number for number in would if number in held]
        else:
            self.left += self._left_held(held & set(would))
        if not self._is_filtered:
            why_not = {number: self._why_not(each) for number, each in self._found.items()}
            self.left += [Left(number, reason) for number, reason in why_not.items() if reason]

    def _change(self, ids: Sequence[int]) -> list[tuple[int, str]]:
        params = self._acts.row_params([self._found[number].row for number in ids])
        given = self._where.params(self._table)
        rows = self._session.run(self._action.statement(self._acts), (*params, *given, *self._action.params))
        return [(number, queue) for number, queue in rows]

    def _change_moved(self, ids: set[int]) -> list[tuple[int, str]]:
        """Change those of *ids* that have failed between the walk and their locks, which gave them other keys."""
        moved = [
            each
            for each in find_by_ids(self._session, self._table, sorted(ids))
            if each.row.key != self._found[each.row.id].row.key and not self._why_not(each)
        ]
        self._found.update((each.row.id, each) for each in moved)
        return self._change([each.row.id for each in moved]) if moved else []

    def _cancel(self, ids: Sequence[int]) -> None:
        """Change jobs that somebody works: what he writes isn't committed then, and he hears of it where he listens."""
        self.cancelled = [number for number, _ in self._change(ids)]
        for first in range(0, len(self.cancelled), _TOLD):
            self._tell(NOTIFY, (tell_cancelled(self._table.schema, self.cancelled[first : first + _TOLD]),))

    def _tell(self, statement: Statement, params: Sequence[object]) -> None:
        """Notify who listens of what is committed; if that fails, workers find it out when they look the next time."""
        try:
            self._session.run(statement, params)
        except psycopg2.Error as error:
            self._logger.warning("not_notified: %s; who listens isn't told of what was changed", one_line(error))

    def _left_held(self, ids: set[int]) -> list[Left]:
        if not ids:
            return []
        locks = {number: pid for number, pid in find_locks(self._session).items() if number in ids}
        holders = find_holders(self._session, self._table, locks)
        return [
            Left(number, f"being worked by {holders[number]}" if number in holders else _WORKED)
            for number in sorted(ids)
        ]

    def _left_unchanged(self, ids: set[int]) -> list[Left]:
        """Return why each of *ids* was left alone although nobody works it."""
        if not ids:
            return []
        if self._is_filtered:  # most of them don't fit any more, or never were what is changed
            wanted = [number for number in sorted(ids) if not self._why_not(self._found[number])]
            if not wanted:
                return []
            params = self._acts.row_params([self._found[number].row for number in wanted])
            given = self._where.params(self._table, self._action.states)
            fit = [number for (number,) in self._session.run(self._acts.fit, (*params, *given))]
            now = find_by_ids(self._session, self._table, fit) if fit else []
            return [Left(each.row.id, _ROW_LOCKED) for each in now if not self._why_not(each)]
        there = {each.row.id: each for each in find_by_ids(self._session, self._table, sorted(ids))}
        left = [Left(number, _SETTLED) for number in sorted(ids) if number not in there]
        return left + [Left(number, self._why_not(each) or _ROW_LOCKED) for number, each in there.items()]

    def _why_not(self, seen: Seen) -> str:
        """Return why nothing is done to a job in this state; "" if something is."""
        if seen.state in self._action.states:
            return "it is due already" if self._action.ahead and seen.due else ""
        if seen.state is State.FINISHED:
            return "it is finished"
        if seen.state is State.EXPIRED:
            return "it has expired; retry it"
        return "it hasn't failed"
