"""Jobs as lines of JSON: read one by one, checked, and stored in batches, all of them or none."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NoReturn

import click
import psycopg2

from qg.cli.endings import Ended
from qg.cli.values import TIME
from qg.client import Client
from qg.database.sources import source_from, transaction
from qg.errors import ErrInvalidJob
from qg.failures import one_line
from qg.job import Job

__all__ = ["Stored", "store_lines"]

_BATCH = 1000
_FIELDS = ("type", "args", "queue", "priority", "run_at", "kwargs", "tags")


@dataclass(frozen=True)
class Stored:
    """What of a file is stored so far.

    Attributes:
        count: how many jobs.
        lines: how many lines were read for them.
        ids: those of the last batch.
    """

    count: int
    lines: int
    ids: tuple[int, ...]


def store_lines(
    source: object, lines: Iterable[bytes], defaults: Mapping[str, Any], progress: Callable[[Stored], None]
) -> Stored:
    """Store a job for each of *lines*, in one transaction, and return what is stored. Empty lines are passed over.

    Holds a thousand lines at a time.

    Args:
        source: the database, as for Client.
        lines: JSON objects with the fields of a job.
        defaults: the fields that a line doesn't have.
        progress: is called after each batch.

    Raises:
        Ended: if a line can't be stored; it says which and why. Nothing is stored then.
        psycopg2.Error: if the database fails. Nothing is stored then.
    """
    stored = Stored(0, 0, ())
    numbered = _jobs(lines, defaults)
    with Client(source) as client, closing(source_from(source)) as origin, transaction(origin) as cur:
        while batch := list(islice(numbered, _BATCH)):
            jobs = [job for _, job in batch]
            try:
                client.enqueue_batch_in_tx(jobs, cur)
            except (ErrInvalidJob, psycopg2.DataError, psycopg2.IntegrityError) as error:
                cur.connection.rollback()
                _name_line(client, cur, batch)
                raise error
            stored = Stored(stored.count + len(jobs), batch[-1][0], tuple(job.id or 0 for job in jobs))
            progress(stored)
        cur.connection.commit()
    return stored


def _jobs(lines: Iterable[bytes], defaults: Mapping[str, Any]) -> Iterator[tuple[int, Job]]:
    """Yield the job of each line, and the number of the line."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, _job(number, line, defaults)


def _job(number: int, line: bytes, defaults: Mapping[str, Any]) -> Job:
    try:
        fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        _refuse(number, "it is nested too deeply")
    except ValueError as error:
        _refuse(number, f"it is no JSON: {error}")
    if not isinstance(fields, dict):
        _refuse(number, 'it is no JSON object; write a job like {"type": "SendMail", "args": [7]}')
    for name in fields:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_FIELDS)}"
            _refuse(number, f"a job has no field {name!r}; {hint}")
    fields = {**defaults, **fields}
    if "type" not in fields:
        _refuse(number, "it has no type; write one, or name one for all lines: qg enqueue TYPE --from FILE")
    if isinstance(fields.get("run_at"), str):
        fields["run_at"] = _time(number, fields["run_at"])
    return Job(**fields)


def _time(number: int, text: str) -> datetime:
    try:
        return TIME.convert(text, None, None)
    except click.BadParameter as error:
        _refuse(number, f"its run_at {error.message}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _name_line(client: Client, cursor: Any, batch: Iterable[tuple[int, Job]]) -> None:
    """Raise Ended with the first line of *batch* that can't be stored; a transaction is left open in any case."""
    for number, job in batch:
        try:
            client.enqueue_batch_in_tx([job], cursor)
        except (ErrInvalidJob, psycopg2.DataError, psycopg2.IntegrityError) as error:
            _refuse(number, one_line(error))


def _refuse(number: int, why: str) -> NoReturn:
    raise Ended(f"line {number}: {why}. Nothing was stored")
