"""Acting: what can be done to jobs from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from qg.backoff import MAX_SECONDS
from qg.control.acting import Action, act, checked_ids
from qg.control.base import Base
from qg.control.filters import Filter
from qg.control.options import checked_flag
from qg.control.records import State
from qg.control.reports import Report
from qg.errors import ErrInvalidOption
from qg.failures import printable
from qg.tables import iso_text
from qg.tables.rights import to_act

__all__ = ["Acting"]

_UNCHANGED = "the jobs stay as they are"
_TO_BE_DONE = (State.READY, State.SCHEDULED, State.FAILING)


class Acting(Base):
    """The part of :class:`qg.control.Control` that changes jobs."""

    def retry(
        self,
        what: Filter | Iterable[int] | int,
        *,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Run jobs again at once that have failed, or were given up; as if they hadn't failed.

        What all actions have in common: they go on in batches of 500, each under the locks of its jobs, committed
        before they are unlocked. A job that is being worked is left alone, and so is one that doesn't fit any more.

        Args:
            what: ids, or a Filter. One that says nothing is refused; :class:`Filter` has ``everything=True``.
            by: who does it, instead of the one that the Control was made with.
            dry_run: only look what would be done.
            progress: is called after each batch, with the report so far.

        Raises:
            ErrInvalidOption: if an argument is out of bounds; nothing is changed then.
            ErrUnknownQueue: if the filter names a queue that nobody knows.
            ErrPooler: if a pooler in between pools transactions, so that no lock can be held.
            ErrAgain: if the table was migrated meanwhile.
        """
        action = Action("retry", lambda acts: acts.retry, states=(State.FAILING, State.EXPIRED), wakes=True)
        return self._act(action, what, by, dry_run, progress)

    def run_now(
        self,
        what: Filter | Iterable[int] | int,
        *,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Let jobs be due at once that aren't yet; how often they have failed stays as it is. As retry()."""
        action = Action("run_now", lambda acts: acts.run_now, states=_TO_BE_DONE, ahead=True, wakes=True)
        return self._act(action, what, by, dry_run, progress)

    def delete(
        self,
        what: Filter | Iterable[int] | int,
        *,
        cancel: bool = False,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Delete jobs, whatever their state. As retry().

        Args:
            what: ids, or a Filter.
            cancel: delete those that are being worked, too. Their handlers aren't interrupted; what they write through
                ``job.tx`` isn't committed, and ``job.lost`` is true where their process listens.
            by: who does it.
            dry_run: only look what would be done.
            progress: is called after each batch.
        """
        action = Action("delete", lambda acts: acts.delete, cancels=checked_flag("cancel", cancel))
        return self._act(action, what, by, dry_run, progress)

    def expire(
        self,
        what: Filter | Iterable[int] | int,
        *,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Give jobs up: they stay in the table, and nobody works them until somebody calls retry(). As retry()."""
        message = f"given up by {self._name(by)}"
        action = Action("expire", lambda acts: acts.expire, (message,), states=_TO_BE_DONE)
        return self._act(action, what, by, dry_run, progress)

    def reschedule(
        self,
        what: Filter | Iterable[int] | int,
        *,
        at: datetime | None = None,
        after: timedelta | None = None,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Let jobs that are to be done be due *at* a time, or *after* so long by the database's clock. As retry()."""
        if (at is None) == (after is None):
            raise ErrInvalidOption("reschedule takes either at= or after=; give exactly one")
        if at is not None and not (isinstance(at, datetime) and at.utcoffset() is not None):
            raise ErrInvalidOption(f"at={at!r} is no aware datetime; give one with a time zone")
        seconds = None
        if after is not None:
            if not (isinstance(after, timedelta) and timedelta(0) <= after <= timedelta(seconds=MAX_SECONDS)):
                raise ErrInvalidOption(f"after must be a timedelta of 0 to a hundred years, not {after!r}")
            seconds = after.total_seconds()
        params = (None if at is None else iso_text(at), seconds)
        action = Action("reschedule", lambda acts: acts.reschedule, params, states=_TO_BE_DONE, wakes=True)
        return self._act(action, what, by, dry_run, progress)

    def set_priority(
        self,
        what: Filter | Iterable[int] | int,
        priority: int,
        *,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Set the priority of jobs that are to be done; lower runs first, from -32768 to 32767. As retry()."""
        if isinstance(priority, bool) or not isinstance(priority, int) or not -32768 <= priority <= 32767:
            raise ErrInvalidOption(f"priority must be a number from -32768 to 32767, not {priority!r}")
        action = Action("set_priority", lambda acts: acts.set_priority, (priority,), states=_TO_BE_DONE)
        return self._act(action, what, by, dry_run, progress)

    def move(
        self,
        what: Filter | Iterable[int] | int,
        queue: str,
        *,
        even_if_unknown: bool = False,
        by: str | None = None,
        dry_run: bool = False,
        progress: Callable[[Report], None] | None = None,
    ) -> Report:
        """Move jobs that are to be done into another *queue*. As retry().

        Args:
            what: ids, or a Filter.
            queue: where they are to be.
            even_if_unknown: whether that may be a queue that nobody knows yet.
            by: who does it.
            dry_run: only look what would be done.
            progress: is called after each batch.

        Raises:
            ErrUnknownQueue: if nobody knows the queue.
        """
        name = self._known_queue(queue, even_if_unknown=even_if_unknown)
        action = Action("move", lambda acts: acts.move, (name,), states=_TO_BE_DONE, wakes=True)
        return self._act(action, what, by, dry_run, progress)

    def _act(
        self,
        action: Action,
        what: Filter | Iterable[int] | int,
        by: str | None,
        dry_run: bool,
        progress: Callable[[Report], None] | None,
    ) -> Report:
        who, dry_run = self._name(by), checked_flag("dry_run", dry_run)
        meant = what if isinstance(what, Filter) else checked_ids(what)
        if isinstance(meant, Filter) and meant.says_nothing and not meant.everything:
            raise ErrInvalidOption(
                f"a filter that says nothing would {action.name} every job; "
                "give Filter(everything=True) if that is meant"
            )
        so_far = Report.empty(action.name, dry_run=dry_run)

        def note(report: Report) -> None:
            nonlocal so_far
            so_far = report
            if progress is not None:
                progress(report)

        try:
            with self._rights(to_act, lambda: "the other jobs stay as they are" if so_far.count else _UNCHANGED):
                if not isinstance(meant, list) or meant:
                    so_far = act(self._database, action, meant, dry_run=dry_run, progress=note)
            if isinstance(meant, Filter) and meant.queue is not None and not (so_far.count or so_far.left):
                self._known_queue(meant.queue)
            return so_far
        finally:
            if not dry_run:
                self._log(so_far, who, meant)

    def _log(self, report: Report, who: str, meant: Filter | list[int]) -> None:
        if isinstance(meant, Filter):
            what = str(meant)
        else:
            what = f"ids={','.join(map(str, meant[:20]))}{',…' if len(meant) > 20 else ''}"
        self._logger.info(
            "control_%s count=%d left=%d by=%s %s",
            report.action,
            report.count,
            report.left_count,
            printable(who),
            printable(what),
        )
