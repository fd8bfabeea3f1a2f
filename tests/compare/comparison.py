"""Compares two whole filesystems: every difference is either excused, by an excuse with a reason, or named."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lab.machine import paths
from tests.lab.snapshot import Entry, aspects, difference

REPORT = paths.TOP / "build/compare/report.txt"


@dataclass(frozen=True)
class Excuse:
    """Paths by a pattern of fnmatch (`*` matches `/` too), how they may differ (`aspects` of tests/lab/snapshot.py), and why.
    `by_chance` says that there need not be anything to excuse in each run."""

    pattern: str
    may_differ: tuple[str, ...]
    why: str
    by_chance: bool = False

    def holds(self, path: str, differs: Iterable[str]) -> bool:
        """Whether it excuses a difference completely."""
        return fnmatchcase(path, self.pattern) and set(differs) <= set(self.may_differ)


@dataclass(frozen=True)
class Comparison:
    """The result: how many paths were compared, which paths each excuse has excused, and the other differences: `path: aspects`."""

    compared: int
    excused: Mapping[Excuse, tuple[str, ...]]
    left: tuple[str, ...]

    @property
    def idle(self) -> tuple[str, ...]:
        """The patterns that excused nothing, and should be taken off the list."""
        return tuple(excuse.pattern for excuse, found in self.excused.items() if not found and not excuse.by_chance)


def compare(first: Mapping[str, Entry], second: Mapping[str, Entry], excuses: Iterable[Excuse]) -> Comparison:
    """Compares all paths of both; a difference is excused by the first excuse that holds for it."""
    excused: dict[Excuse, list[str]] = {excuse: [] for excuse in excuses}
    left = []
    for path in difference(first, second):
        differs = aspects(first.get(path), second.get(path))
        taken = next((found for excuse, found in excused.items() if excuse.holds(path, differs)), None)
        if taken is None:
            left.append(f"{path}: {', '.join(differs)}")
        else:
            taken.append(path)
    return Comparison(len(first.keys() | second.keys()), {e: tuple(found) for e, found in excused.items()}, tuple(left))


def report(title: str, found: Comparison) -> None:
    """Adds one comparison to build/compare/report.txt, which is printed when all tests have run."""
    lines = [title, f"  compared: {found.compared} entries; differences that nothing excuses: {len(found.left)}"]
    lines += [f"    {line}" for line in found.left]
    lines += [f"  excused: {len(which):4}  {excuse.pattern}: {excuse.why}" for excuse, which in found.excused.items()]
    note(lines)


def note(lines: Iterable[str]) -> None:
    """Adds lines to the report."""
    with REPORT.open("a") as file:
        file.write("\n".join([*lines, "", ""]))


def setuid(files: Mapping[str, Entry]) -> list[str]:
    """The setuid and setgid files."""
    return sorted(p for p, e in files.items() if e.type == stat.S_IFREG and e.mode & (stat.S_ISUID | stat.S_ISGID))
