"""docs/reliability.md: its handlers run and are safe to repeat, and it holds no link that leads nowhere."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import Database, eventually

import qg

GUIDE = Path(__file__).parent.parent / "docs" / "reliability.md"


@pytest.fixture
def names(database: Database, client: qg.Client) -> Any:
    """What the blocks define, with what they take for granted."""
    database.query("CREATE TABLE orders (id int, paid boolean); CREATE TABLE exports (day text PRIMARY KEY)")
    calls: list[object] = []
    given: dict[str, Any] = {
        "calls": calls,
        "client": client,
        "payments": SimpleNamespace(charge=lambda order, idempotency_key: calls.append((order, idempotency_key))),
        "pages_of": lambda count: range(count),
        "upload": calls.append,
    }
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(GUIDE), "exec"), given)  # noqa: S102 - our own document
    yield SimpleNamespace(**given)
    database.query("DROP TABLE orders, exports")


def test_the_handler_that_charges_uses_the_same_key_when_it_runs_again(
    names: Any, client: qg.Client, database: Database
) -> None:
    database.query("INSERT INTO orders VALUES (7, false)")
    client.enqueue(qg.Job("Charge", args=[7]))
    with client.lock_job() as job:
        names.charge(job)  # and then the process dies
    assert qg.Worker(client, {"Charge": names.charge}).work_one()
    assert names.calls == [(7, "charge-1")] * 2
    assert database.query("SELECT * FROM orders") == [(7, True)]


def test_the_long_handler_stops_when_its_lock_is_lost(names: Any, client: qg.Client, database: Database) -> None:
    client.enqueue(qg.Job("Export", args=[3]))
    job = client.lock_job()
    assert job is not None
    names.export(job)
    assert names.calls == [0, 1, 2]
    database.terminate(job.conn.info.backend_pid)
    eventually(lambda: job.lost, "the loss")
    with pytest.raises(qg.ErrLockLost):
        names.export(job)
    job.done()


def test_an_enqueue_with_a_key_of_its_own_stores_one_job_however_often_it_is_called(
    names: Any, database: Database
) -> None:
    with closing(database.connect()) as conn:
        for _ in range(3):
            names.enqueue_export(conn, "2026-11-30")
    assert database.count() == 1


def test_the_links_of_the_page_lead_somewhere() -> None:
    for link, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", GUIDE.read_text(encoding="utf-8")):
        page = GUIDE.parent / link if link else GUIDE
        titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in [title.lower().replace(" ", "-") for title in titles], (link, anchor)
