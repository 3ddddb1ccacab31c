"""Texts take as many columns as a terminal gives them."""

from __future__ import annotations

import pytest

from qg.cli.cells import cut, left, right, width
from qg.cli.output import Listing, Output

WIDE = [("mail", 4), ("", 0), ("メール", 6), ("für", 3), ("fu\u0308r", 3), ("🚀", 2), ("❤\ufe0f", 1), ("a\u200db", 2)]


@pytest.mark.parametrize(("text", "columns"), WIDE)
def test_a_text_is_as_wide_as_a_terminal_shows_it(text: str, columns: int) -> None:
    assert width(text) == columns
    assert left(text, 8) == text + " " * (8 - columns)
    assert right(text, 8) == " " * (8 - columns) + text


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [("abcd", 4, "abcd"), ("abcde", 4, "abc…"), ("メール", 6, "メール"), ("メール", 5, "メー…"), ("メール", 4, "メ…")],
)
def test_a_text_is_cut_where_its_columns_end(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown


def test_columns_stand_below_each_other_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    listing: Listing[str] = Listing({"queue": str, "state": lambda _: "due"}, lambda _: {}, str)
    Output().rows(["mail", "メール便", "🚀"], listing)
    assert capsys.readouterr().out == "queue     state\nmail      due\nメール便  due\n🚀        due\n"
