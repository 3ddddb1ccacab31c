"""Reloading: whether a Python file of the application has changed, for ``qg work --reload``."""

from __future__ import annotations

import os
from collections.abc import Iterator

__all__ = ["Sources"]

_NOT_OURS = {"node_modules", "__pycache__", "site-packages"}


class Sources:
    """The Python files below a folder; hidden folders and virtual environments aside."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen = self._look()

    def changed(self) -> str | None:
        """Return a file that has changed, come or gone since the last call; None if none has."""
        before, self._seen = self._seen, self._look()
        different = before.items() ^ self._seen.items()
        return min((path for path, _ in different), default=None)

    def _look(self) -> dict[str, int]:
        return dict(self._walk())

    def _walk(self) -> Iterator[tuple[str, int]]:
        for parent, folders, names in os.walk(self._folder):
            folders[:] = [
                each
                for each in folders
                if not each.startswith(".")
                and each not in _NOT_OURS
                and not os.path.exists(os.path.join(parent, each, "pyvenv.cfg"))
            ]
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(parent, name)
                    try:
                        yield path, os.stat(path).st_mtime_ns
                    except OSError:  # gone meanwhile
                        continue
