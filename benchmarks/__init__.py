"""How fast qg is, beside other queues on one server in one run: ``python -m benchmarks --help``.

Each scenario is a module: drain, enqueue, pickup, backlog, snapshots, steady, footprint, waiting,
facade, connections, scale. Who takes part is in ``contenders/``, each a module with its statements,
its configurations and, below, the program that calls it as its users do, in a process of its own.

Contenders take turns, one run each, and the median of the rounds counts. Before each run the tables
are emptied, filled by SQL, vacuumed and analyzed. The clock of a drain starts when the first job
begins, so connecting and importing don't count, and ends when no unfinished job is in the database.
Only ratios within one run of the benchmark mean something.
"""
