"""``python -m tools.closure [FOLDER]``: what must be read to understand a part of the library, by its imports.

For each entry it prints how many rooms and files the closure of its imports touches, and the longest chain of imports. FOLDER is a library
to measure, such as another version's; without it, this project's.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "plugins/module_utils/gpunode"
COPIED = "util/tomli/"  # others' code, unchanged; nobody needs to understand it
# Each entry under the names that it has had.
ENTRIES = (
    ("boot/flow", "boot"),
    ("activation/activate", "activation"),
    ("activation/deactivate", "takeaway"),
    ("seal/flow", "seal"),
)


def imports(library: Path) -> dict[str, set[str]]:
    """Each file of the library, as ``room/file``, with those that it imports."""
    paths = {str(path.relative_to(library).with_suffix("")): path for path in library.rglob("*.py") if path.name != "__init__.py"}
    files = {name: path for name, path in paths.items() if not name.startswith(COPIED)}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        graph[name] = set()
        here = name.split("/")[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = [*here[: len(here) - node.level + 1], *filter(None, (node.module or "").split("."))]
                for module in ("/".join(parts), *("/".join([*parts, alias.name]) for alias in node.names)):
                    if module in files:
                        graph[name].add(module)
    return graph


def closure(graph: dict[str, set[str]], entry: str) -> set[str]:
    """The entry and every file that it imports, itself or by others."""
    found, todo = set(), [entry]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += graph[name]
    return found


def longest_chain(graph: dict[str, set[str]], entry: str) -> tuple[str, ...]:
    """The longest chain of imports that begins with ``entry``. The library has no circle of imports, which a test ensures."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(other) for other in sorted(graph[name])), key=len, default=()))

    return below(entry)


def main() -> None:
    """Prints a line for each entry."""
    library = Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY
    graph = imports(library)
    print(f"{len(graph)} files in {len({name.rpartition('/')[0] for name in graph})} rooms")
    for names in ENTRIES:
        entry = next(name for name in names if name in graph)
        files, chain = closure(graph, entry), longest_chain(graph, entry)
        rooms = sorted({name.rpartition("/")[0] or "(top)" for name in files})
        print(f"{entry}: {len(files)} files in {len(rooms)} rooms ({' '.join(rooms)}); longest chain {len(chain)}: {' > '.join(chain)}")


if __name__ == "__main__":
    main()
