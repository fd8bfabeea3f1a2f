"""The setuid and setgid files of a system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..paths import STORE
from ..util.files import ABSENT
from . import mounts

_SETUID = stat.S_ISUID | stat.S_ISGID
# Not part of the image, or inert; nothing below them is looked at.
_SKIPPED = ("proc", "sys", "dev", "run", "tmp", "var/tmp", "var/lib/containerd", STORE)


def setuid(root: Path) -> tuple[str, ...]:
    """The setuid and setgid files of the system at ``root``, relative to it, without those in containers' images. Raises OSError."""
    return tuple(sorted(_special(root)))


def _special(root: Path) -> Iterator[str]:
    skipped = {*_SKIPPED, *(point.strip("/") for point in mounts.elsewhere(mounts.current(root)))}
    stack = [""]
    while stack:
        folder = stack.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            if error.errno in ABSENT:
                continue
            raise
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if path in skipped:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                stack.append(path)
            elif stat.S_ISREG(status.st_mode) and status.st_mode & _SETUID:
                yield path
