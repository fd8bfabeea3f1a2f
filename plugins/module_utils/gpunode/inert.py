"""Whether an image is as if nothing had been baked into it: what the seal looks for outside the store (R1, R2, B10, B13, B22, R9)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import activated, dkms, foreign, initramfs, mounts, preflight
from .files import read_text
from .kmod import is_driver_file
from .manifest import STORE, Manifest
from .runner import Runner
from .takeback import owned_by_dpkg

# Private keys that DKMS and shim-signed make for themselves, the same then in every machine made from the image.
_KEYS = ("var/lib/dkms/mok.key", "var/lib/shim-signed/mok/MOK.priv")
_JOURNALS = (preflight.JOURNAL, activated.JOURNAL)
_CONTRACTS = ("opt/gpu", "opt/actions")
_ALIAS = re.compile(r"^alias \S+ (nvidia(?:[_-]\w+)?)$", re.MULTILINE)
_SETUID = stat.S_ISUID | stat.S_ISGID
# Not part of the image, or inert by themselves; what is below them is not looked at.
_SKIPPED = ("proc", "sys", "dev", "run", "tmp", "var/tmp", "var/lib/containerd", STORE)


def problems(root: Path, runner: Runner, arch: str, layers: Iterable[Manifest]) -> tuple[str, ...]:
    """What is live or left over outside the store of the system at ``root``, each with what it is; empty for an inert image."""
    known = list(layers)
    return tuple(
        [
            *(f"/{path}: a kernel module of the driver's, which can be loaded" for path in _modules(root)),
            *_aliases(root),
            *(f"/boot/initrd.img-{kver}: holds a module of the driver's: update-initramfs -u -k {kver}" for kver in _images(root, runner)),
            *(f"/{dkms.TREE}/{name}: registered with DKMS" for name in dkms.registered_names(root)),
            *(f"{sign}: it is live" for sign in foreign.signs(root, arch, set(), set())),
            *(f"/{path}: a file of layer {layer}, in place" for path, layer in _placed(root, known)),
            *(f"/{path}: setuid or setgid, and no package's" for path in _setuid(root)),
            *leftovers(root),
        ]
    )


def leftovers(root: Path) -> tuple[str, ...]:
    """What a bake in any mode must not leave behind."""
    found = [f"/{path}: a private key in the image, the same on every machine made from it" for path in _KEYS if (root / path).exists()]
    found += [f"/{path}: a scratch folder of driver containers" for path in _CONTRACTS if (root / path).exists()]
    if root == Path("/"):
        found += [f"{mount.point}: a mount that a driver container left" for mount in mounts.left_by_container(mounts.current())]
    captures = root / STORE / "captures"
    found += [f"/{STORE}/captures/{path.name}: left by a capture that did not end" for path in sorted(captures.glob("*"))]
    found += [
        f"/{STORE}/{name}: a run did not end"
        for name in ("bake-under-way.json", "activation-journal.json")
        if (root / STORE / name).exists()
    ]
    return tuple(found)


def _modules(root: Path) -> Iterator[str]:
    for path in sorted((root / "lib/modules").glob("*/**/*.ko*")):
        if is_driver_file(path.name):
            yield foreign.relative(root, path)


def _aliases(root: Path) -> Iterator[str]:
    for path in sorted((root / "lib/modules").glob("*/modules.alias")):
        names = sorted(set(_ALIAS.findall(read_text(path) or "")))
        if names:
            yield f"/{foreign.relative(root, path)}: udev would load {', '.join(names)}: depmod {path.parent.name}"


def _images(root: Path, runner: Runner) -> tuple[str, ...]:
    return initramfs.holding(root, runner, ())


def _placed(root: Path, layers: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Files of a layer that are where they would be put, and are not what was there before: what a layer replaces has its own check."""
    for layer in layers:
        replaced = set(layer.replaced)
        for entry in layer.files:
            if entry.type != "folder" and entry.path not in replaced and os.path.lexists(root / entry.path):
                yield entry.path, layer.layer


def _setuid(root: Path) -> Iterator[str]:
    owned = owned_by_dpkg(root)
    for path in sorted(_special(root)):
        if path not in owned:
            yield path


def _special(root: Path) -> Iterator[str]:
    device = root.stat().st_dev
    stack = [str(root)]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            path = os.path.relpath(entry.path, root)
            if path in _SKIPPED:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                if status.st_dev == device or path.count("/") == 0:
                    stack.append(entry.path)
            elif stat.S_ISREG(status.st_mode) and status.st_mode & _SETUID:
                yield path
