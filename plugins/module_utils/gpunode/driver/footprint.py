"""Where a driver's files are: which paths an installation writes, which are only generated, and which decide whether a driver is right."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..system.tree import Entry, signature, walk
from ..util.expressions import expression
from .modules import is_driver_file

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
# A driver container's run may write here too: in this folder NVIDIA's installer lists what it has installed. No layer contains it.
ALL_ROOTS = (*ROOTS, "var/lib/nvidia")
# What only a driver container writes: the contract's own files (docs/contract.md), and the places and names of NVIDIA's installer. A name
# alone, anywhere else, says nothing: others have files that are named after the driver too.
_CONTAINERS = expression(
    r"usr/bin/lib64/.+|opt/azure/aks-gpu(/.+)?|var/lib/dkms/nvidia(/.+)?|var/lib/nvidia(/.+)?|usr/src/nvidia-[^/]+(/.+)?"
    r"|(usr/)?lib/firmware/nvidia/.+|(usr/)?lib/nvidia(/.+)?|usr/share/nvidia(/.+)?|usr/share/doc/(NVIDIA_GLX-|nvidia-)[^/]+(/.+)?"
    r"|usr/s?bin/(nvidia-[^/]+|nv-fabricmanager|nvswitch-audit)|usr/include/nv_fm_(agent|types)\.h"
    r"|usr/lib/[^/]+-linux-gnu/(lib(nvidia|cuda|nvfm|nvcuvid|nvoptix|nvsdm)[^/]*\.so[^/]*|(gbm|vdpau)/(lib)?[^/]*nvidia[^/]*)"
    r"|(usr/)?lib/(systemd/(system|system-sleep)|udev/rules\.d|modprobe\.d|xorg/modules/(drivers|extensions))/[^/]*nvidia[^/]*"
    r"|usr/share/(applications|pixmaps|dbus-1/system\.d|X11/xorg\.conf\.d|man/man\d)/nvidia-[^/]+"
    r"|(etc|usr/share)/(vulkan|glvnd|egl|OpenCL)/([^/]+/)*[^/]*nvidia[^/]*"
    r"|etc/modprobe\.d/(blacklist-nouveau|nvidia-installer-[^/]+)\.conf|etc/ld\.so\.conf\.d/nvidia\.conf"
    r"|etc/containerd/config\.d/10-nvidia-runtime\.toml|etc/nvidia-container-runtime(/.+)?|etc/cdi/nvidia\.yaml"
)
_MODULES = expression(r"(?:usr/)?lib/modules/[^/]+/(?:updates|extra|weak-updates)/(?:[^/]+/)*([^/]+)")
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


def is_containers(path: str) -> bool:
    """Whether a file or link that came while a driver container ran can only be from it."""
    module = _MODULES.fullmatch(path)
    return is_driver_file(module[1]) if module else bool(_CONTAINERS.fullmatch(path))


def folders_of(mine: Iterable[str], others: Iterable[str], folders: Iterable[str]) -> set[str]:
    """Those of ``folders`` that contain something of ``mine`` and nothing of ``others``."""
    above, taken = _parents(mine), _parents(others)
    return {path for path in folders if path in above and path not in taken}


def topmost(paths: Iterable[str]) -> list[str]:
    """``paths`` without those that are inside another of them."""
    found = set(paths)
    return sorted(path for path in found if found.isdisjoint(_parents([path])))


def _parents(paths: Iterable[str]) -> set[str]:
    return {str(parent) for path in paths for parent in Path(path).parents if parent.name}


def decides(entry: Entry) -> bool:
    """Whether an entry must be right before the driver is used: modules, libraries, firmware, programs."""
    return entry.type != "folder" and entry.path.startswith(_DECIDING)
