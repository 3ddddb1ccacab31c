"""Colours are shown on a terminal, unless NO_COLOR says that none are wanted (https://no-color.org)."""

from __future__ import annotations

import io
import re

import pytest
from support import needs

from qg.cli.output import Listing, Output

Display = needs("qg.cli.display").Display

# SGR 30 to 37, 38, 90 to 97 and their like for the background; bold and the like are no colours.
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:[349]\d|10\d)[;m\d]*")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    with Display(2) as display:
        display.say("a warning", style="yellow")
        display.progress(1)
    listing: Listing[int] = Listing({"id": int}, lambda _: {}, int)
    Output().rows([1], listing)
    assert bool(_COLOUR.search(terminal.getvalue())) == coloured
