"""Whatever happens in whatever order, qg keeps its promises; and each of its rules is there for one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from model import Fault, Protocol, Rule
from promises import Promise, explore


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Stand in for the fixture of all other tests: nothing here needs a PostgreSQL."""


# With the number of states of each. Another number means that the model says something else than before.
WORLDS = {
    "two workers, three faults": (Protocol(faults=3), 70_335),
    "three workers, two faults": (Protocol(workers=3, faults=2), 27_651),
    "two workers with batches, one fault": (Protocol(jobs=2, batch_size=2, faults=1), 27_498),
    "one worker with batches, two faults": (Protocol(workers=1, jobs=2, batch_size=2, faults=2), 44_625),
    "two workers whose handlers may have transactions of their own, two faults": (
        Protocol(in_tx=True, faults=2),
        16_595,
    ),
    "two workers whose locks and transactions are on two sessions, two faults": (
        Protocol(shared=True, faults=2),
        11_499,
    ),
}

# What must have happened, or promises may hold only because nothing put them to the test.
ALWAYS_SAID = {
    "Worker 1 looks again, job 1 isn't there as it was, and unlocks it.",
    "Worker 1 finds job 1 gone, and rolls back.",
    "Worker 1 finds job 1 gone, with nothing to undo.",
    "Worker 1 finds that job 1 has moved on.",
    "Worker 1 doesn't get the lock of job 1 again, and records nothing.",
    "Worker 1 reschedules job 1, uncounted.",
    "The server commits in a session that was left, and ends it.",
    "Job 1 falls due.",
}
SAID_OF_BATCHES = {
    "Worker 1 breaks up its batch while it runs job 2.",
    "Worker 1 deletes job 1 and job 2.",
    "Worker 1 unlocks all others.",
}


SAID_OF_SHARED = {
    "Worker 1 finds the session with the locks gone.",
    "Worker 1 may delete job 1.",
    "Worker 1 has the lock of job 1 still.",
}
SAID_OF_TX = {
    "Worker 1 finds job 1 settled by its handler's transaction.",
    "Worker 1 finds its handler's transaction rolled back.",
    "Worker 1 finds its handler's transaction still open.",
    "Worker 1 can't write to job 1, and leaves it as it is.",
    "Worker 1 runs job 1, whose handler writes in a transaction of its own and finds the job gone, and rolls back.",
}


@pytest.mark.parametrize(("protocol", "states"), WORLDS.values(), ids=list(WORLDS))
def test_no_promise_is_broken_whatever_happens_in_whatever_order(protocol: Protocol, states: int) -> None:
    seen = explore(protocol)
    assert not seen.broken, seen.told
    assert set(seen.faults) == set(Fault)
    assert seen.said >= ALWAYS_SAID
    assert protocol.batch_size == 1 or seen.said >= SAID_OF_BATCHES
    assert not protocol.in_tx or seen.said >= SAID_OF_TX
    assert not protocol.shared or seen.said >= SAID_OF_SHARED
    assert (seen.states, seen.ends > 0) == (states, True)


# Which rules are left out, which faults it takes then, each once, and which promise they break.
BREAKING: list[tuple[set[Rule], list[Fault], Promise]] = [
    ({Rule.LOOK_AGAIN}, [], Promise.NOT_STALE),
    ({Rule.LOOK_AGAIN, Rule.FENCE}, [], Promise.ONCE),
    ({Rule.WHOLE_KEY}, [Fault.FAILURE], Promise.NOT_STALE),
    ({Rule.FENCE}, [Fault.LOCK_LOST], Promise.ONCE),
    ({Rule.FENCE}, [Fault.REMOVAL], Promise.CANCELLED),
    ({Rule.EFFECTS_WITH_DELETION}, [Fault.CRASH], Promise.ONCE),
    ({Rule.DELETION_WITH_EFFECTS}, [Fault.CRASH], Promise.NOT_LOST),
    ({Rule.DELETE_BY_ID}, [Fault.EDIT], Promise.DONE),
    ({Rule.LOOK_IN_TX}, [Fault.FAILURE], Promise.DONE),
    ({Rule.UNLOCK_LAST}, [], Promise.UNDISTURBED),
    ({Rule.UNLOCK_LAST, Rule.FENCE}, [], Promise.ONCE),
    ({Rule.ROLL_BACK_FIRST}, [Fault.FAILURE], Promise.ONCE),
    ({Rule.LOCK_ANEW}, [Fault.IN_DOUBT], Promise.UNDISTURBED),
    ({Rule.LOCK_ANEW}, [Fault.IN_DOUBT, Fault.FAILURE], Promise.RECORDED_ONCE),
    ({Rule.CHECK_ANEW}, [Fault.IN_DOUBT, Fault.FAILURE], Promise.RECORDED_ONCE),
    ({Rule.COUNT_UP}, [Fault.LOCK_LOST, *[Fault.FAILURE] * 3], Promise.COUNTED_UP),
    ({Rule.KEY_ANEW}, [Fault.IN_DOUBT, Fault.FAILURE, Fault.LOCK_LOST], Promise.RECORDED_NOT_TWICE),
]


def named(rules: set[Rule], faults: list[Fault], promise: Promise) -> str:
    left_out = " and ".join(sorted(rule.name for rule in rules))
    return f"without {left_out}, {', '.join(fault.name for fault in faults) or 'no fault'}: not {promise.name}"


def breaking(rules: set[Rule], faults: list[Fault], without: frozenset[Rule] = frozenset()) -> Protocol:
    in_tx = Rule.LOOK_IN_TX in rules
    return Protocol(in_tx=in_tx, faults=len(faults), kinds=tuple(faults), without=without)


@pytest.mark.parametrize(("rules", "faults", "promise"), BREAKING, ids=[named(*each) for each in BREAKING])
def test_without_a_rule_a_promise_is_broken(rules: set[Rule], faults: list[Fault], promise: Promise) -> None:
    seen = explore(breaking(rules, faults, frozenset(rules)), [promise])
    assert seen.broken is promise


@pytest.mark.parametrize(("rules", "faults", "promise"), BREAKING, ids=[named(*each) for each in BREAKING])
def test_with_all_rules_the_same_faults_break_nothing(rules: set[Rule], faults: list[Fault], promise: Promise) -> None:
    assert not explore(breaking(rules, faults)).broken


def test_where_a_lock_is_lost_without_its_transaction_the_fence_keeps_effects_single() -> None:
    protocol = Protocol(shared=True, faults=1, kinds=(Fault.CUT,))
    assert not explore(protocol).broken
    assert explore(replace(protocol, without=frozenset({Rule.FENCE})), [Promise.ONCE]).broken is Promise.ONCE


def test_no_rule_is_there_for_nothing() -> None:
    assert {rule for rules, _, _ in BREAKING if len(rules) == 1 for rule in rules} == set(Rule)


def test_how_a_promise_was_broken_is_told_step_by_step() -> None:
    without_fence = Protocol(faults=1, kinds=(Fault.REMOVAL,), without=frozenset({Rule.FENCE}))
    assert explore(without_fence).told.splitlines() == [
        "Worker 1 begins the statement that locks, which sees job 1.",
        "Worker 1 gets the lock of job 1.",
        "Worker 1 looks again, and job 1 is there.",
        "Worker 1 runs job 1, whose handler writes in a transaction and returns.",
        "A person deletes job 1.",
        "Worker 1 deletes job 1 in that, and meets no row.",
        "Worker 1 commits.",
        "So the effects of a job were committed, though a person had removed it.",
    ]
