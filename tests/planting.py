"""Functions and operators that somebody else has planted in a schema of the search_path."""

from __future__ import annotations

from contextlib import closing

from psycopg2.extensions import make_dsn
from support import Database

_ROW = "bigint, text, smallint, timestamptz, text, text, integer, text"
_WALK = "boolean, boolean, {}, bigint, bigint, integer[], text[], bigint[]"

# What statements and functions of qg call, for just the types that they give, where pg_catalog's takes any, or
# another one; and some that are as good as pg_catalog's.
FUNCTIONS = {
    "array_fill": ["integer, integer[]", "text, integer[]", "bigint, integer[]"],
    "age": ["xid"],
    "cardinality": ["integer[]", "bigint[]", "smallint[]", "timestamptz[]"],
    "concat_ws": ["text, text, text"],
    "count": ["bigint"],
    "current_setting": ["text, boolean", "text"],
    "format": ["text, bigint, text"],
    "host": ["inet"],
    "has_table_privilege": ["oid, text"],
    "isfinite": ["timestamptz"],
    "json_agg": ["json"],
    "json_build_array": [
        _ROW,
        f"{_ROW}, text, text",
        "bigint",
        "bigint, timestamptz",
        "timestamptz, bigint",
        "text, smallint, timestamptz, bigint",
        *(
            _WALK.format(seconds) + more
            for seconds in ("numeric", "double precision")
            for more in ("", ", integer, integer")
        ),
    ],
    "json_array_elements": ["json"],
    "json_array_elements_text": ["json"],
    "json_build_object": ["text, text, text, text, text, smallint, text, bigint, text, text"],
    "jsonb_build_object": ["text, jsonb"],
    "left": ["text, integer"],
    "lower": ["text"],
    "max": ["integer", "bigint", "timestamptz"],
    "md5": ["text"],
    "min": ["timestamptz", "bigint"],
    "obj_description": ["oid, text", "oid, name"],
    "pg_advisory_unlock": ["bigint"],
    "pg_notify": ["text, text"],
    "pg_stat_get_xact_blocks_fetched": ["regclass"],
    "pg_stat_get_xact_tuples_returned": ["regclass"],
    "pg_try_advisory_lock": ["bigint"],
    "pg_blocking_pids": ["integer"],
    "quote_ident": ["name"],
    "set_config": ["text, text, boolean"],
    "split_part": ["text, text, text"],
    "strpos": ["text, text"],
    "starts_with": ["text, text"],
    "substr": ["text, integer"],
    "timezone": ["text, timestamptz"],
    "to_char": ["timestamp, text"],
    "to_json": ["timestamptz", "text"],
    "txid_status": ["bigint"],
    "unnest": ["text[]", "bigint[]", "name[]", "integer[]", "smallint[]", "timestamptz[]"],
}
OPERATORS = {
    "#>>": ["json, json", "json, text", "json, text[]"],
    "->": ["jsonb, jsonb", "jsonb, text", "json, json", "json, integer"],
    "->>": ["json, json", "json, integer"],
    "/": ["bigint, integer", "bigint, bigint"],
    "<>": ["integer, integer", "name, name", "name, text"],
    "=": ["oid, regclass", "regclass, oid", "text, text", "bigint, bigint", "jsonb, jsonb", "smallint, integer"],
    "@>": ["text[], text[]"],
    "<=": ["timestamptz, timestamptz"],
    ">": ["timestamptz, timestamptz", "smallint, integer", "bigint, bigint"],
    "||": [
        "text, text",
        "text, integer",
        "integer, integer",
        "integer[], integer",
        "integer[], integer[]",
        "text[], text[]",
        "bigint[], bigint",
        "bigint[], bigint[]",
        "timestamptz[], timestamptz",
    ],
    "*": ["double precision, interval", "bigint, interval", "integer, interval"],
    "+": ["timestamptz, interval", "bigint, bigint"],
    "-": ["timestamptz, timestamptz", "timestamptz, interval", "bigint, bigint"],
}


def _plant(name: str, arguments: str, returns: str = "text") -> str:
    return (
        f'CREATE FUNCTION evil."{name}"({arguments}) RETURNS {returns} LANGUAGE plpgsql AS '
        f"$$ BEGIN RAISE EXCEPTION 'called evil {name}({arguments})'; END $$;"
    )


def plant_in(dsn: str) -> str:
    """Plant all of that, and return a DSN whose sessions have it in their search_path."""
    with closing(Database(dsn)) as database:
        database.query("CREATE SCHEMA evil")
        for name, every in FUNCTIONS.items():
            for arguments in every:
                database.query(_plant(name, arguments))
        for number, (name, every) in enumerate(OPERATORS.items()):
            for arguments in every:
                left, right = arguments.split(", ")
                returns = "boolean" if name in ("=", "@>", "<=", ">", "<>") else "text"
                database.query(
                    f"{_plant(f'operator_{number}', arguments, returns)}"
                    f"CREATE OPERATOR evil.{name} (FUNCTION = evil.operator_{number}, LEFTARG = {left}, "
                    f"RIGHTARG = {right})"
                )
    return make_dsn(dsn, options="-c search_path=public,evil")
