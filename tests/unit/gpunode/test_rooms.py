"""The order of the library's rooms: who imports whom, what stays pure, and by which files others enter. See docs/development.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

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


def imports(file: Path, known: set[str]) -> set[str]:
    """What a file imports of the library, as ``room/file`` or ``file``; ``known`` are all such names."""
    found = set()
    here = [*file.relative_to(G).parent.parts] if G in file.parents else []
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if node.level and G in file.parents:
            parts = [*here[: len(here) - node.level + 1], *filter(None, module.split("."))]
        elif "gpunode" in module.split("."):
            parts = module.split(".")[module.split(".").index("gpunode") + 1 :]
        else:
            continue
        found |= {name for alias in node.names if (name := "/".join([*parts, alias.name])) in known}
        found |= {"/".join(parts)} & known
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    files = {str(path.relative_to(G).with_suffix("")): path for path in G.rglob("*.py") if path.name != "__init__.py"}
    return {name: imports(path, set(files)) for name, path in files.items()}


def room(name: str) -> str:
    return name.rpartition("/")[0]


def test_every_file_has_a_room(graph: dict[str, set[str]]) -> None:
    assert {room(name) for name in graph} <= {"", *(name for line in ROOMS for name in line)}
    assert {name for name in graph if not room(name)} <= TOP_FILES | {"command"}
    assert [str(path) for path in G.rglob("__init__.py") if path.parent != G and path.read_text()] == []


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
    assert [name for name in graph if name in closure(graph, name)] == []


def closure(graph: dict[str, set[str]], name: str) -> set[str]:
    found: set[str] = set()
    todo = [*graph[name]]
    while todo:
        other = todo.pop()
        if other not in found:
            found.add(other)
            todo += graph[other]
    return found


@pytest.mark.parametrize("name", PURE)
def test_the_decision_is_pure(graph: dict[str, set[str]], name: str) -> None:
    assert "util/run" not in closure(graph, name)


def test_visitors_come_in_by_the_doors(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{file.relative_to(TOP)} imports {name}"
        for file in VISITORS
        for name in sorted(imports(file, set(graph)))
        if room(name) in CLOSED and name.rpartition("/")[2] not in DOORS
        if not (name in MEASURED and file.parent.name == "bench")
    ]
    assert wrong == []
