"""Whether nothing of a driver is live in an image but what a bake in place has put there: what the seal looks for outside the store
(R1, R2, B10, B13, B22, R9). Each finding says what it is, where, and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..driver import dkms, foreign, initramfs
from ..driver.modules import is_driver_file
from ..paths import ACTIVATION_JOURNAL, BAKE_JOURNAL, BOOT_REMOVAL_JOURNAL, REMOVAL_JOURNAL, STORE
from ..store.manifest import IN_PLACE, Manifest
from ..system import mounts
from ..system.dpkg import owned_by_dpkg
from ..system.host import TRIPLETS
from ..system.setuid import setuid
from ..util.files import read_text, relative
from ..util.run import Runner

_JOURNALS = (BAKE_JOURNAL, ACTIVATION_JOURNAL)
_REMOVALS = (REMOVAL_JOURNAL, BOOT_REMOVAL_JOURNAL)
_CONTRACTS = ("opt/gpu", "opt/actions")
# Exact names, and Debian's nvidia-current: kernels have modules of their own that begin so, such as nvidia_wmi_ec_backlight (B13).
_ALIAS = re.compile(r"^alias \S+ (nvidia(?:[_-](?:uvm|modeset|drm|peermem|current\w*))?)$", re.MULTILINE)
# Names of the driver's own; the container toolkit's are none of them.
_LIBRARY = re.compile(r"lib(?:cuda|nvcuvid|nvidia-(?!container)[a-z0-9-]+)\.so(?:\.[\d.]+)?")
_PROGRAM = re.compile(r"nvidia-(?!ctk|container|cdi)[\w.-]+")
_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "opt/bin")
_CONFIGS = ("etc/ld.so.conf", "etc/ld.so.conf.d")
_CACHE = "etc/ld.so.cache"


@dataclass(frozen=True)
class _Live:
    """What layers that were baked in place account for: it is meant to be live."""

    files: Collection[str]
    versions: Collection[str]
    kernels: Collection[str]

    @classmethod
    def of(cls, layers: Iterable[Manifest]) -> _Live:
        live = [layer for layer in layers if layer.mode == IN_PLACE]
        return cls(
            {entry.path for layer in live for entry in layer.files},
            {layer.identity.version for layer in live},
            {layer.identity.kver for layer in live},
        )


def problems(root: Path, runner: Runner, arch: str, layers: Iterable[Manifest], setuid_before: Collection[str] = ()) -> tuple[str, ...]:
    """What is live or left over outside the store of the system at ``root`` that no layer in place accounts for; empty for an image
    that is right. ``setuid_before`` are files that were setuid or setgid before the bake."""
    known = list(layers)
    live = _Live.of(known)
    placed = dict(_placed(root, known))
    accounted = {*live.files, *placed, *owned_by_dpkg(root)}
    return tuple(
        [
            *(
                f"/{path}: a kernel module of the driver's, which can be loaded: remove it, then depmod {kver}"
                for path, kver in _modules(root)
                if path not in live.files
            ),
            *_aliases(root, live),
            *initramfs.problems(root, runner),
            *(
                f"/{dkms.TREE}/{name}/{version}: registered with DKMS, which compiles it for every kernel that comes: "
                f"dkms remove {name}/{version} --all"
                for name, version in _registered(root)
                if name != dkms.MODULE or version not in live.versions
            ),
            *(f"package {name}: a driver's: purge it, two owners would merge" for name in foreign.driver_packages(root)),
            *(f"/{path}: a file of layer {layer}, in place: deactivate the layer, or remove it" for path, layer in placed.items()),
            *(
                f"/{path}: a driver's library where the loader looks: remove it, then ldconfig"
                for path in _libraries(root, arch)
                if path not in accounted
            ),
            *_cached(root, live),
            *(f"/{path}: a driver's program in PATH: remove it" for path in _programs(root) if path not in accounted),
            *(
                f"/{path}: setuid or setgid, no package's, and not there before the bake: remove it, or take that mode away"
                for path in setuid(root)
                if path not in accounted and path not in setuid_before
            ),
            *_leftovers(root),
        ]
    )


def _leftovers(root: Path) -> tuple[str, ...]:
    """What a bake in any mode must not leave behind."""
    keys = dkms.private_keys(root)
    found = [f"/{path}: a private key, the same on every node of this image: remove it" for path in keys if (root / path).exists()]
    found += [f"/{path}: a scratch folder of driver containers: remove it" for path in _CONTRACTS if (root / path).exists()]
    if root == Path("/"):
        found += [
            f"{mount.point}: a mount that a driver container left: umount -l {mount.point}"
            for mount in mounts.left_by_container(mounts.current())
        ]
    captures = root / STORE / "captures"
    found += [f"/{STORE}/captures/{path.name}: left by a capture that did not end: bake again" for path in sorted(captures.glob("*"))]
    found += [f"/{path}: a run did not end: bake again" for path in _JOURNALS if (root / path).exists()]
    found += [f"/{path}: a removal did not end: run playbooks/remove.yml here again" for path in _REMOVALS if (root / path).exists()]
    return tuple(found)


def _modules(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((root / "lib/modules").glob("*/**/*.ko*")):
        if is_driver_file(path.name):
            yield relative(root, path), path.relative_to(root / "lib/modules").parts[0]


def _aliases(root: Path, live: _Live) -> Iterator[str]:
    for path in sorted((root / "lib/modules").glob("*/modules.alias")):
        kver = path.parent.name
        names = sorted(set(_ALIAS.findall(read_text(path) or "")))
        if names and kver not in live.kernels:
            yield f"/{relative(root, path)}: udev would load {', '.join(names)}: depmod {kver}"


def _registered(root: Path) -> Iterator[tuple[str, str]]:
    for name in dkms.registered_names(root):
        yield from ((name, version) for version in sorted({entry.version for entry in dkms.entries(root, name)}) or [""])


def _placed(root: Path, layers: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Files of an inert layer that are where they would be put, and are not what was there before: what it replaces has its own check."""
    for layer in layers:
        if layer.mode == IN_PLACE:
            continue
        replaced = set(layer.replaced)
        for entry in layer.files:
            if (
                entry.type != "folder"
                and entry.path not in replaced
                and not is_driver_file(entry.path.rpartition("/")[2])  # said as a module
                and os.path.lexists(root / entry.path)
            ):
                yield entry.path, layer.layer


def _libraries(root: Path, arch: str) -> Iterator[str]:
    """The driver's libraries in the folders that the loader takes by itself and those that its configuration names."""
    triplet = TRIPLETS[arch]
    folders = [f"usr/lib/{triplet}", "usr/lib", "usr/lib64", "usr/local/lib", f"usr/local/lib/{triplet}"]
    configs = [root / _CONFIGS[0], *sorted((root / _CONFIGS[1]).glob("*.conf"))]
    lines = [line.split("#")[0].strip() for config in configs for line in (read_text(config) or "").splitlines()]
    folders += [line.strip("/") for line in lines if line.startswith("/")]
    yield from _named(root, folders, _LIBRARY)


def _programs(root: Path) -> Iterator[str]:
    yield from _named(root, _PATH, _PROGRAM)


def _named(root: Path, folders: Iterable[str], names: re.Pattern[str]) -> Iterator[str]:
    """Files in these folders by the paths that merged /usr really has, each once; dangling links included."""
    found = set()
    for path in (path for folder in folders for path in (root / folder).glob("*") if names.fullmatch(path.name)):
        try:
            found.add(relative(root, path))
        except ValueError:  # an absolute link, which leads out of an image that lies mounted
            found.add(str(path.relative_to(root)))
    yield from sorted(found)


def _cached(root: Path, live: _Live) -> Iterator[str]:
    """The loader's cache, a binary file with names as they are; it is believed even where the file itself has gone."""
    try:
        cached = (root / _CACHE).read_bytes()
    except OSError:
        return
    if not live.files and re.search(rb"\blib(?:cuda|nvidia-ml)\.so", cached):
        yield f"/{_CACHE}: the loader would find a driver's library by it: ldconfig"
