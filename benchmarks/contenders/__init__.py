"""Who takes part; each has a module of its own."""

from benchmarks.contenders.contender import (
    BATCHES,
    DOING_NOTHING,
    FEW_CONNECTIONS,
    ONE_BY_ONE,
    WAITING,
    WRITING,
    Contender,
    Missing,
    Way,
    drained,
)
from benchmarks.contenders.graphile import GRAPHILE
from benchmarks.contenders.oban import OBAN
from benchmarks.contenders.pgbench import PGBENCH, PGBENCH_PREPARED
from benchmarks.contenders.pgboss import PGBOSS
from benchmarks.contenders.pgqueuer import PGQUEUER
from benchmarks.contenders.procrastinate import PROCRASTINATE
from benchmarks.contenders.qg import QG, QG_FEW
from benchmarks.contenders.qg_aio import QG_AIO
from benchmarks.contenders.qg_jobs import QG_JOBS, QG_JOBS_FEW

__all__ = [
    "ALL",
    "BATCHES",
    "DOING_NOTHING",
    "FEW_CONNECTIONS",
    "ONE_BY_ONE",
    "QG",
    "QG_AIO",
    "QG_FEW",
    "QG_JOBS",
    "QG_JOBS_FEW",
    "WAITING",
    "WRITING",
    "Contender",
    "Missing",
    "Way",
    "drained",
]

ALL: tuple[Contender, ...] = (
    QG,
    QG_FEW,
    QG_AIO,
    QG_JOBS,
    QG_JOBS_FEW,
    PGBENCH,
    PGBENCH_PREPARED,
    PROCRASTINATE,
    PGQUEUER,
    OBAN,
    GRAPHILE,
    PGBOSS,
)
