"""The live mount table, and the mounts that a killed driver container leaves behind (B10)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..util.bounded import lines
from ..util.expressions import expression
from ..util.files import read_text
from ..util.run import Runner
from .host import TRIPLETS

_NUMBER = expression(r"[0-9]{1,20}")
# Mounts of containers below these folders come and go, and are not part of the image.
CONTAINERS = ("/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet")
STACKED = ("aufs", "overlay", "fuse-overlayfs", "fuse.fuse-overlayfs")
# Overlay refuses these as a lower filesystem: their names ignore case, or can be changed from outside.
NO_LOWER = ("9p", "ceph", "cifs", "exfat", "fuse", "fuseblk", "msdos", "nfs", "nfs4", "ntfs3", "smb3", "vfat", "virtiofs")
NO_IMAGE = ("squashfs", "tmpfs")
NOT_FILES = (
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "sysfs",
    "tracefs",
)


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo, proc(5)."""

    id: int
    point: str
    fstype: str
    source: str
    parent: int = 0
    is_read_only: bool = False


def parse(text: str) -> tuple[Mount, ...]:
    """Reads mountinfo: ``id parent maj:min root point options… - fstype source options``; blanks are written as ``\\040``."""
    found = []
    for line in lines(text):
        left, dash, right = line.partition(" - ")
        words, tail = left.split(), right.split()
        if dash and len(words) >= 6 and len(tail) >= 2 and _NUMBER.fullmatch(words[0]) and _NUMBER.fullmatch(words[1]):
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), words[4])
            # A mount and its filesystem have options of their own; either can be read-only.
            options = {*words[5].split(","), *(tail[2].split(",") if len(tail) > 2 else ())}
            found.append(Mount(int(words[0]), point, tail[0], tail[1], int(words[1]), "ro" in options))
    return tuple(found)


def current(root: Path = Path("/")) -> tuple[Mount, ...]:
    """This process's mount table, in the order of mounting."""
    return parse(read_text(root / "proc/self/mountinfo") or "")


def visible(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """The mounts that no other one covers. Their order does not tell: an initramfs mounts ``/proc`` before the root that contains it."""
    parents = {m.id: m.parent for m in mounts}

    def is_over(other: Mount, mount: Mount) -> bool:
        above, seen = mount.id, {0}
        while above not in seen:
            if above == other.id:
                return False  # other is what the mount lies on, or the mount itself
            seen.add(above)
            above = parents.get(above, 0)
        return mount.point == other.point or mount.point.startswith(other.point.rstrip("/") + "/")

    return tuple(m for m in mounts if not any(is_over(other, m) for other in mounts))


def left_by_container(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """The contract's own mounts, newest first: the overlay over ``/usr/lib/<triplet>``, its tmpfs, and the binds on its folders."""
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
    """Unmounts ``mounts``, lazily as the contract does, because a library in use keeps a mount busy; returns their mount points."""
    for mount in mounts:
        runner.run(["umount", "-l", mount.point], timeout_s=30)
    return tuple(m.point for m in mounts)


def elsewhere(table: Sequence[Mount]) -> tuple[str, ...]:
    """Mount points that are not part of the image: containers' and other stacked filesystems, network filesystems, snaps, tmpfs."""
    return (*CONTAINERS, *(m.point for m in table if m.point != "/" and m.fstype in (*STACKED, *NO_LOWER, *NOT_FILES, *NO_IMAGE)))
