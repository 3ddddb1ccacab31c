"""What the tests of the guides share: a page's blocks, as the files of a program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write_files(page: str, folder: Path, replaced: dict[str, str] | None = None) -> list[str]:
    """Write each Python block of the page to the file that its first line names; return the names."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: list[str] = []
    for block in blocks:
        name = re.match(r"# ([\w/]+\.py)\n", block)
        assert name is not None, block
        for old, new in (replaced or {}).items():
            block = block.replace(old, new)
        path = folder / name[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block, encoding="utf-8")
        names.append(name[1])
    return names


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a program in *folder*, without that of the pytest that runs us."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV_", "DJANGO"))}
    return kept | {"PYTHONPATH": str(folder)} | more


def run(folder: Path, *command: str, **more: str) -> str:
    """Run a command of Python in *folder*, and return what it wrote; fail if it fails."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def links(page: str) -> list[tuple[str, str]]:
    """Where the page leads to within the repository: a file, "" for itself, and a title in it."""
    return re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", (DOCS / page).read_text(encoding="utf-8"))


def check_links(page: str) -> None:
    """Fail if one of them leads nowhere."""
    for link, anchor in links(page):
        target = DOCS / (link or page)
        titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in [title.lower().replace(" ", "-") for title in titles], (link, anchor)
