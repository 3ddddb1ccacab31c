"""Child: a process that works for a parent, which has started ``python -m qg.supervisor.child``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg2

from qg.errors import QgError
from qg.failures import one_line
from qg.supervisor.logs import set_up_logs, write_failure
from qg.supervisor.messages import Death, Lines, Speaker
from qg.supervisor.running_jobs import RunningJobs
from qg.supervisor.settings import Settings
from qg.supervisor.signalled import Signals
from qg.supervisor.standing import Standing
from qg.supervisor.worker_process import WorkerProcess

__all__ = ["main"]

_logger = logging.getLogger("qg")


def main() -> int:
    """Work for the parent until it says stop, or is gone, and return the exit status."""
    signals = Signals().install()
    commands, status, memory = map(int, sys.argv[1:4])
    for file in (commands, status, memory):
        os.set_inheritable(file, False)
    messages = _messages(commands)
    told = next(messages, None)
    if told is None:  # the parent is gone already
        return 0
    settings = Settings.from_json(told["settings"])
    set_up_logs(settings.log_format)
    speaker = Speaker(status)

    def tell(standing: Standing) -> None:
        speaker.say(standing=standing.to_plain())

    process = WorkerProcess(settings, signals, RunningJobs(memory), tell, hangs_up=True)

    def record(death: Death) -> None:
        is_recorded = False
        try:
            is_recorded = process.record(death)
        except Exception as error:  # another process may have more luck with it
            _logger.error("death_unrecorded number=%d: %s", death.number, one_line(error), exc_info=error)
        speaker.say(**{"recorded" if is_recorded else "unrecorded": death.number})

    def begin() -> None:
        for plain in told["deaths"]:
            record(Death.from_plain(plain))
        threading.Thread(target=obey, name="qg-commands", daemon=True).start()

    def obey() -> None:
        for message in messages:
            _obey(message, process, record)
        _logger.warning("parent_gone: so this process ends, too")
        process.stop(signal.SIGTERM)

    try:
        return process.run(begin)
    except (QgError, psycopg2.Error) as error:
        write_failure(settings.log_format, error, with_place=False)
        return 2


def _messages(file: int) -> Iterator[dict[str, Any]]:
    """Yield what the parent says, until it is gone."""
    lines = Lines()
    while data := os.read(file, 65536):
        yield from lines.messages(data)


def _obey(message: dict[str, Any], process: WorkerProcess, record: Any) -> None:
    if "stop" in message:
        process.stop(message["stop"])
    elif "end_now" in message:
        process.end_now(message["end_now"])
    elif "stacks" in message:
        process.log_stacks()
    elif "died" in message:
        # It may have to wait for the database, and the next message may be to stop.
        threading.Thread(target=record, args=(Death.from_plain(message["died"]),), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
