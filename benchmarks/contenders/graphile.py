"""graphile-worker, by default and as its performance page configures it."""

from __future__ import annotations

from benchmarks.contenders.contender import BATCHES, ONE_BY_ONE, Way
from benchmarks.contenders.node import NodeContender
from benchmarks.server import Tables

__all__ = ["GRAPHILE"]

_FILL = """\
SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
    SELECT ROW('noop', '{}', NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec
    FROM generate_series(1, %s)
))
"""

GRAPHILE = NodeContender(
    name="graphile-worker",
    tables=Tables(
        empty="TRUNCATE graphile_worker._private_jobs",
        fill=_FILL,
        delete="DELETE FROM graphile_worker._private_jobs",
        unfinished="SELECT EXISTS (SELECT FROM graphile_worker._private_jobs)",
    ),
    ways={
        ONE_BY_ONE: Way("default", pace=1500),
        BATCHES: Way("localQueue 500, completion batched", pace=30000, options={"local_queue": 500}),
    },
    single=1700,
    bulk=60000,
    package="graphile-worker",
    program="graphile.cjs",
)
