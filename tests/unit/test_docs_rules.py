"""docs/rules.md against its citations: each rule that code or a page cites by its number is on that page, once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
RULES = TOP / "docs/rules.md"
FOLDERS = ("bench", "changelogs", "docs", "lab", "molecule", "packer", "playbooks", "plugins", "roles", "src", "tests")
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".sh", ".j2", ".hcl"}
# The letter of a group and a number; not as part of a longer word, name or path, such as B200 or R12B.
CITATION = re.compile(r"(?<![\w./#-])[BDIR][0-9]{1,2}(?![\w/-])")
HEADING = re.compile(r"^### (.+)$", re.MULTILINE)


def headings() -> list[str]:
    return HEADING.findall(RULES.read_text(encoding="utf-8"))


def cited(text: str) -> set[str]:
    """The numbers of rules that a text cites."""
    return set(CITATION.findall(text))


def sources() -> Iterator[Path]:
    """Code and pages, without this file and the page of rules, whose citations are examples."""
    yield from (path for path in TOP.iterdir() if path.is_file() and path.suffix == ".md")
    for folder in FOLDERS:
        yield from (path for path in (TOP / folder).rglob("*") if path.suffix in SUFFIXES and path not in {Path(__file__), RULES})


def unruled(rules: list[str], paths: Iterator[Path]) -> list[str]:
    """The citations that name no rule, as ``file: number``."""
    return sorted(f"{path}: {number}" for path in paths for number in cited(path.read_text(encoding="utf-8")) if number not in rules)


def test_every_rule_that_is_cited_is_on_the_page() -> None:
    assert unruled(headings(), sources()) == []


def test_no_rule_is_on_the_page_twice() -> None:
    assert len(headings()) == len(set(headings()))


def test_every_heading_of_a_rule_is_a_number() -> None:
    assert [heading for heading in headings() if not CITATION.fullmatch(heading)] == []


def test_citations_are_found_in_the_code() -> None:
    found = {number for path in sources() for number in cited(path.read_text(encoding="utf-8"))}
    assert {"B10", "D3", "I4", "R7"} <= found


def test_a_citation_without_a_rule_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.py"
    page.write_text('"""Looks at the node (D15), and never guesses (B99)."""\n', encoding="utf-8")
    assert unruled(headings(), iter([page])) == [f"{page}: B99"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        pytest.param("inert (R1, R2, B10)", {"R1", "R2", "B10"}, id="a list"),
        pytest.param("never fatal (D11), and no reason to delete (R3):", {"D11", "R3"}, id="in a sentence"),
        pytest.param("eight B200, an R12B, ID3, D3-like, a/B1", set(), id="other words"),
    ],
)
def test_citations_are_distinguished_from_other_words(text: str, numbers: set[str]) -> None:
    assert cited(text) == numbers
