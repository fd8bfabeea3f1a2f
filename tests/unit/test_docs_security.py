"""docs/security.md against the tests: each test that the page names exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/security.md"
NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


def promises() -> list[str]:
    """The rows of the page's tables of promises, without their headings."""
    tables = PAGE.read_text(encoding="utf-8").partition("## What we promise")[2].partition("## What we do not promise")[0]
    return [line for line in tables.splitlines() if line.startswith("| ") and not line.startswith(("| promise |", "| --- |"))]


def test_each_promise_names_a_test_that_exists() -> None:
    assert len(promises()) > 20
    for promise in promises():
        named = NAMED.findall(promise.rpartition("| `")[2].join(("`", "")))
        assert named, promise
        for file, function in named:
            text = (TESTS / file).read_text(encoding="utf-8")
            assert f"\ndef {function}(" in text, (file, function)
