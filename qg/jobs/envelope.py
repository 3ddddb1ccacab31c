"""What is stored for a job: its payload, where that comes from, and what of the enqueuer's context goes along."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from typing import Any

import msgspec

__all__ = ["PersistenceCTXPayload", "PersistencePayload", "git_hash"]


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
        git_hash_processed: the version that worked it; "" but in the history.
        ctx: what is kept of the context.
    """

    job_data: Any
    job_struct_path: str = ""
    git_hash_enqueued: str = ""
    git_hash_processed: str = ""
    ctx: PersistenceCTXPayload = PersistenceCTXPayload()

    @classmethod
    def read(cls, args: Any) -> PersistencePayload:
        """Return what *args*, decoded JSON, stand for. Go writes null for what is empty.

        Raises:
            ValueError: if that is no job of this package; names the field that is missing or wrong.
        """
        if isinstance(args, dict) and isinstance(ctx := args.get("ctx"), dict) and ctx.get("carrier", {}) is None:
            args = {**args, "ctx": {**ctx, "carrier": {}}}
        return msgspec.convert(args, cls)

    def to_builtins(self) -> dict[str, Any]:
        """Return it as JSON values, the keys in their order."""
        builtins: dict[str, Any] = msgspec.to_builtins(self)
        return builtins


@cache
def git_hash() -> str:
    """Return the version of the running program: GIT_HASH, otherwise its checkout's commit, otherwise "unknown"."""
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
