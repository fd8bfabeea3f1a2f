"""The live mount table, and what a killed driver container leaves in it (B10)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import read_text
from .host import TRIPLETS
from .runner import Runner


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo, proc(5)."""

    id: int
    point: str
    fstype: str
    source: str


def parse(text: str) -> tuple[Mount, ...]:
    """Reads mountinfo: ``id parent maj:min root point options… - fstype source options``; blanks come as ``\\040``."""
    found = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        words, tail = left.split(), right.split()
        if dash and len(words) >= 5 and len(tail) >= 2:
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[4])
            found.append(Mount(int(words[0]), point, tail[0], tail[1]))
    return tuple(found)


def current() -> tuple[Mount, ...]:
    """This process's mount table, in the order of mounting."""
    return parse(read_text(Path("/proc/self/mountinfo")) or "")


def left_by_container(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """The contract's own mounts, newest first: the overlay over ``/usr/lib/<triplet>``, its tmpfs, and binds on its folders."""
    libraries = {f"/usr/lib/{triplet}" for triplet in TRIPLETS.values()}
    ours = [
        m
        for m in mounts
        if (m.fstype == "overlay" and m.point in libraries)
        or (m.fstype == "tmpfs" and m.point.startswith("/tmp/overlay"))
        or m.point in ("/opt/gpu", "/opt/actions")
    ]
    return tuple(reversed(ours))


def unmount(runner: Runner, mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Takes ``mounts`` away, lazily as the contract does (a library in use makes a plain one busy); returns their points."""
    for mount in mounts:
        runner.run(["umount", "-l", mount.point], timeout_s=30)
    return tuple(m.point for m in mounts)
