"""Text of any length in bounded memory."""

from __future__ import annotations

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util.bounded import Ends, cut, lines


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(None, [""], id="nothing"),
        pytest.param("a\nb\r\n\nc", ["a", "b", "", "c"], id="lines"),
        pytest.param("abcdef\ng", ["abcd", "g"], id="a long one is cut"),
        pytest.param("a\x0bb\x85c\u2028", ["a\x0bb\x85"], id="only a newline ends a line"),
    ],
)
def test_lines(text: str | None, found: list[str]) -> None:
    assert list(lines(text, 4)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("abcd", "abcd"), ("abcdefgh", "abcdefgh"), ("abcdefghi", "abcd [1 characters cut] fghi"), ("", "")],
)
def test_cut(text: str, found: str) -> None:
    assert cut(text, 8) == found


def kept(number: int, first: int, last: int) -> list[str]:
    out: list[str] = []
    ends = Ends(out.append, first * 70, last * 70)
    for line in range(number):
        ends.add(f"{line:06}")
    ends.end()
    return out


@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_what_fits_is_kept_whole(number: int) -> None:
    assert kept(number, 3, 2) == [f"{line:06}" for line in range(number)]


def test_of_more_both_ends_are_kept_and_a_line_says_what_was_cut() -> None:
    assert kept(10, 3, 2) == ["000000", "000001", "000002", "[5 lines, 35 characters, were cut here]", "000008", "000009"]


def test_a_short_line_after_a_cut_does_not_come_before_it() -> None:
    out: list[str] = []
    ends = Ends(out.append, 100, 100)
    for line in ("first", "x" * 500, "last"):
        ends.add(line)
    ends.end()
    assert out == ["first", "[1 lines, 501 characters, were cut here]", "last"]
