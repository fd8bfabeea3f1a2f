"""The whole filesystem of a VM as values, fast under emulation: ``find`` lists it, and only files that were written to are read.

A file with the same inode and the same times of change, to the nanosecond, as at an earlier look has the same content: nothing can set the
time of the last change of an inode. Each look starts with a sync, so what it reads is on the disk.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from lab.nodes.vm import VM

STORE = "var/lib/gpu-prebake"
OBJECTS = f"{STORE}/objects/"
HERE = "srv/power"
# What a node writes by itself, what logging in leaves behind, and what these tests keep there. Nothing else is excused.
EXCUSED = ("dev", "proc", "run", "sys", "tmp", "root", HERE, "var/cache", "var/lib/containerd", "var/lib/systemd", "var/log", "var/tmp")
_FORMAT = r"%y\t%m\t%U\t%G\t%s\t%i\t%T@\t%C@\t%p\t%l\0"

Thing = tuple[object, ...]
"""Kind, mode, owner, group, size (of a folder: nothing), target of a link, attributes, content."""


@dataclass(frozen=True)
class Line:
    """One line of find's output. ``stamp`` changes with the inode, and with every change to it."""

    kind: str
    mode: str
    owner: str
    group: str
    size: str
    target: str
    stamp: tuple[str, ...]

    @property
    def written(self) -> tuple[str, ...]:
        """Inode, size and time of the last change of the content."""
        return self.stamp[:3]


@dataclass
class Filesystem:
    """A VM's filesystem. ``read_paths`` are the paths that the first look reads: those that a transaction may change."""

    vm: VM
    read_paths: frozenset[str]
    base: dict[str, Line] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    contents: dict[tuple[str, ...], str] = field(default_factory=dict)

    def look(self) -> dict[str, Thing]:
        """Path → what is there, for everything but EXCUSED."""
        lines = self._find()
        first = not self.base
        asked = [path for path, line in lines.items() if (self._is_read_first(path, line) if first else self._is_touched(path, line))]
        details = self._details(asked, lines)
        if first:
            self.base = lines
            self.attributes = {path: found for path, (found, _content) in details.items()}
        things = {}
        for path, line in lines.items():
            attributes = details[path][0] if path in details else self.attributes.get(path)
            size = "" if line.kind == "d" else line.size
            things[path] = (line.kind, line.mode, line.owner, line.group, size, line.target, attributes, self._content(path, line))
        return things

    def _content(self, path: str, line: Line) -> object:
        if line.kind != "f":
            return ""
        # Neither read nor changed since the first look: its inode shows that its content is the same.
        return self.contents.get(line.written, line.stamp)

    def _is_read_first(self, path: str, line: Line) -> bool:
        return line.kind == "d" or path in self.read_paths or path.startswith(f"{STORE}/")

    def _is_touched(self, path: str, line: Line) -> bool:
        return path not in self.base or self.base[path].stamp != line.stamp

    def _find(self) -> dict[str, Line]:
        pruned = " -o ".join(f"-path /{path}" for path in EXCUSED)
        text = self.vm.ssh(f"sync && find / -xdev \\( {pruned} \\) -prune -o -printf '{_FORMAT}'").stdout
        found = {}
        for line in text.split("\0")[:-1]:
            kind, mode, owner, group, size, inode, written, changed, path, target = line.split("\t")
            found[path.lstrip("/")] = Line(kind, mode, owner, group, size, target, (inode, size, written, changed))
        return found

    def _details(self, paths: list[str], lines: dict[str, Line]) -> dict[str, tuple[list[str], str]]:
        wanted = {path: lines[path].kind == "f" and lines[path].written not in self.contents for path in paths}
        asked = "".join(f"{'+' if read else '-'}/{path}\0" for path, read in wanted.items())
        said = json.loads(self.vm.ssh(f"python3 /{HERE}/onnode.py details", stdin=asked).stdout)
        for path, read in wanted.items():
            if read:
                self.contents[lines[path].written] = said[f"/{path}"][1]
        return {path: tuple(said[f"/{path}"]) for path in paths}


def differences(now: dict[str, Thing], wanted: dict[str, Thing]) -> dict[str, tuple[Thing | None, Thing | None]]:
    """Path → what is there and what should be there. An additional object in the store, which no document names, is no difference: it is
    a backup for a transaction that had not begun, and the next discard or bake deletes it."""
    paths = [path for path in now.keys() | wanted.keys() if now.get(path) != wanted.get(path)]
    return {path: (now.get(path), wanted.get(path)) for path in sorted(paths) if not (path.startswith(OBJECTS) and path not in wanted)}
