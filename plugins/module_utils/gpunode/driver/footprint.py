"""Where a driver's files are: which paths an installation writes, which are only generated, and which decide whether a driver is right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..system.tree import Entry, signature, walk
from ..util.expressions import expression

# Where the driver container puts libraries; it adds that folder to the loader's path (docs/contract.md).
CONTRACT_LIBRARIES = "usr/bin/lib64/lib64"
# All that a driver installation writes is below these; the rest of a system is not looked at.
ROOTS = ("boot", "etc", "lib", "opt", "usr", "var/lib/dkms", "var/lib/initramfs-tools", "var/lib/shim-signed/mok")
# The only files that a bake itself writes outside the store (nouveau_blacklist.py); they are not part of any layer.
NOUVEAU, NOVA = "etc/modprobe.d/gpu-prebake-nouveau.conf", "etc/modprobe.d/gpu-prebake-nova.conf"
_IGNORED = ("opt/gpu", "opt/actions", "etc/ld.so.cache", NOUVEAU, NOVA)
_GENERATED_BOOT = ("boot/initrd", "var/lib/initramfs-tools")
# Modules, libraries, firmware and programs decide whether a driver is right. Sources are for a later compile, DKMS's tree and the
# marker are checked on their own, and a configuration file that its owner has edited is no reason to compile.
_DRIVER_PLACES = expression(
    r"(usr/)?lib/modules/[^/]+/(updates|extra|weak-updates)(/|$)|(usr/)?lib/firmware/nvidia|var/lib/dkms(/|$)|var/lib/shim-signed/mok(/|$)"
    r"|usr/bin/lib64(/|$)|opt/azure(/|$)"
)
_DRIVER_NAME = expression(r"nvidia|nouveau|cuda", re.IGNORECASE)
_DECIDING = ("lib/", "usr/lib/", "usr/bin/", "usr/sbin/", "usr/local/")


def listing(root: Path, roots: Iterable[str] = ROOTS) -> dict[str, tuple[int, ...]]:
    """Every path below ``roots``, with a signature that changes when it changes; nobody can set back ctime."""
    found: dict[str, tuple[int, ...]] = {}
    for name in roots:
        top = root / name
        if top.is_symlink() or not top.is_dir():
            continue  # merged /usr: /lib is a link, whose files are listed below /usr
        for path, status in walk(str(top)):
            relative = os.path.relpath(path, root)
            if not is_ignored(relative):
                found[relative] = signature(status)
    return found


def is_ignored(path: str) -> bool:
    """Whether a path is a scratch folder of the contract, a generated file (made again, never carried), or the bake's own file."""
    if any(path == p or path.startswith(p + "/") for p in _IGNORED) or path.startswith(_GENERATED_BOOT):
        return True
    name = path.rsplit("/", 1)[-1]
    in_modules = path.startswith(("lib/modules/", "usr/lib/modules/"))
    return (in_modules and name.startswith("modules.")) or "/__pycache__" in path


def is_drivers_place(path: str) -> bool:
    """Whether a path is in a place where the driver container puts files, and nobody else does."""
    return bool(_DRIVER_PLACES.match(path)) and path not in ROOTS


def drivers_part(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that can be a driver's: in the driver container's places, or with a driver's name; and the folders that contain
    nothing else. Other files that appeared during a build are somebody else's."""
    everything = sorted(paths)
    mine = {path for path in everything if _DRIVER_PLACES.match(path) or _DRIVER_NAME.search(path)}
    others = [path for path in everything if path not in mine]
    parents = {str(parent) for path in mine for parent in Path(path).parents}
    holds_others = {str(parent) for path in others if path not in parents for parent in Path(path).parents}
    return sorted(mine | {path for path in others if path in parents and path not in holds_others})


def decides(entry: Entry) -> bool:
    """Whether an entry must be right before the driver is used: modules, libraries, firmware, programs."""
    return entry.type != "folder" and entry.path.startswith(_DECIDING)
