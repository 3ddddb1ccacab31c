"""docs/ruby.md: its blocks run, and it holds no link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg2

import qg

GUIDE = Path(__file__).parent.parent / "docs" / "ruby.md"


def test_the_blocks_of_the_guide_to_ruby_run_on_a_table_of_rubys(make_database) -> None:
    dsn = make_database(version=7)
    text = GUIDE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)).replace("postgresql:///app", dsn)
    names: dict[str, object] = {}
    exec(compile(code, str(GUIDE), "exec"), names)  # noqa: S102 - our own document

    with psycopg2.connect(dsn) as conn, conn.cursor() as cur:
        cur.execute("SELECT job_class, args, kwargs, data FROM que_jobs")
        assert cur.fetchall() == [("Billing::Charge", [42], {"currency": "EUR"}, {"tags": ["eu"]})]
        cur.execute("CREATE TABLE exports (account_id bigint, format text)")
        cur.execute(
            "INSERT INTO que_jobs (queue, job_class, args, kwargs, job_schema_version) VALUES "
            "('python', 'Python::Export', '[7]', '{\"format\": \"csv\"}', 2),"
            "('python_rails', %s, %s, '{}', 2)",
            (
                qg.activejob.WRAPPER,
                '[{"job_class": "ExportJob", "job_id": "1", "arguments": [{"_aj_globalid": "gid://app/Account/8"},'
                ' {"format": "pdf", "_aj_ruby2_keywords": ["format"]}]}]',
            ),
        )
    conn.close()
    client, export, perform = names["client"], names["export"], names["perform"]
    qg.Worker(client, {"Python::Export": export}, queue="python").work_one()
    qg.Worker(client, {qg.activejob.WRAPPER: perform}, queue="python_rails").work_one()
    with psycopg2.connect(dsn) as conn, conn.cursor() as cur:
        cur.execute("SELECT account_id, format FROM exports ORDER BY account_id")
        assert cur.fetchall() == [(7, "csv"), (8, "pdf")]
    conn.close()
    client.close()


def test_the_links_of_the_guide_to_ruby_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", GUIDE.read_text(encoding="utf-8")):
        assert (GUIDE.parent / link).exists(), link
