"""How a command ends: whatever a user can cause is one line on standard error, and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click
import psycopg2

from qg.cli.status import BY_CLOSED_PIPE, BY_CTRL_C, Status
from qg.errors import ErrUnknownJob, ErrUnknownQueue, QgError
from qg.failures import one_line

__all__ = ["Ended", "as_typed", "status_of"]


class Ended(click.ClickException):
    """Ends a command with a sentence on standard error.

    Args:
        message: the sentence: what happened, to what, and what to do.
        status: the exit status.
    """

    def __init__(self, message: str, status: int = Status.COULD_NOT_RUN) -> None:
        super().__init__(message)
        self.exit_code = int(status)  # type: ignore[misc]


def status_of(run: Callable[[], Any]) -> int:
    """Run a command, and return its exit status: what *run* returns, None being 0.

    Raises:
        Ended: instead of an error that a user can cause.
    """
    try:
        status = run()
        sys.stdout.flush()
        return int(status or Status.DONE)
    except BrokenPipeError:
        # The reader has seen enough. Nothing is left to be written when Python closes the file.
        if (stdout := sys.__stdout__) is sys.stdout and stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return BY_CLOSED_PIPE
    except KeyboardInterrupt:
        return BY_CTRL_C
    except click.Abort as abort:
        # At a question; click has made it of Ctrl-C, or of the end of the input.
        if isinstance(abort.__context__, KeyboardInterrupt):
            return BY_CTRL_C
        raise Ended("the question got no answer, so nothing was done; give --yes", Status.NO) from abort
    except (ErrUnknownJob, ErrUnknownQueue) as error:
        raise Ended(as_typed(one_line(error)), Status.NO) from error
    except psycopg2.errors.InsufficientPrivilege as error:
        # Where qg can say itself which right is missing, it raises ErrRights.
        raise Ended(f"{one_line(error)}; docs/reliability.md lists, below Rights, what to GRANT for what") from error
    except (QgError, psycopg2.Error, OSError) as error:
        raise Ended(as_typed(one_line(error))) from error


# What remedies say in Python, and what does the same here.
_TYPED = {
    "qg.jobs.migrate(source)": "qg schema install --jobs",
    "qg.migrate(source, notify=True)": "qg schema install --notify",
    "qg.migrate(source)": "qg schema install",
    "jobs() lists": "qg jobs list lists",
}


def as_typed(sentence: str) -> str:
    """Return *sentence* with commands to type where it names calls of Python."""
    for call, command in _TYPED.items():
        sentence = sentence.replace(call, command)
    return sentence
