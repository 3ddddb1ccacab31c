"""The commands that the pages name exist, with these options, and say what they need."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from guides import DOCS
from support import needs

commands = needs("qg.cli.commands").commands
CliRunner = needs("click.testing").CliRunner

PAGES = [DOCS / "deploy.md", DOCS / "control.md", DOCS / "operations.md", DOCS.parent / "README.md"]

# What stands for a value in a sentence.
_VALUES = {"PORT": "8080", "N": "2"}


class Connecting(Exception):  # noqa: N818 - a command is as far as this; it has refused nothing
    pass


def in_blocks(text: str) -> list[str]:
    """The commands of the blocks for a shell, without what is before, behind or around them in a line."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
    found = [re.search(r"^(?:\$ )?(?:.*(?:\(|&& |while ))?(qg(?: [^|>;)]*)?)", line) for line in lines]
    return [each[1] for each in found if each]


def in_sentences(text: str) -> list[str]:
    # `qg worker …` is the name of a session.
    return re.findall(
        r"`(qg (?!worker )[a-z][^`|]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def parsed(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that *words* call, and the words that are left for it."""
    command: Any = commands
    while isinstance(command, click.Group) and words:
        context = click.Context(command)
        command = command.get_command(context, words[0])
        assert command is not None, words
        words = words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_of_a_page_is_refused(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.jsonl").write_text("{}\n")

    def connect(source: object) -> None:
        raise Connecting

    monkeypatch.setattr("qg.cli.interrupting.Connections.__call__", connect)
    text = page.read_text(encoding="utf-8")
    named = [line for line in in_sentences(text) if parsed(shlex.split(line)[1:])[1]]
    lines = in_blocks(text) + named
    for line in lines:
        words = [_VALUES.get(word, word) for word in shlex.split(line)[1:]]
        command, left = parsed(words)
        with command.make_context(line, list(left)):
            pass
        if any(option.name == "as_json" for option in command.params):  # those that only ask or act
            result = CliRunner().invoke(commands, words)
            assert isinstance(result.exception, Connecting), (line, result.output)
