"""The server stops and starts under a running pool."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from experiment import Experiment, Kind
from servers import Server

pytestmark = pytest.mark.slow

JOBS = 100
TIMES = 5


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_pool_goes_on_when_the_server_is_back(
    begin: Callable[..., Experiment], make_database_on: Callable[[str], str], server: Server, mode: str, kind: Kind
) -> None:
    experiment = begin(f"server stopped ({mode}) and started", kind, queue=make_database_on(server.dsn))
    with experiment.pool():
        for _ in range(TIMES):
            experiment.enqueue(JOBS)
            experiment.wait_for_runs(10)
            server.stop(mode)
            server.start()
            experiment.fault_is_over()
        experiment.enqueue(JOBS)
        experiment.wait_until_worked()
    experiment.check()
