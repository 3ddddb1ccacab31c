"""The application: finding what ``module:name`` means, and refusing what can't be worked."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType

from qg.client import Client
from qg.errors import QgError
from qg.failures import printable
from qg.worker import Worker
from qg.workerpool import WorkerPool

__all__ = ["ErrApplication", "find_application", "is_queue", "what_it_is"]

_KINDS = (
    "a work map (a dict from job type to function), a qg.jobs.PostgresJobs, a qg.WorkerPool, or a function without "
    "arguments that returns one or a list of these"
)


class ErrApplication(QgError):
    """There is no such application, or it is nothing that can be worked. Its import has succeeded, if it has one."""


def find_application(app: str) -> object:
    """Import the module of *app*, which is ``"module:name"``, and return what the name means in it.

    The current folder is searched first. The name may have dots: ``"module:object.attribute"``.

    Raises:
        ErrApplication: if there is no such module, or no such name in it.
        BaseException: whatever the import raises.
    """
    module_name, _, name = app.partition(":")
    if not module_name or not name:
        raise ErrApplication(f"{app!r} names no application; give MODULE:NAME, tasks:work_map for instance")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: object = _import(module_name)
    path = module_name
    for part in name.split("."):
        if not hasattr(found, part):
            raise ErrApplication(f"there is no {part!r} in {path}{_nearest(part, found)}")
        found, path = getattr(found, part), f"{path}.{part}"
    return found


def is_queue(thing: object) -> bool:
    """Whether *thing* is a qg.jobs.PostgresJobs. Doesn't import qg.jobs, whose extra may not be installed."""
    module = sys.modules.get("qg.jobs.postgres")
    return module is not None and isinstance(thing, module.PostgresJobs)


def what_it_is(thing: object) -> str:
    """Return what *thing* is, in words, for who expected something else; and what would do instead."""
    if isinstance(thing, (Client, Worker)):
        return f"a qg.{type(thing).__name__}, which has no threads to run; give {_KINDS}"
    module = type(thing).__module__
    if module.startswith("qg.aio."):
        name = f"a qg.aio.{type(thing).__name__}"
        return f"{name}, which runs in an event loop of yours (await pool.run()); here give {_KINDS}"
    if inspect.isawaitable(thing):
        if inspect.iscoroutine(thing):
            thing.close()
        return "something to be awaited, which nobody does here; give a function without async"
    if isinstance(thing, ModuleType):
        return f"a module; give a name in it: {_KINDS}"
    kind = type(thing)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"of type {name}; give {_KINDS}"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that the application imports is the application's own trouble, and needs its traceback.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        near = difflib.get_close_matches(name, [each.name for each in pkgutil.iter_modules([os.getcwd()])], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ErrApplication(
            f"there is no module {printable(error.name)!r} in {printable(os.getcwd())}, nor is one installed{hint}"
        ) from None


def _nearest(name: str, place: object) -> str:
    fit = [each for each in dir(place) if not each.startswith("_") and _could_be_meant(getattr(place, each, None))]
    near = difflib.get_close_matches(name, fit, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; give the name of {_KINDS}"


def _could_be_meant(thing: object) -> bool:
    if isinstance(thing, (type, ModuleType)):
        return False
    return isinstance(thing, (Mapping, WorkerPool)) or is_queue(thing) or callable(thing)
