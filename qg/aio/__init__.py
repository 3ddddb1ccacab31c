"""qg for asyncio: a client whose methods are awaited, and which never blocks the event loop.

::

    from qg import Job, aio

    async with aio.Client("postgresql:///app") as client:
        async with AsyncSession(engine) as session, session.begin():
            session.add(user)
            await session.flush()
            await client.enqueue_in_tx(Job("Welcome", args=[user.id]), session)

It needs psycopg2 alone. asyncpg, psycopg 3 and SQLAlchemy are taken where you use them.
"""

from __future__ import annotations

from qg.aio.client import Client
from qg.aio.job import Job
from qg.aio.workerpool import WorkerPool

__all__ = ["Client", "Job", "WorkerPool"]
