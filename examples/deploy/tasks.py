"""The jobs of the application that the files in this folder deploy."""

from __future__ import annotations

import logging

import qg

log = logging.getLogger(__name__)


def send_mail(job: qg.Job) -> None:
    """Send a mail; here, only say so."""
    (address,) = job.args
    log.info("mail to=%s", address)


work_map = {"SendMail": send_mail}
