"""The text files below a folder, as a person would count them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qg.errors import QgError
from qg.failures import printable

__all__ = ["text_files"]

# What tools put there: copies of files, or other people's.
_GENERATED = {"build", "dist", "node_modules", "__pycache__"}


def text_files(folder: Path) -> tuple[list[Path], int]:
    """Return the text files below *folder*, and how many files there are none or can't be read.

    Hidden folders, virtual environments and what builds leave are passed over.

    Raises:
        QgError: if there is no such folder, or no text file in it.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "doesn't exist"
        raise QgError(f"{printable(folder)} {what}; give --path an existing folder")
    every = list(_walk(folder))
    files = [path for path in every if _is_text(path)]
    if not files:
        raise QgError(f"there is no text file below {printable(folder)}; give --path another folder")
    return files, len(every) - len(files)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_own(Path(parent, name)))
        for name in sorted(names):
            yield Path(parent, name)


def _is_own(folder: Path) -> bool:
    generated = folder.name in _GENERATED or folder.name.endswith(".egg-info")
    return not generated and not folder.name.startswith(".") and not Path(folder, "pyvenv.cfg").exists()


def _is_text(path: Path) -> bool:
    try:
        # Another kind than a regular file, a pipe say, might never end.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            beginning = file.read(8192)
        str(path).encode("utf-8")  # its name becomes JSON
    except (OSError, UnicodeEncodeError):
        return False
    return bool(beginning) and b"\x00" not in beginning
