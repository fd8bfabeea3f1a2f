"""A whole filesystem as values: every path with its kind, content, mode, owner and attributes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.system import module_signature

# What a captured bake may change on the machine: containerd's own data, logs, and our store. Nothing else is excused, apart from
# filesystems in memory, and what logging in and running Ansible leave behind.
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


class Entry(NamedTuple):
    """One path: type, mode, owner and device number as in stat, extended attributes, and a file's hash or a link's target. For a kernel
    module, the hash of the signed part, and that of the signature after it."""

    type: int
    mode: int
    owner: tuple[int, int]
    device: int
    attributes: tuple[tuple[str, bytes], ...]
    content: str
    signature: str = ""


def snapshot(root: Path, excused: Collection[str] = EXCUSED) -> dict[str, Entry]:
    """Path → entry, for everything below `root` except the `excused` paths and what is below them."""
    return dict(_walk(root, "", excused))


def _walk(root: Path, inside: str, excused: Collection[str]) -> Iterator[tuple[str, Entry]]:
    with os.scandir(root / inside) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = f"{inside}/{name}" if inside else name
        if path in excused:
            continue
        file = root / path
        status = file.lstat()
        attributes = tuple((n, os.getxattr(file, n, follow_symlinks=False)) for n in sorted(os.listxattr(file, follow_symlinks=False)))
        mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
        yield path, Entry(stat.S_IFMT(status.st_mode), mode, owner, status.st_rdev, attributes, *_content(file, status))
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, path, excused)


def _content(file: Path, status: os.stat_result) -> tuple[str, str]:
    if stat.S_ISLNK(status.st_mode):
        return str(file.readlink()), ""
    if not stat.S_ISREG(status.st_mode):
        return "", ""
    data = file.read_bytes()
    signature = module_signature.read(file) if file.suffix == ".ko" else None
    if signature is None:
        return hashlib.sha256(data).hexdigest(), ""
    signed, behind = data[: signature.signed_size], data[signature.signed_size :]
    return hashlib.sha256(signed).hexdigest(), hashlib.sha256(behind).hexdigest()


def difference(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """Paths that were added, removed or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def aspects(before: Entry | None, after: Entry | None) -> list[str]:
    """How two entries of one path differ: `added`, `missing`, or the names of the different fields of Entry."""
    if before is None or after is None:
        return ["added" if before is None else "missing"]
    return [name for name in Entry._fields if getattr(before, name) != getattr(after, name)]
