"""What an import closure holds, on a small library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import closure


@pytest.fixture
def graph(tmp_path: Path) -> dict[str, set[str]]:
    for name, text in {
        "__init__": "",
        "paths": "import os\n",
        "util/run": "from .. import paths\n",
        "system/host": "from ..util import run\nfrom ..util.run import x\n",
        "boot/look": "from ..system import host\nfrom . import plan\n",
        "boot/plan": "",
        "bake/flow": "",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return closure.imports(tmp_path)


def test_it_follows_every_import(graph: dict[str, set[str]]) -> None:
    assert closure.closure(graph, "boot/look") == {"boot/look", "boot/plan", "system/host", "util/run", "paths"}


def test_it_finds_the_longest_chain(graph: dict[str, set[str]]) -> None:
    assert closure.longest_chain(graph, "boot/look") == ("boot/look", "system/host", "util/run", "paths")
