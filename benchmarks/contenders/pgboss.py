"""pg-boss, which fetches in batches and keeps the jobs that are done."""

from __future__ import annotations

from benchmarks.contenders.contender import BATCHES, Way
from benchmarks.contenders.node import NodeContender
from benchmarks.server import Tables

__all__ = ["PGBOSS"]

PGBOSS = NodeContender(
    name="pg-boss",
    tables=Tables(
        empty="TRUNCATE pgboss.job",
        fill="INSERT INTO pgboss.job (name, data) SELECT 'noop', '{}' FROM generate_series(1, %s)",
        delete="DELETE FROM pgboss.job",
        unfinished="SELECT EXISTS (SELECT FROM pgboss.job WHERE state < 'completed')",
    ),
    ways={BATCHES: Way("fetch(100)", pace=13000, options={"batch_size": 100})},
    single=1500,
    bulk=60000,
    package="pg-boss",
    program="pgboss.cjs",
)
