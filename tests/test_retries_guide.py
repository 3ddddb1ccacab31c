"""docs/retries.md is true: its blocks run in turn, as one program, and do what the page says."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from guides import DOCS, check_links
from support import PATIENCE, Database, eventually, needs

import qg
from qg.backoff import exponential

PAGE = (DOCS / "retries.md").read_text(encoding="utf-8")


class Sentry:
    """What stands for sentry_sdk: notes its calls."""

    def __init__(self) -> None:
        self.events: list[object] = []

    @contextmanager
    def isolation_scope(self) -> Iterator[Any]:
        tags: dict[str, object] = {}
        self._tags = tags
        yield types.SimpleNamespace(set_tag=tags.__setitem__, set_context=tags.__setitem__)

    def capture_exception(self, error: BaseException) -> None:
        self.events.append((type(error).__name__, self._tags["job_type"]))


@pytest.fixture
def program(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[types.ModuleType]:
    """A module with what the page defines, and with what it takes for granted."""
    jobs = needs("qg.jobs")
    jobs.migrate(database.dsn)
    module = types.ModuleType("retries_guide")
    monkeypatch.setitem(sys.modules, "retries_guide", module)
    names = vars(module)
    names["sent"], names["closed"], names["ignored"] = sent, closed, ignored = [], [], []
    names["sentry"] = sentry = Sentry()
    names["deliver"], names["bill_of"] = sent.append, {7: "bill"}.__getitem__
    stubs = {
        "django": {},
        "django.db": {"close_old_connections": lambda: closed.append(True)},
        "sentry_sdk": {"isolation_scope": sentry.isolation_scope, "capture_exception": sentry.capture_exception},
        "sentry_sdk.integrations": {},
        "sentry_sdk.integrations.logging": {"ignore_logger": ignored.append},
    }
    for name, attributes in stubs.items():
        stub = types.ModuleType(name)
        vars(stub).update(attributes)
        monkeypatch.setitem(sys.modules, name, stub)
    client = qg.Client(database.dsn)
    client.enqueue(qg.Job("SendCard", ["nobody"]))
    client.close()
    try:
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
            if "control" in block:  # by then a card was given up
                qg.Worker(names["client"], {"SendCard": names["send_card"]}).work_one()
            exec(compile(block.replace("postgresql:///app", database.dsn), "docs/retries.md", "exec"), names)
            if "control" in block:
                assert capsys.readouterr().out.startswith("1 1 retries_guide.NoSuchAddress: nobody\nTraceback")
        yield module
    finally:
        names["queue"].shutdown(PATIENCE)
        names["client"].close()


def test_every_block_of_the_page_runs_and_does_what_it_says(
    program: Any, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    client: qg.Client = program.client
    logging.getLogger("qg").addHandler(program.handler)
    try:
        client.enqueue(qg.Job("SendMail", ["a@example.org"]))
        with program.pool:
            eventually(lambda: database.query("SELECT 1 FROM que_jobs WHERE job_class = 'TellSupport'"))
            eventually(lambda: program.sent == ["a@example.org"])
    finally:
        logging.getLogger("qg").removeHandler(program.handler)
    assert "SendCard 1 failed: NoSuchAddress('nobody'), for good" in caplog.text
    ((args,),) = database.query("SELECT args FROM que_jobs WHERE job_class = 'TellSupport'")
    assert (args[:2], args[2].split("\n")[0]) == (["SendCard", 1], "retries_guide.NoSuchAddress: nobody")
    assert program.sentry.events == [("NoSuchAddress", "SendCard")]
    assert program.ignored == ["qg"]
    assert len(program.closed) == 4
    program.queue.enqueue(program.SendBill(7))
    program.queue.start()
    eventually(lambda: program.sent == ["a@example.org", "bill"])


def test_the_program_of_coroutines_puts_the_jobs_id_into_the_log(
    program: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    program.client.enqueue(qg.Job("Greet", ["Ann"], queue="greetings"))
    seen: list[str] = []
    watch = types.SimpleNamespace(filter=lambda record: seen.append(program.job_id.get()) or True)

    async def until_greeted() -> None:
        running = asyncio.ensure_future(program.main())
        while not seen:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])

    program.log.addFilter(watch.filter)
    try:
        asyncio.run(asyncio.wait_for(until_greeted(), PATIENCE))
    finally:
        program.log.removeFilter(watch.filter)
    assert seen == ["2"]


def test_the_delays_that_the_page_names_are_those_of_its_backoff() -> None:
    backoff = exponential(factor=30, maximum=3600, jitter=0)
    assert [backoff(errors) for errors in range(1, 6)] == [30, 60, 120, 240, 480]


def test_the_links_of_the_page_lead_somewhere() -> None:
    check_links("retries.md")
