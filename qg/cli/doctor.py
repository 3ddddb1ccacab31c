"""``qg doctor``: what there is to mend."""

from __future__ import annotations

import click

from qg.cli.commanding import Command
from qg.cli.endings import as_typed
from qg.cli.options import Asked, common
from qg.cli.output import Listing
from qg.cli.status import Status
from qg.control import Finding, Severity
from qg.control import doctor as examine

__all__ = ["doctor"]

_FINDINGS: Listing[Finding] = Listing(
    {},
    lambda finding: {
        "severity": finding.severity.name.lower(),
        "check": finding.check,
        "seen": finding.seen,
        "mend": finding.mend,
    },
    lambda finding: finding.check,
)


@click.command(cls=Command, no="there is a warning or an error")
@common
def doctor(asked: Asked) -> Status:
    """Check everything, and say what to mend, the worst first: the database, the table, and who works it.

    Works also if the table is missing or too old. --quiet prints the names of the checks that found something.

    \b
    qg doctor
    qg doctor --json | jq 'select(.severity != "info")'
    """
    findings = examine(asked.source)
    if asked.out.for_people:
        for finding in findings:
            asked.out.say(f"{finding.severity.name.lower():8}{finding.check}: {finding.seen}")
            asked.out.say(f"        mend: {as_typed(finding.mend)}")
        if not findings:
            asked.out.say("Nothing to mend.")
    else:
        asked.out.rows(findings, _FINDINGS)
    worst = max((each.severity for each in findings), default=Severity.INFO)
    return Status.NO if worst >= Severity.WARNING else Status.DONE
