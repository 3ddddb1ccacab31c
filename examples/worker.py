"""A worker that greets users, and counts them once a minute, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import sys

from tasks import CountUsers, GreetUser

from qg import jobs


def main() -> None:
    """Work until a signal; then running jobs end, and no new ones start."""
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, lambda *_: sys.exit())

    with jobs.PostgresJobs(os.environ["DATABASE_URL"], pool_size=2) as queue:
        queue.register_job_func(greet_user)
        queue.register_job_func(count_users)
        queue.schedule("@every 1m", CountUsers())
        queue.start()
        signal.pause()


def greet_user(ctx: jobs.Context, job: GreetUser) -> None:
    """Note that the user was greeted, in the transaction that deletes the job."""
    with ctx.tx.cursor() as cur:
        cur.execute("UPDATE users SET greeted = true WHERE id = %s", (job.user_id,))
    ctx.logger.info("hello user=%d", job.user_id)


def count_users(ctx: jobs.Context, job: CountUsers) -> None:
    """Log how many there are."""
    with ctx.tx.cursor() as cur:
        cur.execute("SELECT count(*) FROM users")
        ctx.logger.info("users count=%d", *cur.fetchone())


if __name__ == "__main__":
    main()
