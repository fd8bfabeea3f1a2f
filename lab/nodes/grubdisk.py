"""A disk with a boot loader of its own: partitions, GRUB for a BIOS (grub-pc), an ext4 root with both cloud kernels.

grub-install and update-grub run for real, in a chroot on the partitions of a loop device.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.machine import cache, host
from lab.machine.progress import step
from lab.nodes import base, disk, vm
from lab.nodes.disk import Disk
from lab.nodes.native import NativeNode

UUID = str(uuid.uuid5(disk.NAMESPACE, "grub"))
"""UUID of the root filesystem, which is part of the ids in GRUB's menu."""

INSTALL = (
    "export DEBIAN_FRONTEND=noninteractive; apt-get update -q && apt-get install -q -y --no-install-recommends grub-pc && apt-get clean"
)
TABLE = "label: gpt\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\ntype=linux\n"  # the first holds GRUB's core
SETTINGS = f"""
GRUB_TIMEOUT=0
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND=serial
GRUB_CMDLINE_LINUX="{" ".join(word for word in vm.APPEND.split() if not word.startswith(("root", "rw", "quiet")))}"
"""
_DEVICES = ("null", "zero", "random", "urandom")


def of_base() -> Disk:
    """The base with GRUB, from the cache. It has no kernels beside it: create a VM of it without `kernel`."""
    parts = [*base.key_parts(), INSTALL, TABLE, SETTINGS, str(disk.FREE_BYTES)]
    return disk.load(cache.entry("grub-disk", parts, _make, keep=1))


def _make(folder: Path) -> None:
    host.need_tools("losetup", "mke2fs", "partx", "qemu-img", "sfdisk")
    node = NativeNode.create(f"grub-disk-{os.getpid()}")
    try:
        with step("GRUB's disk: grub-pc"):
            node.ssh(INSTALL, timeout_s=600)
        root = node.stop()
        (root / "etc/fstab").write_text(f"UUID={UUID} / ext4 defaults 0 1\n")
        with (root / "etc/default/grub").open("a") as file:
            file.write(SETTINGS)
        raw = folder / "disk.raw"
        with step("GRUB's disk: partitions, grub-install, update-grub"):
            _partition(root, raw)
        host.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-W", str(raw), str(folder / "disk.qcow2")], timeout_s=900)
        raw.unlink()
    finally:
        node.destroy()


def _partition(root: Path, raw: Path) -> None:
    size = disk.filesystem_bytes(disk.measure(root))
    host.run(["truncate", "-s", str(size + (4 << 20)), str(raw)], timeout_s=20)
    host.run(["sfdisk", "-q", str(raw)], timeout_s=60, stdin=TABLE)
    with _loop(raw) as device:
        host.run(disk.mke2fs_argv(root, Path(f"{device}p2"), size, "grub"), timeout_s=900)
        with _mounted(f"{device}p2", raw.with_suffix(".mnt")) as mounted:
            _give_devices(mounted, device)
            for command in (["grub-install", "--target=i386-pc", device], ["update-grub"]):
                host.run(["chroot", str(mounted), *command], timeout_s=300)


@contextmanager
def _loop(raw: Path) -> Iterator[str]:
    """A loop device of ``raw`` and its partitions, for which not every kernel looks by itself."""
    device = host.run(["losetup", "-f", "--show", str(raw)], timeout_s=60).stdout.strip()
    try:
        host.run(["partx", "-u", device], timeout_s=60)
        yield device
    finally:
        host.run(["partx", "-d", device], timeout_s=60, check=False)
        host.run(["losetup", "-d", device], timeout_s=60)


@contextmanager
def _mounted(device: str, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    host.run(["mount", device, str(folder)], timeout_s=60)
    try:
        yield folder
    finally:
        host.run(["umount", "-R", str(folder)], timeout_s=120)
        folder.rmdir()


def _give_devices(root: Path, device: str) -> None:
    """Provide what GRUB's tools read in the chroot: /proc, /sys, the disk, and the link by which update-grub finds the root's UUID."""
    dev = root / "dev"
    for kind, point in (("proc", root / "proc"), ("sysfs", root / "sys"), ("tmpfs", dev)):
        host.run(["mount", "-t", kind, kind, str(point)], timeout_s=20)
    nodes = [*(f"/dev/{name}" for name in _DEVICES), device, f"{device}p1", f"{device}p2"]
    host.run(["cp", "-a", *nodes, str(dev)], timeout_s=20)
    by_uuid = dev / "disk/by-uuid"
    by_uuid.mkdir(parents=True)
    (by_uuid / UUID).symlink_to(f"../../{Path(device).name}p2")
