"""Who takes part; each has a module of its own."""

from benchmarks.contenders.contender import BATCHES, ONE_BY_ONE, Contender, Missing, Way
from benchmarks.contenders.graphile import GRAPHILE
from benchmarks.contenders.pgbench import PGBENCH, PGBENCH_PREPARED
from benchmarks.contenders.pgboss import PGBOSS
from benchmarks.contenders.pgqueuer import PGQUEUER
from benchmarks.contenders.procrastinate import PROCRASTINATE
from benchmarks.contenders.qg import QG

__all__ = ["ALL", "BATCHES", "ONE_BY_ONE", "QG", "Contender", "Missing", "Way"]

ALL: tuple[Contender, ...] = (QG, PGBENCH, PGBENCH_PREPARED, PROCRASTINATE, PGQUEUER, GRAPHILE, PGBOSS)
