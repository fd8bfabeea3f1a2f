"""The order of the library's rooms: who imports whom, what stays pure, and by which files others enter. See docs/development.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools import closure

TOP = Path(__file__).parents[3]
G = TOP / "plugins/module_utils/gpunode"
# A file imports its own room, the files at the top, and rooms on lines above its own; rooms of one line never import each other.
ROOMS = (("util",), ("system",), ("driver", "container"), ("store",), ("activation",), ("removal",), ("bake", "boot"), ("seal", "agent"))
TOP_FILES = {"errors", "paths", "options"}
# The decision reads nothing and runs nothing: the runner is nowhere in the closure of these files' imports.
PURE = tuple(f"boot/{name}" for name in ("decide", "ladder", "facts", "policy", "plan", "diagnosis"))
# Modules, benchmarks and the agent enter these rooms by what does the whole of a thing, or by values.
CLOSED = ("activation", "removal", "bake", "boot", "seal")
DOORS = ("flow", "look", "request", "facts", "policy", "plan", "report")
# A benchmark may measure a part by itself.
MEASURED = {"activation/activate", "activation/deactivate", "activation/discard", "boot/decide"}
VISITORS = sorted(
    [*(TOP / "plugins/modules").glob("*.py"), TOP / "plugins/module_utils/answer.py", G / "command.py", *(TOP / "bench").glob("*.py")]
)


def entered(file: Path, graph: dict[str, set[str]]) -> set[str]:
    """What a file outside of the rooms imports of the library, as ``room/file`` or ``file``."""
    found = set(graph["command"]) if file == G / "command.py" else set()
    for node in ast.walk(ast.parse(file.read_text())):
        parts = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
        if "gpunode" in parts:
            inside = parts[parts.index("gpunode") + 1 :]
            found |= {name for name in ("/".join(inside), *("/".join([*inside, alias.name]) for alias in node.names)) if name in graph}
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return closure.imports(G)


def room(name: str) -> str:
    return name.rpartition("/")[0]


def test_every_file_has_a_room(graph: dict[str, set[str]]) -> None:
    assert {room(name) for name in graph} <= {"", *(name for line in ROOMS for name in line)}
    assert {name for name in graph if not room(name)} <= TOP_FILES | {"command"}
    assert [path.parent for path in G.rglob("__init__.py") if path.read_text()] == [G, G / closure.COPIED]


def test_only_one_file_uses_the_copy_of_others_code() -> None:
    pattern = Path(closure.COPIED).name
    assert [path.name for path in G.rglob("*.py") if f"from .{pattern} import" in path.read_text()] == ["toml.py"]


def test_imports_go_down_only(graph: dict[str, set[str]]) -> None:
    line = {name: number for number, names in enumerate(ROOMS) for name in names}
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name != "command" and room(other) != room(name) and (room(other) or other not in TOP_FILES)
        if not room(name) or not room(other) or line[room(other)] >= line[room(name)]
    ]
    assert wrong == []


def test_no_file_imports_itself_in_a_circle(graph: dict[str, set[str]]) -> None:
    assert [name for name in graph for other in graph[name] if name in closure.closure(graph, other)] == []


@pytest.mark.parametrize("name", PURE)
def test_the_decision_is_pure(graph: dict[str, set[str]], name: str) -> None:
    assert "util/run" not in closure.closure(graph, name)


def test_visitors_come_in_by_the_doors(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{file.relative_to(TOP)} imports {name}"
        for file in VISITORS
        for name in sorted(entered(file, graph))
        if room(name) in CLOSED and name.rpartition("/")[2] not in DOORS
        if not (name in MEASURED and file.parent.name == "bench")
    ]
    assert wrong == []
