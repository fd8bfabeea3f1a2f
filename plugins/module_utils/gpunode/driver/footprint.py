"""Where a driver's files lie: which paths a driver installation writes, which it only generates, and which decide that it is right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..system.tree import Entry, signature, walk

# Where the contract puts libraries; the loader knows that folder (CONTRACT).
CONTRACT_LIBRARIES = "usr/bin/lib64/lib64"
# Everything that a driver installation writes to lies below these; the rest of a system is none of its business.
ROOTS = ("boot", "etc", "lib", "opt", "usr", "var/lib/dkms", "var/lib/initramfs-tools", "var/lib/shim-signed/mok")
# The one file that a bake itself writes outside the store (nouveau_blacklist.py): no part of any layer.
NOUVEAU = "etc/modprobe.d/gpu-prebake-nouveau.conf"
_IGNORED = ("opt/gpu", "opt/actions", "etc/ld.so.cache", NOUVEAU)
_GENERATED_BOOT = ("boot/initrd", "var/lib/initramfs-tools")
# Modules, libraries, firmware and programs decide whether a driver is right. Sources serve a later compile, DKMS's tree and the
# marker are looked at by themselves, and a configuration file that its owner has edited is no reason to compile.
_DRIVER_PLACES = re.compile(
    r"(usr/)?lib/modules/[^/]+/(updates|extra|weak-updates)(/|$)|(usr/)?lib/firmware/nvidia|var/lib/dkms(/|$)|var/lib/shim-signed/mok(/|$)"
    r"|usr/bin/lib64(/|$)|opt/azure(/|$)"
)
_DRIVER_NAME = re.compile(r"nvidia|nouveau|cuda", re.IGNORECASE)
_DECIDING = ("lib/", "usr/lib/", "usr/bin/", "usr/sbin/", "usr/local/")


def listing(root: Path, roots: Iterable[str] = ROOTS) -> dict[str, tuple[int, ...]]:
    """Every path below ``roots`` with what changes when it does; ctime cannot be set back by anybody."""
    found: dict[str, tuple[int, ...]] = {}
    for name in roots:
        top = root / name
        if top.is_symlink() or not top.is_dir():
            continue  # merged /usr: /lib is a link, and listed once
        for path, status in walk(str(top)):
            relative = os.path.relpath(path, root)
            if not is_ignored(relative):
                found[relative] = signature(status)
    return found


def is_ignored(path: str) -> bool:
    """Whether a path is a scratch folder of the contract, generated from others (made anew, never carried), or the bake's own file."""
    if any(path == p or path.startswith(p + "/") for p in _IGNORED) or path.startswith(_GENERATED_BOOT):
        return True
    name = path.rsplit("/", 1)[-1]
    in_modules = path.startswith(("lib/modules/", "usr/lib/modules/"))
    return (in_modules and name.startswith("modules.")) or "/__pycache__" in path


def is_drivers_place(path: str) -> bool:
    """Whether a path is where the contract puts a driver's files and nobody else puts any."""
    return bool(_DRIVER_PLACES.match(path)) and path not in ROOTS


def drivers_part(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that can be a driver's: where the contract puts files, or named after it; with the folders that hold
    nothing else. What else appeared during a build is somebody else's work."""
    everything = sorted(paths)
    mine = {path for path in everything if _DRIVER_PLACES.match(path) or _DRIVER_NAME.search(path)}
    others = [path for path in everything if path not in mine]
    parents = {str(parent) for path in mine for parent in Path(path).parents}
    holds_others = {str(parent) for path in others if path not in parents for parent in Path(path).parents}
    return sorted(mine | {path for path in others if path in parents and path not in holds_others})


def decides(entry: Entry) -> bool:
    """Whether an entry is part of what must be right before the driver is used: modules, libraries, firmware, programs."""
    return entry.type != "folder" and entry.path.startswith(_DECIDING)
