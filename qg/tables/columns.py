"""Which columns a version of the table has, so that one which only looks right is found before its first job."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

__all__ = ["columns_of", "misfits"]

_ALWAYS = {"queue", "priority", "run_at", "job_class", "args", "error_count"}
_V3 = _ALWAYS | {"job_id", "last_error"}
_V4 = _ALWAYS | {
    "id", "last_error_message", "last_error_backtrace", "finished_at", "expired_at", "data",
}  # fmt: skip
# By the column, the version that brought it. An earlier version's statements fail where it is.
_SINCE = {"job_schema_version": 5, "kwargs": 6}


def columns_of(version: int) -> set[str]:
    """Return the columns that qg names in a table of *version*, 3 to 7."""
    if version == 3:
        return set(_V3)
    return _V4 | {name for name, since in _SINCE.items() if version >= since}


def misfits(version: int, columns: AbstractSet[str]) -> str:
    """Return in words what *columns* have too little or too much for *version*, 3 to 7; nothing if they fit.

    Columns that qg doesn't name may be there, too.
    """
    unwanted = set[str]()
    if version >= 4:
        unwanted = {name for name, since in _SINCE.items() if version < since}
    said = []
    if missing := sorted(columns_of(version) - columns):
        said.append(f"has no {', '.join(missing)}")
    if present := sorted(unwanted & columns):
        said.append(f"has {', '.join(present)}")
    return " and ".join(said)
