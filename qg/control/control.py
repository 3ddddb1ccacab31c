"""Control: look at the queues from outside, act on their jobs, pause them, and have everything checked."""

from __future__ import annotations

from qg.control.acts import Acting
from qg.control.checkup import checkup
from qg.control.looks import Looking
from qg.control.pauses import Pausing
from qg.control.reports import Finding, Severity
from qg.errors import ErrTable

__all__ = ["Control", "doctor"]


class Control(Looking, Acting, Pausing):
    """Looks at the queues of one table, and acts on their jobs, whoever enqueued and whoever works them.

    May be used from any thread. It works no jobs, and each call has a connection for itself for as long as it takes.

    Every call raises ErrClientClosed after close(), ErrRights with the GRANT if the role may not do what it takes,
    and psycopg2.Error if the database fails.

    Args:
        source: as for :class:`qg.Client`; or a client, which stays open at close().
        by: who acts, for the log and for those who see a pause; by default the database's user.
        deadline: how many seconds to wait for an answer, as for a client.
        logger: for a line about each action; by default ``logging.getLogger("qg")``, or that of the client.

    Raises:
        ErrUnusable: if *source* is of no known kind.
        ErrTable: if there is no table that this qg works; doctor() says more of it.
        ErrInvalidOption: if another argument is out of bounds.
        psycopg2.Error: if the database can't be reached or used.
    """

    def doctor(self) -> list[Finding]:
        """Return what there is to know or to mend, the worst first; see :func:`doctor`."""
        return self._look(lambda session, table: checkup(self._database, session, table))


def doctor(source: object) -> list[Finding]:
    """Return what there is to know or to mend about the database, the table, and who works it; the worst first.

    Whether the table can be worked, what this role may not do, poolers, timeouts, room for connections and locks,
    indexes, dead rows and what keeps them, sessions that hold jobs and do nothing, queues that nobody works, and so on.

    Args:
        source: as for :class:`Control`.

    Raises:
        ErrUnusable: if *source* is of no known kind.
        psycopg2.Error: if the database can't be reached.
    """
    try:
        control = Control(source)
    except ErrTable as error:
        seen, _, mend = str(error).partition("; ")
        return [Finding(Severity.ERROR, "table", seen, mend)]
    with control:
        return control.doctor()
