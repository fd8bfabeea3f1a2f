"""What `ansible-test sanity` refuses in plugins and no linter of `make check` sees: the name _ (it is gettext's there)."""

from __future__ import annotations

import ast
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"


def test_no_plugin_binds_the_name_underscore() -> None:
    found = []
    for path in sorted(PLUGINS.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "_"]
        signatures = [node.args for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]  # a lambda may
        parameters = [a for s in signatures for a in (*s.posonlyargs, *s.args, *s.kwonlyargs) if a.arg == "_"]
        found += [f"{path.relative_to(PLUGINS)}:{node.lineno}" for node in (*names, *parameters)]
    assert found == []
