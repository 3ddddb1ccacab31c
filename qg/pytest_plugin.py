"""What qg offers to pytest; found by itself once qg is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qg.jobs import TestQueue

__all__ = ["job_queue"]


@pytest.fixture
def job_queue() -> Iterator[TestQueue]:
    """A :class:`qg.jobs.TestQueue`, empty. Needs the extra ``qg[jobs]``."""
    # Here, since those who test without jobs needn't have the extra.
    from qg.jobs import TestQueue

    with TestQueue() as queue:
        yield queue
