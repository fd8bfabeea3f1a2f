"""Checks that nothing of a driver is live in an image outside the store, except a layer that a bake in place activated, and that nothing
is left over from a run. Each problem says what it is, where, and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..container import scratch
from ..driver import dkms, foreign, initramfs
from ..driver.modules import is_driver_file
from ..errors import DataError
from ..paths import ACTIVATION_JOURNAL, BAKE_JOURNAL_OF_0_1, BOOT_REMOVAL_JOURNAL, REMOVAL_JOURNAL
from ..store import activation_record
from ..store.contents import CAPTURE, CAPTURES
from ..store.manifest import Manifest
from ..system import mounts, tree
from ..system.dpkg import owned_by_dpkg
from ..system.host import TRIPLETS
from ..system.setuid import setuid
from ..util import bounded, trust
from ..util.expressions import expression
from ..util.files import ABSENT, read_bytes, read_text, relative
from ..util.folders import matching
from ..util.run import Runner

_REMOVALS = (REMOVAL_JOURNAL, BOOT_REMOVAL_JOURNAL)
# Exact names, and Debian's nvidia-current*: some of the kernel's own modules also begin with nvidia, such as nvidia_wmi_ec_backlight.
_ALIAS = expression(r"^alias \S+ (nvidia(?:[_-](?:uvm|modeset|drm|peermem|current\w*))?)$", re.MULTILINE)
# The driver's own libraries and programs, not those of the container toolkit.
_LIBRARY = expression(r"lib(?:cuda|nvcuvid|nvidia-(?!container)[a-z0-9-]+)\.so(?:\.[\d.]+)?")
_PROGRAM = expression(r"nvidia-(?!ctk|container|cdi)[\w.-]+")
_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "opt/bin")
_CONFIGS = ("etc/ld.so.conf", "etc/ld.so.conf.d")
_CACHE = "etc/ld.so.cache"


@dataclass(frozen=True)
class _Live:
    """What is meant to be live: files, versions and kernels of the layers that were baked in place."""

    layers: Collection[str]

    files: Collection[str]
    versions: Collection[str]
    kernels: Collection[str]

    @classmethod
    def of(cls, layers: Iterable[Manifest]) -> _Live:
        live = tuple(layers)
        return cls(
            {layer.layer for layer in live},
            {entry.path for layer in live for entry in layer.files},
            {layer.identity.version for layer in live},
            {layer.identity.kver for layer in live},
        )


def in_place(root: Path, layers: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """The layers whose files are meant to be live: the one that a bake activated, for every machine of the image, and those that version
    0.1.0 baked in place."""
    try:
        active = activation_record.read(root)
    except DataError:
        active = None
    image = active.identity if active and active.verified and not active.machine_id else None
    return tuple(layer for layer in layers if not layer.stored or layer.identity == image)


def activation_problems(root: Path, live: Iterable[Manifest]) -> tuple[str, ...]:
    """What is wrong with the activation in an image, in words. ``live`` are the layers that ``in_place`` has found."""
    damaged = activation_record.problems(root)
    if damaged:
        return tuple(f"{problem}: deactivate the layer and bake again" for problem in damaged)
    active = activation_record.read(root)
    if active is None:
        return ()
    if active.identity not in [layer.identity for layer in live]:
        return (f"layer {active.layer} is active, and not by a bake in this image: deactivate it",)
    return tuple(f"the active layer {active.layer}: {problem}: bake again" for problem in tree.problems(root, active.placed))


def problems(
    root: Path,
    runner: Runner,
    arch: str,
    layers: Iterable[Manifest],
    in_place: Iterable[Manifest] = (),
    setuid_before: Collection[str] = (),
) -> tuple[str, ...]:
    """What is live or left over outside the store of the system at ``root``, in words, except for the layers ``in_place``; empty if all is
    right. ``setuid_before`` are files that were setuid or setgid before the bake."""
    live = _Live.of(in_place)
    placed = dict(_placed(root, layers, live))
    accounted = {*live.files, *placed, *owned_by_dpkg(root)}
    return tuple(
        [
            *(
                f"/{path}: a kernel module of the driver, which can be loaded: remove it, then run depmod {kver}"
                for path, kver in _modules(root)
                if path not in live.files
            ),
            *_aliases(root, live),
            *initramfs.problems(root, runner),
            *(
                f"/{one.path}: registered with DKMS, which compiles it for every new kernel: run dkms remove {one.name}/{one.version} --all"
                for one in dkms.registered(root)
                if one.name != dkms.MODULE or one.version not in live.versions
            ),
            *(
                f"package {name}: an NVIDIA driver package: purge it, or its files would mix with a layer's"
                for name in foreign.driver_packages(root)
            ),
            *(
                f"/{path}: a file of layer {layer} that is in place: deactivate the layer, or remove the file"
                for path, layer in placed.items()
            ),
            *(
                f"/{path}: a driver library where the loader finds it: remove it, then run ldconfig"
                for path in _libraries(root, arch)
                if path not in accounted
            ),
            *_cached(root, live),
            *(f"/{path}: a driver program in PATH: remove it" for path in _programs(root) if path not in accounted),
            *(
                f"/{path}: setuid or setgid, not from a package, and not there before the bake: remove it, or clear these mode bits"
                for path in setuid(root)
                if path not in accounted and path not in setuid_before
            ),
            *_leftovers(root),
        ]
    )


def _leftovers(root: Path) -> tuple[str, ...]:
    """What a run must not leave behind, whatever the mode of the bake."""
    keys = dkms.private_keys(root)
    found = [f"/{path}: a private key, which all nodes of this image would share: remove it" for path in keys if (root / path).exists()]
    for path in scratch.FOLDERS:
        why = scratch.taken(root, path)
        if why:
            found.append(f"/{path}: {why}, which is not a driver image's: every boot would end with path_taken: move it elsewhere")
        elif (root / path).exists():
            found.append(f"/{path}: a scratch folder of driver containers: remove it")
    if root == Path("/"):
        found += [
            f"{mount.point}: a mount that a driver container left behind: run umount -l {mount.point}"
            for mount in mounts.left_by_container(mounts.current())
        ]
    for capture in matching(trust.below(root, CAPTURES), "*"):
        advice = "left by a capture that was interrupted: bake again" if CAPTURE.fullmatch(capture.name) else "not ours: move it elsewhere"
        found.append(f"/{CAPTURES}/{capture.name}: {advice}")
    if trust.below(root, ACTIVATION_JOURNAL).exists():
        found.append(f"/{ACTIVATION_JOURNAL}: a run was interrupted: bake again")
    if trust.below(root, BAKE_JOURNAL_OF_0_1).exists():
        found.append(f"/{BAKE_JOURNAL_OF_0_1}: a bake of version 0.1.0 was killed: start from a fresh machine")
    found += [
        f"/{path}: a removal was interrupted: run playbooks/remove.yml again on this machine"
        for path in _REMOVALS
        if trust.below(root, path).exists()
    ]
    return tuple(found)


def _modules(root: Path) -> Iterator[tuple[str, str]]:
    for path in matching(root / "lib/modules", "*/**/*.ko*"):
        if is_driver_file(path.name):
            yield relative(root, path), path.relative_to(root / "lib/modules").parts[0]


def _aliases(root: Path, live: _Live) -> Iterator[str]:
    for path in matching(root / "lib/modules", "*/modules.alias"):
        kver = path.parent.name
        names = sorted(set(_ALIAS.findall(read_text(path) or "")))
        if names and kver not in live.kernels:
            yield f"/{relative(root, path)}: udev would load {', '.join(names)}: run depmod {kver}"


def _placed(root: Path, layers: Iterable[Manifest], live: _Live) -> Iterator[tuple[str, str]]:
    """Files of an inert layer that are in place, with the layer's name. Files that the layer would replace are checked elsewhere."""
    for layer in layers:
        if layer.layer in live.layers:
            continue
        replaced = {*layer.replaced, *live.files}
        for entry in layer.files:
            if (
                entry.type != "folder"
                and entry.path not in replaced
                and not is_driver_file(entry.path.rpartition("/")[2])  # reported as a module
                and os.path.lexists(root / entry.path)
            ):
                yield entry.path, layer.layer


def _libraries(root: Path, arch: str) -> Iterator[str]:
    """The driver's libraries in the loader's default folders and in those that its configuration names."""
    triplet = TRIPLETS[arch]
    folders = [f"usr/lib/{triplet}", "usr/lib", "usr/lib64", "usr/local/lib", f"usr/local/lib/{triplet}"]
    configs = [root / _CONFIGS[0], *matching(root / _CONFIGS[1], "*.conf")]
    lines = [line.split("#")[0].strip() for config in configs for line in bounded.lines(read_text(config))]
    folders += [line.strip("/") for line in lines if line.startswith("/")]
    yield from _named(root, folders, _LIBRARY)


def _programs(root: Path) -> Iterator[str]:
    yield from _named(root, _PATH, _PROGRAM)


def _named(root: Path, folders: Iterable[str], names: re.Pattern[str]) -> Iterator[str]:
    """Files with these names in these folders, each once, by their real paths on merged /usr; dangling links included."""
    found = set()
    for path in (path for folder in folders for path in matching(root / folder, "*") if names.fullmatch(path.name)):
        try:
            found.add(relative(root, path))
        except ValueError:  # an absolute link, which leads out of a mounted image
            found.add(str(path.relative_to(root)))
    yield from sorted(found)


def _cached(root: Path, live: _Live) -> Iterator[str]:
    """The loader's cache, a binary file that contains names as plain text. Its entries can outlive the libraries."""
    try:
        cached = read_bytes(root / _CACHE)
    except OSError as error:
        if error.errno in ABSENT:
            return
        raise
    if not live.files and re.search(rb"\blib(?:cuda|nvidia-ml)\.so", cached):
        yield f"/{_CACHE}: it contains a driver library, which the loader would use: run ldconfig"
