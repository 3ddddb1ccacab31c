"""What is stored for a job: its payload, where that comes from, and what of the enqueuer's context goes along."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

__all__ = ["PersistenceCTXPayload", "PersistencePayload", "git_hash", "json_of"]


class PersistenceCTXPayload(msgspec.Struct, rename="camel", frozen=True):
    """What is kept of the context in which a job was enqueued. Mirrors Go's ``PersistenceCTXPayload``.

    Attributes:
        user_id: whose request it was; "" if nobody's.
        carrier: the trace and the baggage, as W3C's headers.
    """

    user_id: str = ""
    carrier: dict[str, str] = {}


class PersistencePayload(msgspec.Struct, rename="camel", frozen=True):
    """A job as ``que_jobs.args`` holds it. Mirrors Go's ``PersistencePayload``.

    Attributes:
        job_data: the payload, as JSON values.
        job_struct_path: module and name of its class.
        git_hash_enqueued: the version of the program that enqueued it.
        git_hash_processed: the version that worked it; "" except in the history.
        ctx: what is kept of the context.
    """

    job_data: Any
    job_struct_path: str = ""
    git_hash_enqueued: str = ""
    git_hash_processed: str = ""
    ctx: PersistenceCTXPayload = PersistenceCTXPayload()

    @classmethod
    def read(cls, args: Any) -> PersistencePayload:
        """Return what *args*, decoded JSON, stand for.

        A part of the context that can't be read is left out: the job runs without it.

        Raises:
            ValueError: if no job of this package has such args; names the field that is missing or wrong.
        """
        if isinstance(args, list) and len(args) == 1:
            (args,) = args  # tables from version 4 on have an array
        try:
            return msgspec.convert(args, cls)
        except msgspec.ValidationError:
            if isinstance(args, dict):
                args = {**args, "ctx": _readable_context(args.get("ctx"))}
        try:
            return msgspec.convert(args, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"the args are none that qg.jobs stores: {error}") from None

    def to_builtins(self) -> dict[str, Any]:
        """Return it as JSON values, the keys in their order."""
        builtins: dict[str, Any] = msgspec.to_builtins(self)
        return builtins


def _readable_context(ctx: Any) -> dict[str, Any]:
    ctx = ctx if isinstance(ctx, dict) else {}
    user_id, carrier = ctx.get("userId"), ctx.get("carrier")
    return {
        "userId": user_id if isinstance(user_id, str) else "",
        "carrier": {key: value for key, value in carrier.items() if isinstance(value, str)}
        if isinstance(carrier, dict)
        else {},
    }


def json_of(value: Any) -> str:
    """Return the JSON of *value*, JSON values or a struct of those. Not in ASCII, for a database in SQL_ASCII can't
    read its escapes.

    Raises:
        ValueError: if it holds a number that JSON hasn't.
    """
    with suppress(OverflowError, UnicodeEncodeError):  # what is no text, and numbers of more than 64 bits
        text = msgspec.json.encode(value).decode()
        if "null" not in text:  # that is also what it makes of a number that JSON hasn't
            return text
    return _STRICT.encode(msgspec.to_builtins(value))


# json.dumps() would make one anew for each job.
_STRICT = json.JSONEncoder(allow_nan=False, ensure_ascii=False)

# msgspec examines a class when it first converts to it, and crashes where two threads do that at once. So that is
# done before there can be two.
PersistencePayload.read({"jobData": None})


@cache
def git_hash() -> str:
    """Return the version of the running program: GIT_HASH, otherwise the commit of the checkout in
    the working directory, otherwise "unknown"."""
    if given := os.environ.get("GIT_HASH"):
        return given
    try:
        found = subprocess.run(  # noqa: S603 - a fixed command
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
