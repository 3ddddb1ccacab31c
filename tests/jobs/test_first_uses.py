"""msgspec crashes where two threads use a class for the first time, so no two threads ever do."""

from __future__ import annotations

import subprocess
import sys

import pytest

TOGETHER = """
import sys, threading
from collections.abc import Callable

sys.setswitchinterval(1e-6)

def together(act: Callable[[], object]) -> None:
    barrier = threading.Barrier(12)
    def run() -> None:
        barrier.wait()
        act()
    threads = [threading.Thread(target=run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""

ENVELOPES = """
import importlib
import qg.jobs.envelope as envelope

document = {"jobData": {"a": 1}, "jobStructPath": "x", "ctx": {"userId": "u", "carrier": {"a": "b"}}}
for _ in range(60):
    importlib.reload(envelope)  # makes new classes
    together(lambda: envelope.PersistencePayload.read(document).to_builtins())
"""

PAYLOADS = """
from dataclasses import make_dataclass
from typing import NamedTuple
import msgspec
from qg.jobs.payloads import payload_type

for number in range(60):
    inner = make_dataclass("Inner", [("x", int), ("y", list[str])])
    fields = [("one", inner), ("many", list[inner])]
    classes = [
        make_dataclass("Data", fields), msgspec.defstruct("Struct", fields), NamedTuple("Named", fields),
    ]
    document = {"one": {"x": 1, "y": []}, "many": [{"x": 1, "y": ["a"]}]}
    def use() -> None:
        for cls in classes:
            takes = payload_type(cls)
            takes.encode(takes.decode(document))
    together(use)
"""


@pytest.mark.parametrize("script", [ENVELOPES, PAYLOADS], ids=["envelopes", "payloads"])
def test_threads_may_use_a_class_for_the_first_time_at_once(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER + script + "print('alive')"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("kind", ["dataclass", "Struct"])
def test_to_examine_a_class_makes_no_instance_of_it(kind: str) -> None:
    import dataclasses

    import msgspec

    from qg.jobs.payloads import payload_type

    made = []

    def note(self: object) -> None:
        made.append(self)

    body = {"__post_init__": note, "__annotations__": {"x": int}, "x": 1, "__module__": __name__}
    cls = (
        dataclasses.dataclass(type("Noted", (), body))
        if kind == "dataclass"
        else type(msgspec.Struct)("Noted", (msgspec.Struct,), body)
    )
    assert payload_type(cls).decode({"x": 2}).x == 2
    assert len(made) == 1
