"""What is stored around a payload: Go's keys in Go's order, and the version of the program."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from insides import store_of
from opentelemetry import baggage, context

from qg import jobs
from qg.jobs.envelope import git_hash
from qg.jobs.payloads import payload_type


@dataclass(frozen=True)
class GreetUser:
    user_id: int


@dataclass(frozen=True)
class Sweep:
    @staticmethod
    def job_type() -> str:
        return "sweeping"


@pytest.fixture(autouse=True)
def _no_hash_is_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_HASH", "c0ffee")
    git_hash.cache_clear()
    yield
    git_hash.cache_clear()


def stored(payload: Any) -> str:
    """Return the JSON text that a queue stores for *payload*."""
    queue = jobs.TestQueue()
    queue.enqueue(payload)
    (row,) = store_of(queue).waiting()
    return row.args


def test_the_keys_are_those_of_go_in_the_order_of_go() -> None:
    with jobs.user("ada"):
        text = stored(GreetUser(7))
    assert text == (
        '{"jobData": {"user_id": 7}, "jobStructPath": "test_envelope.GreetUser", "gitHashEnqueued": "c0ffee", '
        '"gitHashProcessed": "", "ctx": {"userId": "ada", "carrier": {}}}'
    )


def test_a_payload_without_fields_is_an_empty_object_and_never_null() -> None:
    assert stored(Sweep()).startswith('{"jobData": {}, "jobStructPath": "test_envelope.Sweep",')
    assert payload_type(Sweep).name == "sweeping"


def test_nobodys_job_has_an_empty_user_id() -> None:
    assert json.loads(stored(GreetUser(7)))["ctx"] == {"userId": "", "carrier": {}}


def test_the_enqueuers_baggage_goes_along() -> None:
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        ctx = json.loads(stored(GreetUser(7)))["ctx"]
    finally:
        context.detach(token)
    assert ctx == {"userId": "", "carrier": {"baggage": "tenant=acme"}}


def test_an_envelope_is_read_as_it_was_written() -> None:
    written = jobs.PersistencePayload(
        {"user_id": 7}, "shop.GreetUser", "c0ffee", "decade", jobs.PersistenceCTXPayload("ada", {"baggage": "a=b"})
    )
    document = json.loads(json.dumps(written.to_builtins()))
    assert list(document) == ["jobData", "jobStructPath", "gitHashEnqueued", "gitHashProcessed", "ctx"]
    assert list(document["ctx"]) == ["userId", "carrier"]
    assert jobs.PersistencePayload.read(document) == written


@pytest.mark.parametrize(
    "ctx", [{"userId": "ada", "carrier": None}, {"userId": "ada"}, {"userId": "ada", "carrier": {}}]
)
def test_an_envelope_of_go_is_read_whose_empty_carrier_is_null(ctx: Any) -> None:
    args = {"jobData": {"user_id": 7}, "jobStructPath": "p", "gitHashEnqueued": "", "gitHashProcessed": "", "ctx": ctx}
    before = json.dumps(args)
    read = jobs.PersistencePayload.read(args)
    assert read.ctx == jobs.PersistenceCTXPayload("ada", {})
    assert read.job_data == {"user_id": 7}
    assert json.dumps(args) == before


def test_of_an_envelope_only_the_data_is_needed() -> None:
    read = jobs.PersistencePayload.read({"jobData": None, "more": 1})
    assert read == jobs.PersistencePayload(None)
    assert read.ctx == jobs.PersistenceCTXPayload("", {})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (None, "object"),
        ([], "object"),
        ([{"jobData": {}}, {}], "object"),
        ("text", "object"),
        (7, "object"),
        ({}, "jobData"),
        ({"ctx": {}}, "jobData"),
        ({"jobData": {}, "jobStructPath": 7}, "jobStructPath"),
        ({"jobData": {}, "gitHashEnqueued": None}, "gitHashEnqueued"),
    ],
    ids=repr,
)
def test_what_is_no_envelope_is_refused_and_the_key_named(args: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs.PersistencePayload.read(args)


@pytest.mark.parametrize(
    ("ctx", "left"),
    [
        (None, {}),
        ([], {}),
        ({"userId": 7, "carrier": {"traceparent": "00"}}, {"carrier": {"traceparent": "00"}}),
        ({"userId": "u-1", "carrier": []}, {"user_id": "u-1"}),
        (
            {"userId": "u-1", "carrier": {"baggage": 7, "traceparent": "00"}},
            {"user_id": "u-1", "carrier": {"traceparent": "00"}},
        ),
    ],
    ids=repr,
)
def test_of_a_context_that_cant_be_read_the_rest_stays(ctx: Any, left: dict[str, Any]) -> None:
    assert jobs.PersistencePayload.read({"jobData": {}, "ctx": ctx}).ctx == jobs.PersistenceCTXPayload(**left)


def git(where: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    ran = subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository, without commits, that is the working directory; GIT_HASH isn't set."""
    monkeypatch.delenv("GIT_HASH")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    return tmp_path


def commit(where: Path) -> str:
    git(where, "commit", "-q", "--allow-empty", "-m", "one")
    return git(where, "rev-parse", "HEAD")


def test_the_version_is_the_checkouts_commit(checkout: Path) -> None:
    head = commit(checkout)
    assert len(head) == 40
    assert git_hash() == head
    assert json.loads(stored(GreetUser(7)))["gitHashEnqueued"] == head


def test_the_commit_is_found_from_below_the_checkouts_root(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = commit(checkout)
    (checkout / "sub").mkdir()
    monkeypatch.chdir(checkout / "sub")
    assert git_hash() == head


def test_git_hash_in_the_environment_comes_before_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(checkout)
    monkeypatch.setenv("GIT_HASH", "v1.2.3")
    assert git_hash() == "v1.2.3"


def test_an_empty_git_hash_is_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = commit(checkout)
    monkeypatch.setenv("GIT_HASH", "")
    assert git_hash() == head


def test_git_is_asked_once(checkout: Path) -> None:
    first = commit(checkout)
    assert git_hash() == first
    commit(checkout)
    git(checkout, "commit", "-q", "--allow-empty", "-m", "two")
    assert git_hash() == first


def test_the_version_is_unknown_before_the_first_commit(checkout: Path) -> None:
    assert git_hash() == "unknown"


def test_the_version_is_unknown_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIT_HASH")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert git_hash() == "unknown"


def test_the_version_is_unknown_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(checkout)
    monkeypatch.setenv("PATH", str(checkout))
    assert git_hash() == "unknown"


def test_the_version_is_unknown_if_git_hangs(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(checkout)

    def hang(*arguments: object, timeout: float, **options: object) -> None:
        assert timeout <= 10
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert git_hash() == "unknown"
