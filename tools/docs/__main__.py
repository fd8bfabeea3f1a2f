"""``python -m tools.docs`` writes what documents say about options; with ``--check`` it says what is not up to date, and writes nothing."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from .pages import PageError, pages

TOP = Path(__file__).parents[2]


def main(arguments: list[str], top: Path = TOP) -> int:
    """Returns the exit status: 1 where ``--check`` finds a difference, or where a file cannot be written."""
    try:
        wanted = pages(top)
    except PageError as error:
        print(error)
        return 1
    differences = [text for name in sorted(wanted) if (text := difference(top, name, wanted[name]))]
    if arguments == ["--check"]:
        print("".join(differences), end="")
        if differences:
            print("These files differ from the table in plugins/module_utils/gpunode/options.py: change the table, then run make docs.")
        return 1 if differences else 0
    for name, text in wanted.items():
        if not (top / name).is_file() or (top / name).read_text(encoding="utf-8") != text:
            (top / name).write_text(text, encoding="utf-8")
            print(f"written: {name}")
    return 0


def difference(top: Path, name: str, wanted: str) -> str:
    """From what the file has to what it must have, as lines that name the file; "" where it has that."""
    file = top / name
    there = file.read_text(encoding="utf-8") if file.is_file() else ""
    return "".join(difflib.unified_diff(there.splitlines(True), wanted.splitlines(True), name, f"{name} (as make docs writes it)"))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
