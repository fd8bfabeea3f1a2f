"""A whole filesystem as values: every name with its kind, content, mode, owner and attributes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

# What a captured bake may touch on the machine: containerd's own data, logs, and our store. Nothing else is excused, but for what
# lives in memory, and what logging in and running Ansible there leaves.
EXCUSED = (
    "var/lib/containerd",
    "var/log",
    "var/lib/gpu-prebake",
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "root/.ansible",
    "root/.ansible_async",
)


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Path → what it is. A file's content by its hash."""
    return dict(_walk(root, ""))


def _walk(root: Path, inside: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    with os.scandir(root / inside) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = f"{inside}/{name}" if inside else name
        if path in EXCUSED:
            continue
        file = root / path
        status = file.lstat()
        attributes = tuple((n, os.getxattr(file, n, follow_symlinks=False)) for n in sorted(os.listxattr(file, follow_symlinks=False)))
        yield path, (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, attributes, _content(file, status))
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, path)


def _content(file: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return str(file.readlink())
    return hashlib.sha256(file.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""


def difference(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> list[str]:
    """Paths that came, went or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
