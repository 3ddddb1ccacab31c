"""WorkerProcess: a process that works an application's jobs, from its first signal handler to its exit status."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import psycopg2

from qg.backoff import reconnect_pause
from qg.database.outage import Outage
from qg.errors import ErrTooFewConnections, QgError
from qg.failures import one_line, printable
from qg.supervisor.application import ErrApplication, find_application
from qg.supervisor.deaths import record_deaths
from qg.supervisor.depths import Depths
from qg.supervisor.emptiness import nothing_is_due
from qg.supervisor.logs import write_failure
from qg.supervisor.messages import Death
from qg.supervisor.metrics import EVENTS
from qg.supervisor.pool_states import hangs, why_ended, why_not_ready
from qg.supervisor.running_jobs import RunningJobs
from qg.supervisor.seats import Seats
from qg.supervisor.settings import Settings
from qg.supervisor.signalled import Signals, end_process, listen_in_thread, name_of
from qg.supervisor.stacks import log_stacks
from qg.supervisor.standing import Standing
from qg.supervisor.surfaces import TICK_SECONDS
from qg.supervisor.tally import Counts, EventCounter, Tally
from qg.supervisor.targets import Target, make_targets
from qg.supervisor.unknown_queues import warn_of_unknown
from qg.workerpool import WorkerPool
from qg.working.oversight import PoolState
from qg.working.runner import log_released

__all__ = ["WorkerProcess"]

_Result = TypeVar("_Result")

_logger = logging.getLogger("qg")

_LONGEST_PAUSE_SECONDS = 30.0
# How often it is looked whether nothing is left to do, where the process is to end then.
_LOOK_SECONDS = 0.1
# How long what is abandoned may take to let go, and how long all that is done then may take.
_LETTING_GO_SECONDS, _LAST_SECONDS = 1.0, 3.0


class WorkerProcess:
    """Works an application's jobs in this process, until a signal comes.

    The first SIGTERM or SIGINT lets running jobs end. After the timeout, or at the second one, they are undone and
    released, with no error counted, and the process ends with 128 and the signal's number. SIGUSR1 logs what every
    thread does.

    Args:
        settings: what to work, and how.
        signals: installed already.
        running: where to note which jobs run.
        tell: is told every second how it stands.
        ended: is called before the process ends without unwinding.
        hangs_up: whether SIGHUP lets it end, too; it is ignored otherwise.
        next_tick: how many seconds until it is told the next time.
    """

    def __init__(
        self,
        settings: Settings,
        signals: Signals,
        running: RunningJobs,
        tell: Callable[[Standing], None],
        *,
        ended: Callable[[], None] = lambda: None,
        hangs_up: bool = False,
        next_tick: Callable[[], float] = lambda: TICK_SECONDS,
    ) -> None:
        self._settings = settings
        self._signals = signals
        self._running = running
        self._tell = tell
        self._ended = ended
        self._hangs_up = hangs_up
        self._next_tick = next_tick
        # Set when it is time to end.
        self._stopping = threading.Event()
        self._tally = Tally(settings.max_jobs, self._reach_limit)
        self._targets: list[Target] = []
        self._oversight: list[Seats] = []
        self._depths: Depths | None = None
        # Guards what follows: the first signal, and that only one thread ends the process.
        self._mutex = threading.Lock()
        self._signal: int | None = None
        self._hurries = False
        self._times = 0
        self._ends_now = False
        self._stage = "starting"
        self._outage = ""
        self._failed = False
        self._nothing_due = False

    def run(self, first: Callable[[], None] = lambda: None) -> int:
        """Work until the end, and return the exit status. In the main thread.

        Args:
            first: is called before the first job is taken.

        Raises:
            QgError: if there is nothing that could be worked.
        """
        listen_in_thread(self._signals, self._hear)
        self._tell(self.look())
        made: list[Target] | None = None
        try:
            found = find_application(self._settings.app)
        except ErrApplication:
            raise
        except BaseException as error:  # whatever its import raises, the place of it is what helps
            write_failure(self._settings.log_format, error, with_place=True)
            return 2
        finally:
            self._signals.install()  # the application may have handlers of its own
        try:
            made = self._reach(lambda: make_targets(found, self._settings))
        except (QgError, psycopg2.Error):
            raise
        except BaseException as error:  # SystemExit too: whatever the application does, it can't be worked
            write_failure(self._settings.log_format, error, with_place=True)
            return 2
        finally:
            self._signals.install()
        with self._mutex:
            self._targets = made or []
        self._tally.work_maps = [target.work_map for target in self._targets]
        self._oversight = [Seats(number, self._running, self._tally) for number in range(len(self._targets))]
        try:
            first()
            self._start()
            self._live()
        finally:
            self._drain()
        return 2 if self._failed else 0

    def record(self, death: Death) -> bool:
        """Record the errors of jobs that ran in another process, which has died; return False if the end came first."""

        def act() -> bool:
            record_deaths(self._targets, self._oversight, death.jobs, death.cause, death.at)
            return True

        return self._reach(act) or False

    def stop(self, number: int) -> None:
        """Let running jobs end, because of a signal, and then the process.

        SIGHUP lets them take as long as they need, until another signal comes; the others until the timeout. Again:
        nothing.
        """
        hurries = number != getattr(signal, "SIGHUP", None)
        with self._mutex:
            if self._hurries or (self._signal is not None and not hurries):
                return
            self._signal, self._hurries = number, hurries
            begun = bool(self._targets)
            # Before the mutex is free: no job may begin in a process that is about to end.
            self._stopping.set()
        seconds = self._settings.shutdown_timeout
        time_to_end = f"{seconds:g} s" if hurries else "as long as they need"
        _logger.info(
            "stopping signal=%s: running jobs have %s to end", printable(name_of(number)), printable(time_to_end)
        )
        if not begun:
            self._ended()
            end_process(0)
        elif hurries:
            alarm = threading.Timer(seconds, self.end_now, (number,))
            alarm.daemon = True
            alarm.start()

    def end_now(self, number: int) -> None:
        """Undo and release what runs, and end the process with 128 and the signal's number."""
        with self._mutex:
            if self._ends_now:
                return
            self._ends_now = True
        last = threading.Timer(_LAST_SECONDS, end_process, (128 + number,))
        last.daemon = True
        last.start()
        pools = self._pools()
        for pool in pools:
            threading.Thread(target=pool.abandon, daemon=True).start()
        until = time.monotonic() + _LETTING_GO_SECONDS
        while time.monotonic() < until and any(pool.running() for pool in pools):
            time.sleep(0.01)
        # Not before: one that returned meanwhile is done. What has failed meanwhile was logged where it was undone.
        for pool in pools:
            for job in pool.running():
                log_released(_logger, job)
        _logger.warning("ended status=%d signal=%s", 128 + number, printable(name_of(number)))
        self._ended()
        logging.shutdown()
        sys.stdout.flush()
        end_process(128 + number)

    def look(self) -> Standing:
        """Return how the process stands."""
        states = [pool.look() for pool in self._pools()]
        reasons = [f"it is {self._stage}"] if self._stage != "working" else why_not_ready(states, len(self._targets))
        if self._outage:
            reasons.append(self._outage)
        silent = [f"workers of {each.queue!r} hang" for each in states if hangs(each)]
        return Standing(
            live=not silent,
            ready=self._stage == "working" and not reasons,
            reasons=(*reasons, *silent),
            stage=self._stage,
            queues=tuple(each.queue for each in states),
            workers=sum(each.workers for each in states),
            busy=sum(each.busy for each in states),
            settled=self._tally.settled,
            depths=() if self._depths is None else self._depths.seen,
            nothing_due=self._nothing_due,
            counts=self._tally.counts() if self._settings.tells_metrics else Counts(),
        )

    def log_stacks(self) -> None:
        """Log what every thread does."""
        log_stacks(_logger, [seat for each in self._oversight for seat in each.seats])

    def _hear(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            # What a parent asks for isn't counted: the same signal may have come to both.
            self._times += 1
            if self._times == 1:
                self.stop(number)
            else:
                self.end_now(number)
        elif number == getattr(signal, "SIGUSR1", None):
            self.log_stacks()
        elif number == getattr(signal, "SIGHUP", None) and self._hangs_up:
            self.stop(number)

    def _start(self) -> None:
        counter = EventCounter(self._tally, EVENTS)
        for target, oversight in zip(self._targets, self._oversight, strict=True):
            counter.attach_to(target.client.logger)
            if self._settings.queues and target.pool is not None:
                self._reach(partial(warn_of_unknown, target.client, target.pool.queue))
            self._reach(partial(target.start, oversight))
        if self._settings.looks_at_queues:
            self._depths = Depths(self._pools)
        self._stage = "working"

    def _live(self) -> None:
        """Return when it is time to end."""
        while not self._stopping.is_set():
            self._tell(self.look())
            states = [pool.look() for pool in self._pools()]
            if any(each.started and not each.alive for each in states):
                self._note_ended_workers(states)
                return
            if self._settings.until_empty and self._is_done(states):
                self._nothing_due = True
                _logger.info("queue_empty: nothing is due any more")
                return
            self._stopping.wait(_LOOK_SECONDS if self._settings.until_empty else self._next_tick())

    def _note_ended_workers(self, states: list[PoolState]) -> None:
        if not self._stopping.is_set():
            _logger.error("workers_ended: %s", printable(why_ended(states)))
            self._failed = True

    def _is_done(self, states: list[PoolState]) -> bool:
        if len(states) < len(self._targets) or not all(each.started and each.resting for each in states):
            return False
        return self._reach(lambda: all(nothing_is_due(pool) for pool in self._pools())) or False

    def _pools(self) -> list[WorkerPool]:
        return [pool for target in self._targets if (pool := target.pool) is not None]

    def _drain(self) -> None:
        """Let running jobs end, and close what is open."""
        self._stage = "ending"
        self._tell(self.look())
        threads = [threading.Thread(target=target.shutdown, daemon=True) for target in self._targets]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self._tell(self.look())
            for thread in threads:
                thread.join(self._next_tick() / len(threads))
        if self._depths is not None:
            self._depths.stop()
        for target in self._targets:
            target.close()
        _logger.info("ended jobs=%d", self._tally.settled)

    def _reach_limit(self) -> None:
        """Take no more jobs. In the thread of the worker that has done the last one, before it looks for another."""
        _logger.info("stopping jobs=%d: that is as many as it was to do", self._tally.settled)
        self._stopping.set()
        for pool in self._pools():
            pool.stop()

    def _reach(self, act: Callable[[], _Result]) -> _Result | None:
        """Return what *act* gives, however long the database can't be reached; None if it is time to end.

        A server that has no connection left at the moment is waited for, too; others may end soon.
        """
        outage = Outage(_logger)
        failures = 0
        while not self._stopping.is_set():
            try:
                result = act()
            except (psycopg2.OperationalError, ErrTooFewConnections) as error:
                if not _may_pass(error):
                    raise
                outage.begin_for(self, error)
                failures += 1
                what = "the database can't be reached" if isinstance(error, psycopg2.Error) else "it can't connect"
                self._outage = f"{what}: {one_line(error)}"
                self._tell(self.look())
                self._stopping.wait(reconnect_pause(failures, _LONGEST_PAUSE_SECONDS))
            else:
                self._outage = ""
                outage.end_for(self)
                return result
        return None


def _may_pass(error: Exception) -> bool:
    """Whether it helps to wait. A source's own limit stays what it is."""
    return isinstance(error, psycopg2.OperationalError) or isinstance(error.__cause__, psycopg2.OperationalError)
