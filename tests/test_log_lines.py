"""What somebody else has written never ends a log line, and no terminal obeys it."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Database, UntilEmpty

import qg
from qg.failures import printable

PACKAGE = Path(qg.__file__).parent
EVIL = "a\nERROR:qg:forged\r\x1b[2K\x7f\x85\u2028\u2029\u202e\u2066b"
ESCAPED = r"a\nERROR:qg:forged\r\x1b[2K\x7f\x85\u2028\u2029\u202e\u2066b"


class SilentError(Exception):
    """One whose traceback is kept out of the log's text, which this is about."""


def evil_reschedule(job: qg.Job) -> None:
    raise qg.Reschedule(after=3600)


def evil_discard(job: qg.Job) -> None:
    raise qg.Discard(EVIL)


def evil_failure(job: qg.Job) -> None:
    raise SilentError(EVIL)


def evil_record(job: qg.Job) -> None:
    job.error(EVIL)


def give_up(job: qg.Job) -> None:
    job.expire()


def succeed(job: qg.Job) -> None: ...


HANDLERS = [succeed, give_up, evil_reschedule, evil_discard, evil_failure, evil_record, None]


@pytest.mark.parametrize("way", ["work_one", "work", "run_synchronously"])
@pytest.mark.parametrize("handler", HANDLERS, ids=lambda each: getattr(each, "__name__", "none"))
def test_control_characters_of_a_type_a_queue_and_an_error_are_escaped_in_every_line(
    dsn: str,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    way: str,
    handler: Callable[[qg.Job], object] | None,
) -> None:
    caplog.set_level(logging.DEBUG)
    work_map = {EVIL: handler} if handler else {}
    if way == "run_synchronously":
        with qg.Client(dsn, run_synchronously=work_map) as client:
            try:
                client.enqueue(qg.Job(EVIL, queue=EVIL))
            except Exception:
                assert handler in (evil_failure, None)
    else:
        with qg.Client(dsn) as client:
            client.enqueue(qg.Job(EVIL, queue=EVIL))
            worker = UntilEmpty(client, work_map, queue=EVIL)
            while way == "work_one" and worker.work_one():
                pass
            if way == "work":
                worker.work()
        assert [each for each in lines(caplog) if f"type={ESCAPED}" in each]
        assert f"no_job queue={ESCAPED}" in lines(caplog)
    assert [each for each in lines(caplog) if not each.isprintable()] == []


def test_what_a_queue_is_told_between_jobs_is_escaped_too(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pool = qg.WorkerPool(client, {}, 1, queue=EVIL, interval=3600)
    pool.start()
    client.close()
    client.logger.debug("closed")
    pool.shutdown()
    assert [each for each in lines(caplog) if not each.isprintable()] == []


def test_a_line_that_nobody_reads_isnt_made(
    client: qg.Client, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qg.working.runner.printable", lambda text: pytest.fail("it was made"))
    caplog.set_level(logging.WARNING)
    client.enqueue(qg.Job("MyJob"))
    UntilEmpty(client, {"MyJob": succeed}).work()
    assert database.count() == 0
    assert lines(caplog) == []


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@given(st.text())
def test_printable_text_has_no_line_ends_and_is_left_alone_where_it_has_no_control_characters(text: str) -> None:
    made = printable(text)
    assert len(made.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", made)
    made.encode("utf-8")
    if text.isprintable():
        assert made == text
    assert printable(made) == made


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("Größe", "日本語", "a\u00a0b", "👩\u200d🔬", "שלום", "a\\nb"):
        assert printable(text) == text
    assert printable(EVIL) == ESCAPED
    assert printable("\ud800") == "\\ud800"


# Texts of our own: a name in the code, one of our sentences.
OURS = {"type(cause).__name__", "type(error).__name__", "duty.name", "done", "purpose", "report.action"}


def logged() -> Iterator[tuple[str, ast.expr]]:
    """Each value that is put into a %s of a log line, and where."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "exception")
                and ast.unparse(node.func.value).endswith("logger")
            ):
                text, *values = node.args
                assert isinstance(text, ast.Constant), f"{path}: {ast.unparse(text)}"
                kinds = re.findall(r"%(?:\.\d+)?([a-z])", str(text.value))
                assert len(kinds) == len(values), f"{path}: {text.value}"
                yield from ((str(path), value) for kind, value in zip(kinds, values, strict=True) if kind == "s")


def test_whatever_is_logged_passes_through_printable() -> None:
    found = list(logged())
    assert len(found) > 30
    for path, value in found:
        escapes = isinstance(value, ast.Call) and ast.unparse(value.func) in ("printable", "one_line")
        assert escapes or ast.unparse(value) in OURS, f"{path}: {ast.unparse(value)}"
