"""Arguments of any JSON shape come back as they went in."""

from __future__ import annotations

import json

import psycopg2
from hypothesis import given
from hypothesis import strategies as st
from support import JSON, VERSION, Database

import qg

# json keeps what is written; jsonb writes 1e23 as an integer, and has neither NUL nor half a surrogate pair.
numbers = st.floats(allow_nan=False, allow_infinity=False) if VERSION == 3 else st.floats(-1e15, 1e15)
texts = st.text(st.characters() if VERSION == 3 else st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=20,
)
some_args = json_values if VERSION == 3 else st.lists(json_values)


@given(args=some_args)
def test_args_come_back_as_they_went_in(client: qg.Client, args) -> None:
    client.enqueue(qg.Job("MyJob", args))
    with client.lock_job() as job:
        assert job.args == args
        assert type(job.args) is type(args)
        job.delete()


@given(args=st.lists(some_args, max_size=5))
def test_the_args_of_a_batch_come_back_as_they_went_in(client: qg.Client, args) -> None:
    client.enqueue_batch(qg.Job("MyJob", each) for each in args)
    for each in args:
        with client.lock_job() as job:
            assert job.args == each
            job.delete()


@given(document=some_args, indent=st.none() | st.integers(0, 3), ascii_only=st.booleans())
def test_a_raw_document_becomes_what_postgresql_makes_of_it_with_json_to_the_byte(
    client: qg.Client, database: Database, document, indent, ascii_only
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        return
    client.enqueue(qg.Job("MyJob", raw))
    with client.lock_job() as job:
        assert database.value("SELECT args::text FROM que_jobs") == as_stored(database, text)
        assert job.args == document
        job.delete()


def as_stored(database: Database, document: str) -> str:
    """The *document* as PostgreSQL would store it."""
    return document if VERSION == 3 else database.value("SELECT %s::jsonb::text", (document,))


@given(raw=st.binary(max_size=30) | st.text('[]{}",:0123456789.eE+-\\untrfalse \n').map(str.encode))
def test_raw_bytes_are_refused_here_just_when_postgresql_refuses_them(
    client: qg.Client, database: Database, raw: bytes
) -> None:
    if VERSION > 3:
        raw = b"[" + raw + b"]"  # anything but an array is refused
    try:
        job = client.enqueue(qg.Job("MyJob", raw))
    except qg.ErrInvalidJob:
        try:
            database.query(f"SELECT %s::{JSON}", (raw.decode("utf-8"),))
        except (psycopg2.Error, ValueError):
            return
        raise AssertionError("PostgreSQL takes this document") from None
    database.query("DELETE FROM jobs WHERE job_id = %s", (job.id,))
