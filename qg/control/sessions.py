"""Who holds which lock, and who works what: the sessions, as the server and the table of lockers show them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from qg.control.records import Holder
from qg.control.standing import WorkerView
from qg.database.session import Session
from qg.tables import Table, timestamp
from qg.tables.looks import LOCKS, looks_at

__all__ = ["find_holders", "find_locks", "find_names", "find_workers", "instant"]

# What sessions of workers are called, before their queue; and how many bytes of a name the server keeps.
_KINDS = ("qg worker", "qg listener")
_LONGEST_NAME = 63
_MOST_QUEUES = 10_000
# Where workers take jobs from, which is where those are that they have locked.
_PAIRS, _HEADS = 500, 15_000


def instant(text: str | None) -> datetime | None:
    """Return a time of the server's as an aware datetime."""
    return None if text is None else timestamp(text)


def find_locks(session: Session) -> dict[int, int]:
    """Return the backend of each advisory lock that could be a job's, by the number that is locked. One message."""
    return dict(session.run(LOCKS))


def find_names(session: Session, table: Table, ids: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Return queue and type of each job with one of *ids* that is there. One message, or two; none for no ids.

    In version 3 of the table most of them are found among the jobs that are taken next. If some aren't, the keys of
    all jobs are read for them.
    """
    wanted, looks = set(ids), looks_at(table)
    found: dict[int, tuple[str, str]] = {}
    if wanted and table.version == 3:
        rows = session.run(looks.names_in_heads, (_PAIRS, _HEADS, list(wanted)))
        found = {number: (queue, job_type) for number, queue, job_type in rows}
        wanted -= set(found)
    if wanted:
        for number, queue, job_type in session.run(looks.names, (list(wanted),)):
            found[number] = queue, job_type
    return found


def find_holders(session: Session, table: Table, locks: Mapping[int, int]) -> dict[int, Holder]:
    """Return who holds each of *locks*. One message; none for no locks."""
    if not locks:
        return {}
    holders = {each.backend_pid: each for each in map(_holder, session.run(looks_at(table).sessions))}
    return {number: holders.get(pid, Holder(pid)) for number, pid in locks.items()}


def find_workers(session: Session, table: Table) -> list[WorkerView]:
    """Return every session that works, or may work, jobs of *table*. Three messages, up to five."""
    rows = session.run(looks_at(table).sessions)
    locks = find_locks(session)
    names = find_names(session, table, locks)
    jobs: defaultdict[int, list[tuple[int, str, str]]] = defaultdict(list)
    others: defaultdict[int, list[int]] = defaultdict(list)
    for number, pid in sorted(locks.items()):
        if number in names:
            jobs[pid].append((number, *names[number]))
        else:
            others[pid].append(number)
    known = _known_queues(session, table) if any(_is_doubtful(row[1] or "") for row in rows) else set()
    return [_worker(row, jobs[row[0]], others[row[0]], known) for row in rows]


def _holder(row: Sequence[Any]) -> Holder:
    pid, name, client, _, _, state_since, *_, process, host, _, _, _ = row
    return Holder(pid, name or "", process, host or client, instant(state_since))


def _worker(
    row: Sequence[Any], jobs: Sequence[tuple[int, str, str]], others: Sequence[int], known: set[str]
) -> WorkerView:
    _, name, _, connected, state, _, transaction, waits_for, blocked_by, statement, process, _, _, listens, queues = row
    is_ours = (name or "").startswith("qg ") or name == "qg"
    if queues is None:
        named = _queue_of(name or "", known)
        queues = sorted({queue for _, queue, _ in jobs}) if named is None else [named]
    return WorkerView(
        holder=_holder(row),
        kind="qg" if is_ours else "other" if process is None else "locker",
        queues=tuple(queues),
        listens=bool(listens) or (name or "").startswith("qg listener"),
        connected_at=instant(connected),
        state=state,
        transaction_since=instant(transaction),
        waits_for=waits_for,
        blocked_by=tuple(blocked_by),
        statement=statement or "",
        jobs=tuple(jobs),
        other_locks=tuple(others),
    )


def _known_queues(session: Session, table: Table) -> set[str]:
    return {"", *(queue for (queue,) in session.run(looks_at(table).queues, (_MOST_QUEUES,)))}


def _queue_of(name: str, known: set[str]) -> str | None:
    """Return the queue that a session of qg's is named after, one of *known* if that is in doubt; None if untold."""
    kind = _kind_of(name)
    if kind is None:
        return None
    if not _is_doubtful(name):
        return name.removeprefix(kind).removeprefix(" ")
    possible = [queue for queue in known if _may_be_called(f"{kind} {queue}".rstrip(), name)]
    return possible[0] if len(possible) == 1 else None


def _kind_of(name: str) -> str | None:
    return next((kind for kind in _KINDS if name == kind or name.startswith(f"{kind} ")), None)


def _is_doubtful(name: str) -> bool:
    """Whether the queue in a session's name may be another one: cut off, written otherwise, or with more behind it."""
    return _kind_of(name) is not None and (
        len(name) >= _LONGEST_NAME or any(each in name for each in ("?", "\\x", " ("))
    )


def _may_be_called(wanted: str, name: str) -> bool:
    """Whether the server shows *name* for a session that was to be called *wanted*, with or without more behind it."""
    for form in ("?", "\\x{:02x}"):  # until version 15, and from 16 on
        shown = "".join(chr(each) if 32 <= each < 127 else form.format(each) for each in wanted.encode())
        if name == shown[:_LONGEST_NAME] or name.startswith(f"{shown} ("[:_LONGEST_NAME]):
            return True
    return False
