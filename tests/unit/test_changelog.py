"""Changelog fragments are reStructuredText; antsibull-changelog lint does not notice the markup of Ansible docs and of Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

FRAGMENTS = sorted((Path(__file__).parents[2] / "changelogs/fragments").glob("*.yml"))
# C(literal) and M(module.name) of Ansible's documentation; `literal`, [text](address) and **bold** of Markdown.
OTHER_MARKUP = re.compile(r"\b[A-Z]\([^)]*\)|(?<!`)`(?!`)[^`]+`(?!`)|\[[^\]]*\]\([^)]*\)|\*\*")


@pytest.mark.parametrize("fragment", [pytest.param(path, id=path.stem) for path in FRAGMENTS])
def test_a_fragment_has_no_other_markup(fragment: Path) -> None:
    entries = [entry for section in yaml.safe_load(fragment.read_text(encoding="utf-8")).values() for entry in section]
    assert [found for entry in entries for found in OTHER_MARKUP.findall(entry)] == []


@pytest.mark.parametrize("text", ["option C(newest)", "option `newest`", "see [signing](docs/signing.md)", "**all** kernels"])
def test_other_markup_is_found(text: str) -> None:
    assert OTHER_MARKUP.search(text)


def test_literals_are_not_other_markup() -> None:
    assert not OTHER_MARKUP.search("options ``newest`` and ``all`` (``build_incomplete``), a key in a PKCS#11 token (a file)")
