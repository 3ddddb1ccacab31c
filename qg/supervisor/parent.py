"""Parent: starts processes that work, passes signals on to them, and replaces those that die. Works nothing itself."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from dataclasses import replace
from functools import partial

from qg.failures import printable
from qg.supervisor.offspring import Child
from qg.supervisor.reloading import Sources
from qg.supervisor.settings import Settings, Supervision
from qg.supervisor.signalled import Signals, name_of
from qg.supervisor.standing import Standing, standing_of_all
from qg.supervisor.surfaces import Surfaces
from qg.supervisor.tally import Counts
from qg.supervisor.unrecorded import Unrecorded

__all__ = ["work_with_children"]

_logger = logging.getLogger("qg")

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 30.0
# A process that has lived for so long has no part in what failed before.
_LONG_LIFE_SECONDS = 60.0
# How long a child may take to end by itself after its timeout, until it is killed.
_GRACE_SECONDS = 5.0
# A child that hasn't told how it stands for so long hangs.
_SILENT_SECONDS = 30.0


def work_with_children(settings: Settings, supervision: Supervision, surfaces: Surfaces, signals: Signals) -> int:
    """Have children work until it is time to end, and return the exit status. In the main thread.

    Args:
        settings: what to work, and how.
        supervision: how many of them, and what is done around them.
        surfaces: where it is told how that goes; closed at the end.
        signals: installed already.
    """
    try:
        return _Parent(settings, supervision, surfaces, signals).run()
    finally:
        surfaces.close()


class _Place:
    """A place for a process: who has it, and when the next one is to be started."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.start_at: float | None = 0.0
        self.failures = 0
        self.was_ready = False


class _Parent:
    def __init__(self, settings: Settings, supervision: Supervision, surfaces: Surfaces, signals: Signals) -> None:
        count = supervision.processes or 1
        self._settings = replace(settings, tells_metrics=supervision.metrics)
        self._surfaces = surfaces
        self._signals = signals
        self._sources = Sources(os.getcwd()) if supervision.reload else None
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._selector = selectors.DefaultSelector()
        self._deaths = Unrecorded()
        self._past = Counts()
        self._restarts = 0
        self._signal: int | None = None
        self._kill_at: float | None = None
        self._status = 0

    def run(self) -> int:
        """Return the exit status when the last child has ended."""
        self._selector.register(self._signals.socket, selectors.EVENT_READ, self._hear)
        looked_at = 0.0
        while True:
            self._start_what_is_due()
            if not self._is_needed():
                break
            for key, _ in self._selector.select(self._seconds_until_next()):
                key.data()
            self._reap()
            self._kill_if_late()
            now = time.monotonic()
            if now - looked_at >= self._surfaces.seconds_until_next:
                looked_at = now
                self._surfaces.tell(self._standing())
                self._look_for_changes()
        self._deaths.log()
        _logger.info("ended processes=%d status=%d", len(self._places), self._status)
        return self._status

    def _is_needed(self) -> bool:
        if any(place.child is not None for place in self._places):
            return True
        waits = self._sources is not None or any(place.start_at is not None for place in self._places)
        return waits and self._signal is None and not self._status

    # Starting

    def _start_what_is_due(self) -> None:
        if self._signal is not None or self._status:
            return
        for place in self._places:
            if place.child is None and place.start_at is not None and place.start_at <= time.monotonic():
                self._start(place)

    def _start(self, place: _Place) -> None:
        settings = replace(self._settings, looks_at_queues=self._settings.tells_metrics and place.number == 1)
        waiting = self._deaths.waiting()
        try:
            child = Child(place.number, settings, waiting)
        except OSError as error:
            pause = self._pause(place, 0.0)
            place.start_at = time.monotonic() + pause
            _logger.error("process_unstarted number=%d: %s; tried again in %g s", place.number, printable(error), pause)
            return
        self._deaths.give(waiting, child)
        place.child, place.start_at = child, None
        self._selector.register(child.status, selectors.EVENT_READ, partial(self._listen_to, child))
        _logger.info("process_started number=%d pid=%d", place.number, child.pid)

    def _listen_to(self, child: Child) -> None:
        for message in child.read():
            for said in message.keys() & {"recorded", "unrecorded"}:
                self._deaths.hear(message[said], recorded=said == "recorded")

    # Signals

    def _hear(self) -> None:
        for number in self._signals.socket.recv(64):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(number)
            elif number == signal.SIGUSR1:
                self._say(stacks=True)
            elif number == signal.SIGHUP:
                _logger.info("replacing signal=SIGHUP: each process ends when its jobs have, and another one follows")
                self._replace()

    def _stop(self, number: int) -> None:
        again, self._signal = self._signal is not None, self._signal or number
        seconds = 0.0 if again else self._settings.shutdown_timeout
        if again:
            self._say(end_now=number)
        else:
            _logger.info("stopping signal=%s: running jobs have %g s to end", printable(name_of(number)), seconds)
            self._ask_to_stop(number)
        self._kill_at = time.monotonic() + seconds + _GRACE_SECONDS

    def _replace(self) -> None:
        if self._signal is None:
            self._ask_to_stop(signal.SIGHUP)
            for place in self._places:
                place.failures = 0
                if place.child is None:
                    place.start_at = 0.0

    def _ask_to_stop(self, number: int) -> None:
        self._say(stop=number)
        for place in self._places:
            if place.child is not None:
                place.child.asked = True

    def _say(self, **message: object) -> None:
        for place in self._places:
            if place.child is not None:
                place.child.say(**message)

    def _kill_if_late(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            for place in self._places:
                if place.child is not None:
                    _logger.error("process_killed number=%d pid=%d: it didn't end", place.number, place.child.pid)
                    place.child.kill()

    # Ends

    def _reap(self) -> None:
        """Take note of each process that has ended; as process 1, of those too that are nobody's any more."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for place in self._places:
                if place.child is not None and place.child.pid == pid:
                    self._note_end(place, place.child, os.waitstatus_to_exitcode(status))

    def _note_end(self, place: _Place, child: Child, status: int) -> None:
        self._listen_to(child)
        self._selector.unregister(child.status)
        child.close(status)
        place.child = None
        place.was_ready = place.was_ready or child.was_ready
        if child.standing is not None:
            self._past.add(child.standing.counts)
        self._deaths.take_back_from(child)
        if status == 0 and (child.asked or child.is_ending):
            self._follow_orderly_end(place, child)
        elif child.asked and status in (-signal.SIGTERM, -signal.SIGINT) and not child.running():
            self._follow_orderly_end(place, child)  # the same signal came to it before it could hear any
        elif child.asked and (status > 128 or child.killed):
            if self._signal is not None:
                self._status = 128 + self._signal
            place.start_at = 0.0
        else:
            self._follow_death(place, child, status)

    def _follow_orderly_end(self, place: _Place, child: Child) -> None:
        if child.standing is not None and child.standing.nothing_due and not child.asked:
            return  # nothing is left to do for another one
        if self._signal is None:
            self._restarts += 1
            place.start_at = 0.0

    def _follow_death(self, place: _Place, child: Child, status: int) -> None:
        jobs = tuple(child.running())
        cause = f"signal {-status} ({name_of(-status)})" if status < 0 else f"exit status {status}"
        ran = f"; it ran {len(jobs)} jobs, ids {', '.join(str(job.id) for job in jobs)}" if jobs else ""
        if status == 2 and not self._has_been_ready():  # it has said why
            if self._sources is None:
                self._status = 2
                self._ask_to_stop(signal.SIGTERM)
            place.start_at = 0.0 if child.asked else None  # what it has failed with has changed meanwhile
            return
        if jobs:
            self._deaths.add(jobs, f"the process died: {cause}", time.monotonic())
            self._have_recorded()
        self._restarts += 1
        pause = self._pause(place, child.age) if not jobs else _FIRST_PAUSE_SECONDS
        if self._signal is None:
            place.start_at = time.monotonic() + pause
            following = f"; another one starts in {pause:g} s"
        else:
            self._status, following = self._status or 1, ""
        _logger.error(
            "process_died number=%d pid=%d: %s after %.1f s%s%s",
            place.number,
            child.pid,
            printable(cause),
            child.age,
            printable(ran),
            printable(following),
        )

    def _has_been_ready(self) -> bool:
        """Whether any process has ever been ready: then there is something that can be worked, and it may be again."""
        return any(each.was_ready or (each.child is not None and each.child.was_ready) for each in self._places)

    def _pause(self, place: _Place, age: float) -> float:
        """Return how long to wait until the next process is started after one that has ended by itself: ever longer."""
        place.failures = 0 if age > _LONG_LIFE_SECONDS else place.failures + 1
        return float(min(_FIRST_PAUSE_SECONDS * 2.0 ** min(place.failures, 20), _LONGEST_PAUSE_SECONDS))

    def _have_recorded(self) -> None:
        """Have what is still to be recorded of deaths recorded by a child that works, at once, if there is one.

        Otherwise the next one does it, before it takes its first job.
        """
        able = [each.child for each in self._places if each.child is not None and each.child.is_working]
        if able:
            for death in (waiting := self._deaths.waiting()):
                able[0].say(died=death.to_plain())
            self._deaths.give(waiting, able[0])

    # Telling

    def _seconds_until_next(self) -> float:
        times = [place.start_at for place in self._places if place.child is None and place.start_at is not None]
        if self._kill_at is not None:
            times.append(self._kill_at)
        seconds = [self._surfaces.seconds_until_next, *(each - time.monotonic() for each in times)]
        return max(min(seconds), 0.0)

    def _standing(self) -> Standing:
        missing, there = [], []
        for place in self._places:
            child = place.child
            if child is None or child.standing is None:
                missing.append(f"process {place.number} is starting")
            elif child.is_silent(_SILENT_SECONDS):
                there.append(
                    replace(child.standing, live=False, ready=False, reasons=(f"process {place.number} hangs",))
                )
            else:
                there.append(child.standing)
        stage = "working" if any(each.stage == "working" for each in there) else "starting"
        counts = Counts()
        counts.add(self._past)
        counts.events["process_died"] += self._deaths.died
        return standing_of_all(there, counts, self._restarts, "ending" if self._signal else stage, missing)

    def _look_for_changes(self) -> None:
        if self._sources is not None and (path := self._sources.changed()) is not None:
            _logger.info("replacing path=%s: it has changed", printable(path))
            self._replace()
