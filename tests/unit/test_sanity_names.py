"""What no linter of `make check` finds in plugins: what `ansible-test sanity` refuses (the name _, which means gettext there, and a
comparison with `type(…)`), and names that Python 3.9, the oldest that a node may have, does not have."""

from __future__ import annotations

import ast
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"
# The standard library's since 3.10 (docs.python.org, "What's New"), as attributes and as arguments of functions.
NEWER_NAMES = {"hardlink_to", "is_junction", "from_uri", "full_match", "bit_count", "pairwise", "batched", "file_digest", "aclosing", "UTC"}
NEWER_ARGUMENTS = {"zip": "strict", "dataclass": "slots", "field": "kw_only"}


def test_no_plugin_binds_the_name_underscore() -> None:
    found = []
    for path in sorted(PLUGINS.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "_"]
        signatures = [node.args for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]  # a lambda may
        parameters = [a for s in signatures for a in (*s.posonlyargs, *s.args, *s.kwonlyargs) if a.arg == "_"]
        found += [f"{path.relative_to(PLUGINS)}:{node.lineno}" for node in (*names, *parameters)]
    assert found == []


def test_no_plugin_compares_with_the_type_of_a_value() -> None:
    found = []
    for path in sorted(PLUGINS.rglob("*.py")):
        compared = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare)]
        sides = [(node.lineno, side) for node in compared for side in (node.left, *node.comparators) if isinstance(side, ast.Call)]
        found += [
            f"{path.relative_to(PLUGINS)}:{line}" for line, side in sides if isinstance(side.func, ast.Name) and side.func.id == "type"
        ]
    assert found == []


def test_no_plugin_needs_a_newer_python_than_nodes_have() -> None:
    found = []
    for path in sorted(PLUGINS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            given = {keyword.arg for keyword in node.keywords} if isinstance(node, ast.Call) else set()
            if name in NEWER_NAMES or (called in NEWER_ARGUMENTS and NEWER_ARGUMENTS[called] in given):
                found.append(f"{path.relative_to(PLUGINS)}:{node.lineno}: {name or called}")  # type: ignore[attr-defined]
    assert found == []
