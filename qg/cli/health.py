"""``qg health``: whether a worker does well, for the probes of containers."""

from __future__ import annotations

import click

from qg.cli.commanding import Command
from qg.cli.status import Status
from qg.supervisor.asking import ask_file, ask_port
from qg.supervisor.settings import Address

__all__ = ["FILE_VARIABLE", "PORT_VARIABLE", "checked_address", "health"]

PORT_VARIABLE, FILE_VARIABLE = "QG_HEALTH_PORT", "QG_HEALTH_FILE"


def checked_address(ctx: click.Context, param: click.Parameter, value: str | None) -> Address | None:
    """Return the address that ``PORT`` or ``HOST:PORT`` is; refuse what is none."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise click.BadParameter(f"{value!r} is no port; give PORT, or HOST:PORT", ctx, param)
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    try:
        host.encode("idna")  # as the socket will
    except UnicodeError:
        raise click.BadParameter(f"{host!r} is no name of a host", ctx, param) from None
    return Address(host, int(port))


@click.command(name="health", cls=Command, no="the worker isn't ready (with --live: doesn't live), or there is none")
@click.option("--port", callback=checked_address, envvar=PORT_VARIABLE, metavar="[HOST:]PORT", help="Where it answers.")
@click.option("--file", type=click.Path(dir_okay=False), envvar=FILE_VARIABLE, help="What it writes.")
@click.option("--live", is_flag=True, help="Ask whether it lives, and not whether it is ready.")
@click.option("--quiet", is_flag=True, help="Print nothing.")
def health(port: Address | None, file: str | None, live: bool, quiet: bool) -> int:
    """Say whether a worker does well, for probes.

    Asks the process of qg work through its --health-file or --health-port. Imports no application, and doesn't
    connect to the database. The variables QG_HEALTH_FILE and QG_HEALTH_PORT are read by both commands.

    \b
    qg health --file /tmp/qg.health --live     a liveness probe
    qg health --port 8080                      a readiness probe
    """
    if file is not None:
        good, text = ask_file(file, live=live)
    elif port is not None:
        good, text = ask_port("127.0.0.1" if port.host == "0.0.0.0" else port.host, port.port, live=live)  # noqa: S104 - not to listen there
    else:
        raise click.UsageError(f"say where to ask: --file or --port, or {FILE_VARIABLE} or {PORT_VARIABLE}")
    if not quiet:
        click.echo(text)
    return Status.DONE if good else Status.NO
