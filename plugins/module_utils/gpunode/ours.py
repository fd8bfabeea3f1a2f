"""What of ours is on a node, by our own documents; and what else is there that a removal leaves, each with a sentence why."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from . import foreign, host, kmod, manifest, marker, placed, record
from .containerd import Containerd
from .errors import CommandError, DataError, PreflightError
from .files import read_text
from .manifest import STORE, Manifest
from .marker import Marker
from .placed import Placed
from .preflight import JOURNAL as BAKE_JOURNAL
from .record import Record
from .removal import Accounted

LOGS = "var/log/gpu-prebake"
NOTES = f"{STORE}/release-notes.txt"
JOURNAL = f"{STORE}/removal-under-way.json"
# Packages that a driver container installs with dpkg; whether it was ours that did is written nowhere, so they stay.
_CONTAINERS_PACKAGE = re.compile(
    r"(nvidia-container-toolkit|libnvidia-container|nvidia-container-runtime|nvidia-fabricmanager|nvidia-persistenced|nvidia-imex"
    r"|libnvidia-nscq|nvlsm)[a-z0-9.+-]*"
)
# Files that driver containers place by fixed names. What is still there after a removal is named.
_FIXED = (
    placed.DROPIN,
    "lib/udev/rules.d/71-nvidia-dev-char.rules",
    "etc/modprobe.d/blacklist-nouveau.conf",
    "etc/cdi/nvidia.yaml",
    "var/lib/dkms/mok.key",
)
_DROPIN_STAYS = (
    "its content is not what a driver container of ours wrote; containerd's runtime handler needs its binary from the container toolkit: "
    "remove both together, then restart containerd"
)


@dataclass(frozen=True)
class Left:
    """Something that stays: what it is, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Ours:
    """What was found. ``problems`` are damaged documents in words, ``images`` the names of our driver images in containerd, ``history``
    the folders of our store and logs, ``interrupted`` says that an earlier removal did not end."""

    root: Path
    arch: str
    layers: tuple[Manifest, ...] = ()
    node: Record | None = None
    placed: Placed | None = None
    problems: tuple[str, ...] = ()
    marker: Marker | None = None
    images: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    interrupted: bool = False

    def is_anything(self, everything: bool) -> bool:
        """Whether there is something to take away."""
        history = everything and bool(self.history) and not self.problems
        return bool(self.layers or self.node or self.placed or history or self.interrupted)

    @property
    def versions(self) -> set[str]:
        return {layer.identity.version for layer in self.layers} | ({self.node.identity.version} if self.node else set())

    def accounted(self, marker_path: str) -> Accounted:
        """What may be taken. A marker of another version is another provisioner's."""
        mine = self.marker is not None and self.marker.version in self.versions
        by_version = not foreign.driver_packages(self.root)
        return Accounted(self.arch, self.layers, self.node, self.placed or Placed(), None, marker_path if mine else None, by_version)

    def own_modules(self) -> tuple[str, ...]:
        """Modules in the kernel that are ours: none where an operator or a distribution's package has a driver too."""
        loaded = {m.name: m for m in kmod.loaded(self.root, kmod.DRIVER_MODULES)}
        if not loaded or self.operator or foreign.driver_packages(self.root):
            return ()
        version = next(iter(loaded.values())).version if "nvidia" not in loaded else loaded["nvidia"].version
        return tuple(loaded) if version in self.versions else ()

    def left(self, kept: list[str], without_images: bool, everything: bool) -> list[Left]:
        """What stays, and why; ``kept`` are files of ours that were changed since."""
        found = [
            Left(f"/{path}", _DROPIN_STAYS if path == placed.DROPIN else "changed since it was placed: it is yours now") for path in kept
        ]
        for layer in self.layers:
            found += [Left(f"/{path}", "the build replaced it, and the original was not kept") for path in layer.replaced]
            found += [Left(f"/{path}", "the build deleted it, and it cannot be put back") for path in layer.deleted]
        found += [Left("a damaged document", f"{problem}; look at it, then delete it") for problem in self.problems]
        found += self._fixed({*kept})
        found += [
            Left(f"package {name}", "a driver container may have installed it; apt-get purge it where nothing else needs it")
            for name in _packages(self.root)
        ]
        if not without_images:
            found += [Left(f"driver image {name}", "kept for a later boot or bake (gpu_remove_images)") for name in self.images]
        found += [Left(sign, "a driver that is not ours") for sign in self.foreign]
        found += [Left(path, "a GPU operator owns the driver of this node; its modules are left alone") for path in self.operator]
        if self.marker and self.marker.version not in self.versions and not self.foreign:
            found.append(Left("a driver container's marker", f"it speaks of {self.marker.version}, of which no document of ours knows"))
        if not everything:
            found += [Left(f"/{path}", "history of bakes and boots (gpu_remove_scope: everything removes it)") for path in self.history]
        return found + self._strange_modules()

    def _strange_modules(self) -> list[Left]:
        mine = self.own_modules()
        strange = [m for m in kmod.loaded(self.root, kmod.DRIVER_MODULES) if m.name not in mine]
        return [Left(f"module {m.name}", f"version {m.version or 'unknown'} is in the kernel, and not ours") for m in strange]

    def _fixed(self, named: set[str]) -> list[Left]:
        """Files of fixed names that no document accounts for; only worth a word where something of ours was here."""
        if not self.versions:
            return []
        known = self.placed.paths if self.placed else set()
        known |= {entry.path for layer in self.layers for entry in layer.files}
        found = []
        for path in _FIXED:
            real = foreign.relative(self.root, self.root / path) if (self.root / path).exists() else ""
            if real and real not in known and real not in named:
                why = _DROPIN_STAYS if path == placed.DROPIN else "no document of ours says that a driver container placed it"
                found.append(Left(f"/{real}", why))
        return found


def look(root: Path, containerd: Containerd, marker_path: str) -> Ours:
    """Looks at the system at ``root``. Raises PreflightError where a bake was killed: only a bake can take that back."""
    if (root / BAKE_JOURNAL).exists():
        raise PreflightError(
            f"a bake was killed here (/{BAKE_JOURNAL}): bake again, which takes back what it left, or start from a fresh machine",
            code="bake_unfinished",
        )
    layers, problems = manifest.read_all(root)
    found_marker, found_record, found_placed, more = _documents(root, marker_path)
    versions = {layer.identity.version for layer in layers} | ({found_record.identity.version} if found_record else set())
    arch = host.require_supported(root, os.uname().machine) if versions else host.normal_arch(os.uname().machine) or "x86_64"
    accounted = Accounted(arch, layers, found_record, found_placed or Placed())
    return Ours(
        root,
        arch,
        layers,
        found_record,
        found_placed,
        (*problems, *more),
        found_marker,
        _images(containerd, {layer.image for layer in layers} | ({found_record.image} if found_record else set())),
        foreign.signs(root, arch, versions, accounted.paths),
        foreign.operator_signs(root),
        tuple(path for path in (STORE, LOGS) if (root / path).is_dir()),
        (root / JOURNAL).exists(),
    )


def _documents(root: Path, marker_path: str) -> tuple[Marker | None, Record | None, Placed | None, tuple[str, ...]]:
    problems: list[str] = []
    found_marker: Marker | None = None
    found_record: Record | None = None
    found_placed: Placed | None = None
    with contextlib.suppress(DataError):  # a driver container's document, not ours
        found_marker = marker.read(root, marker_path)
    try:
        found_record = record.read(root)
    except DataError as error:
        problems.append(str(error))
    try:
        found_placed = placed.read(root)
    except DataError as error:
        problems.append(str(error))
    return found_marker, found_record, found_placed, tuple(problems)


def _images(containerd: Containerd, references: set[str]) -> tuple[str, ...]:
    """Every name in containerd of the driver images that our documents mention; none where it does not answer."""
    try:
        return containerd.names_of(references) if references and containerd.is_ready() else ()
    except CommandError:
        return ()


def _packages(root: Path) -> tuple[str, ...]:
    text = read_text(root / "var/lib/dpkg/status") or ""
    names = re.findall(r"^Package: (.+)\n(?:.+\n)*?Status: .* installed$", text, re.MULTILINE)
    return tuple(sorted(name for name in names if _CONTAINERS_PACKAGE.fullmatch(name)))
