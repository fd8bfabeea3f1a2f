"""What `ansible-test sanity` refuses in plugins and no linter of `make check` sees: the name _ (it is gettext's there)."""

from __future__ import annotations

import ast
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"


def test_no_plugin_binds_the_name_underscore() -> None:
    found = []
    for path in sorted(PLUGINS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_bound = (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "_") or (
                isinstance(node, ast.arg) and node.arg == "_"
            )
            if is_bound:
                found.append(f"{path.relative_to(PLUGINS)}:{node.lineno}: give it a name that begins with _")
    assert found == []
