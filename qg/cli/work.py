"""``qg work``: processes that work an application's jobs."""

from __future__ import annotations

import math
import os
from typing import Any

import click
import psycopg2

from qg.cli.commanding import Command
from qg.cli.health import FILE_VARIABLE, PORT_VARIABLE, checked_address
from qg.cli.options import database_option
from qg.cli.status import Status
from qg.errors import ErrInvalidOption, QgError
from qg.supervisor.alone import work_alone
from qg.supervisor.logs import set_up_logs, write_failure
from qg.supervisor.settings import Address, Settings, Supervision
from qg.supervisor.signalled import Signals
from qg.supervisor.surfaces import Surfaces
from qg.supervisor.targets import THREADS

__all__ = ["work"]


class _Seconds(click.FloatRange):
    """So many seconds, 0 or more; a number that a clock can count to."""

    def __init__(self) -> None:
        super().__init__(0, 1_000_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


@click.command(name="work", cls=Command, no="a process of several died while they ended")
@click.argument("app", metavar="MODULE:NAME")
@database_option
@click.option("-q", "--queue", "queues", multiple=True, help="A queue to work; several times for several. [work map]")
@click.option(
    "--threads", type=click.IntRange(1), help=f"Jobs at once, for each queue.  [work map; default: {THREADS}]"
)
@click.option("--connections", type=click.IntRange(1), help="Let the threads of a queue share these.  [work map]")
@click.option("--batch-size", type=click.IntRange(1, 1000), help="Jobs that a thread locks at once.  [work map]")
@click.option("--interval", type=_Seconds(), help="Seconds that an idle thread sleeps.  [work map]")
@click.option(
    "--processes", type=click.IntRange(1), help="Start so many, and look after them.  [default: work in this one]"
)
@click.option(
    "--shutdown-timeout",
    type=_Seconds(),
    default=25.0,
    show_default=True,
    help="Seconds that running jobs have to end in, once a signal has come.",
)
@click.option(
    "--max-jobs", type=click.IntRange(1), help="End after so many jobs; one of several processes is replaced."
)
@click.option("--until-empty", is_flag=True, help="End when no job is due.")
@click.option(
    "--health-port",
    callback=checked_address,
    envvar=PORT_VARIABLE,
    metavar="[HOST:]PORT",
    help="Answer /live and /ready there.  [host: 127.0.0.1]",
)
@click.option("--health-file", type=click.Path(dir_okay=False), envvar=FILE_VARIABLE, help="Write there how it stands.")
@click.option("--metrics", is_flag=True, help="Answer /metrics too, at --health-port; needs qg[metrics].")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--reload", is_flag=True, help="For development: begin anew when a Python file here has changed.")
def work(
    app: str,
    dsn: str,
    queues: tuple[str, ...],
    threads: int | None,
    connections: int | None,
    batch_size: int | None,
    interval: float | None,
    processes: int | None,
    shutdown_timeout: float,
    max_jobs: int | None,
    until_empty: bool,
    health_port: Address | None,
    health_file: str | None,
    metrics: bool,
    log_format: str,
    reload: bool,
) -> int:
    """Work the jobs of an application.

    MODULE:NAME is a work map (a dict from job type to function), a queue of qg.jobs, a WorkerPool, or a function that
    returns one of them or a list. The current folder is searched for the module. Options marked [work map] are for
    that; queues and pools have their own.

    \b
    qg work tasks:work_map                         queue QUE_QUEUE, or the one without a name
    qg work tasks:work_map -q mail -q reports      each queue with threads of its own
    qg work tasks:work_map --threads 200 --connections 1
    qg work app:jobs --processes 2 --health-port 8080 --metrics --log-format json

    The first SIGTERM or Ctrl-C lets running jobs end. The second one, or the timeout, undoes and releases them.
    SIGUSR1 logs what every thread does. With --processes, SIGHUP lets each process end, however long
    its jobs take, and replaces it then.
    """
    if metrics and health_port is None:
        raise click.UsageError("--metrics are told at --health-port; give that, too")
    if connections is not None and connections > (threads or THREADS):
        raise click.UsageError(f"--connections {connections} are more than --threads {threads or THREADS}")
    if connections is not None and batch_size is not None:
        raise click.UsageError("--batch-size has no meaning beside --connections; leave one of them out")
    settings = Settings(
        app=app,
        dsn=dsn,
        queues=tuple(dict.fromkeys(queues)),
        threads=threads,
        connections=connections,
        batch_size=batch_size,
        interval=interval,
        shutdown_timeout=shutdown_timeout,
        max_jobs=max_jobs,
        until_empty=until_empty,
        tells_metrics=metrics,
        looks_at_queues=metrics,
        log_format=log_format,
    )
    # Process 1 of a container has to reap what others leave behind, which only one that runs no application can.
    if processes is None and (reload or os.getpid() == 1):
        processes = 1
    supervision = Supervision(processes, health_port, health_file, metrics, reload)
    if processes is not None and os.name != "posix":
        raise ErrInvalidOption("--processes and --reload need a system with POSIX signals; leave them out")
    signals = Signals(of_children=processes is not None).install()
    set_up_logs(log_format)
    surfaces = Surfaces(health_port, health_file, metrics=metrics)
    if processes is None:
        try:
            return work_alone(settings, surfaces, signals)
        except (QgError, psycopg2.Error) as error:
            if log_format == "text":
                raise
            write_failure(log_format, error, with_place=False)
            return Status.COULD_NOT_RUN
    from qg.supervisor.parent import work_with_children

    return work_with_children(settings, supervision, surfaces, signals)
