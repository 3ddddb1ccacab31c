"""qg.control: look at the queues from outside, act on their jobs, pause them, and have everything checked.

::

    from qg.control import Control, Filter

    with Control("postgresql:///app", by="ada") as control:
        for queue in control.overview().queues:
            print(queue.queue, queue.status, queue.due, queue.failing, queue.oldest_due)
        control.retry(Filter(queue="mail", state="failing", error="timeout"))

It works versions 3 to 7 of the table, whoever enqueued the jobs and whoever works them.
"""

from __future__ import annotations

from qg.control.control import Control, doctor
from qg.control.filters import Filter
from qg.control.records import Attempt, Count, ErrorGroup, ErrorGroups, Holder, JobDetail, JobView, Order, Page, State
from qg.control.reports import Finding, Left, Report, Severity
from qg.control.standing import Overview, Pause, PoolView, QueueView, ScheduleView, Trend, WorkerView

__all__ = [
    "Attempt",
    "Control",
    "Count",
    "ErrorGroup",
    "ErrorGroups",
    "Filter",
    "Finding",
    "Holder",
    "JobDetail",
    "JobView",
    "Left",
    "Order",
    "Overview",
    "Page",
    "Pause",
    "PoolView",
    "QueueView",
    "Report",
    "ScheduleView",
    "Severity",
    "State",
    "Trend",
    "WorkerView",
    "doctor",
]
