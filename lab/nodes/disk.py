"""Disks for VMs: a root filesystem as one ext4 filesystem in a qcow2 file, with its kernels beside it.

A disk is a folder: `disk.qcow2` and `boot/` with the `vmlinuz-*` and `initrd.img-*` of that root, because the lab's
VMs are booted by QEMU and not by a boot loader. Disks are never written to; VMs work on temporary overlays.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.machine import cache, host
from lab.machine.errors import LabError
from lab.machine.progress import step
from lab.nodes import base
from lab.nodes.base import Kernel

FREE_BYTES = 4 << 30
"""Free space for what a node adds: a driver image, its unpacked copy and a DKMS build folder. The file is sparse."""

BLOCK = 4096
BYTES_PER_INODE = 16384
NAMESPACE = uuid.UUID("6d2d3c0e-4f6e-5d0b-8f0a-5a1b0f5f6c11")


@dataclass(frozen=True)
class Disk:
    """A disk and its kernels, oldest first; no kernels for a disk that has a boot loader of its own."""

    path: Path
    kernels: list[Kernel]


@dataclass(frozen=True)
class Usage:
    """The space that a root filesystem takes: bytes in whole blocks, and inodes."""

    data_bytes: int
    inodes: int


def of_base(variant: base.Variant = base.CLOUD) -> Disk:
    """The base's own disk, from the cache."""
    root = base.root(variant)
    folder = cache.entry("disk", ["base", root.parent.name, str(FREE_BYTES)], lambda fresh: _make(root, fresh))
    return load(folder)


def of_root(root: Path, key_parts: list[str]) -> Disk:
    """The disk of a baked root, from the cache: made once for each `key_parts`."""
    return load(cache.entry("disk", ["root", *key_parts], lambda fresh: _make(root, fresh)))


def make(root: Path, folder: Path) -> Disk:
    """Make a disk from `root` in `folder`, outside the cache. Raises LabError if the folder contains one already."""
    if (folder / "disk.qcow2").exists():
        raise LabError(f"{folder} already contains a disk: choose another folder or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    _make(root, folder)
    return load(folder)


def load(folder: Path) -> Disk:
    """The disk in `folder`."""
    path = folder / "disk.qcow2"
    if not path.is_file():
        raise LabError(f"no disk in {folder}: it should contain disk.qcow2 and boot/")
    return Disk(path, base.kernels(folder / "boot"))


def measure(root: Path) -> Usage:
    """The space that `root` takes; hard links are counted once, mount points are not entered."""
    device = root.stat().st_dev
    seen: set[int] = set()
    blocks = inodes = 0
    stack = [root]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for item in entries:
                info = item.stat(follow_symlinks=False)
                if info.st_ino in seen or info.st_dev != device:
                    continue
                if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                    seen.add(info.st_ino)
                inodes += 1
                blocks += 1 + -(-info.st_size // BLOCK) if not stat.S_ISLNK(info.st_mode) else 1
                if stat.S_ISDIR(info.st_mode):
                    stack.append(Path(item.path))
    return Usage(blocks * BLOCK, inodes)


def filesystem_bytes(usage: Usage, free_bytes: int = FREE_BYTES) -> int:
    """Size of an ext4 filesystem that holds `usage` and has about `free_bytes` left, rounded up to whole MiB.

    It includes 3 % for ext4's own tables and its journal, and never has fewer inodes than the root needs.
    """
    size = max((usage.data_bytes + free_bytes) * 103 // 100 + (128 << 20), usage.inodes * 5 // 4 * BYTES_PER_INODE)
    return -(-size // (1 << 20)) << 20


def mke2fs_argv(root: Path, raw: Path, size: int, name: str) -> list[str]:
    """Command line that makes the filesystem. UUID and directory hash seed are derived from `name`, so that it is reproducible."""
    identity = str(uuid.uuid5(NAMESPACE, name))
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(root), "-L", "gpulab", "-m", "0", "-b", str(BLOCK)),
        *("-i", str(BYTES_PER_INODE), "-U", identity, "-E", f"hash_seed={identity},lazy_itable_init=0"),
        *(str(raw), f"{size >> 20}M"),
    ]


def overlay(disk: Path, file: Path) -> None:
    """Create `file`, a temporary overlay of `disk`."""
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "qcow2", str(file)]
    host.run(argv, timeout_s=60)


@contextmanager
def mounted(file: Path) -> Iterator[Path]:
    """Mount a copy of the filesystem of a disk or overlay from which no VM runs; yields the folder. What is written there is lost."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="mounted-") as temporary:
        raw, folder = Path(temporary) / "raw", Path(temporary) / "root"
        host.run(["qemu-img", "convert", "-q", "-O", "raw", str(file), str(raw)], timeout_s=600)
        folder.mkdir()
        host.run(["mount", "-o", "loop", str(raw), str(folder)], timeout_s=60)
        try:
            yield folder
        finally:
            host.run(["umount", str(folder)], timeout_s=120)


def _make(root: Path, folder: Path) -> None:
    host.need_root("making a disk from a root filesystem")
    host.need_tools("mke2fs", "qemu-img")
    usage = measure(root)
    size = filesystem_bytes(usage)
    raw = folder / "root.raw"
    with step(f"disk: ext4 of {size >> 20} MiB from {usage.data_bytes >> 20} MiB in {usage.inodes} files"):
        host.run(mke2fs_argv(root, raw, size, folder.name), timeout_s=900)
    with step("disk: qcow2"):
        argv = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-W", str(raw), str(folder / "disk.qcow2")]
        host.run(argv, timeout_s=900)
    raw.unlink()
    (folder / "boot").mkdir()
    for kernel in base.kernels(root / "boot"):
        shutil.copy2(kernel.vmlinuz, folder / "boot")
        shutil.copy2(kernel.initrd, folder / "boot")
