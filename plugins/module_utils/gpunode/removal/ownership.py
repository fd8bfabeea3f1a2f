"""Finds what of ours is on a node, by our documents, and what a removal leaves there, each with the reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..activation import recovery
from ..activation.take_away_plan import Stays
from ..container import leftovers
from ..container import marker as container_marker
from ..container.containerd import Containerd
from ..container.leftovers import Left, packages_left
from ..container.marker import Marker
from ..driver import kmod, modules, nouveau_blacklist
from ..driver.foreign import driver_packages, operator_signs, signs
from ..errors import CommandError, DataError
from ..paths import ACTIVATION_JOURNAL, BOOT_REMOVAL_JOURNAL, LOGS, REMOVAL_JOURNAL, STORE
from ..store import activation_record, contents, driver_images, installed_files, node_record, reports
from ..store.activation_record import Activation
from ..store.contents import Contents
from ..store.driver_images import DriverImages
from ..store.installed_files import InstalledFiles
from ..store.layers import read_all
from ..store.manifest import Manifest
from ..store.node_record import Record
from ..system import host
from ..util import trust
from .uninstall import Accounted

# Files that driver containers write under fixed names. Those that are still there after a removal are reported.
_FIXED = (
    *leftovers.INITIALISATION,
    "etc/modprobe.d/blacklist-nouveau.conf",
    "etc/cdi/nvidia.yaml",
    "var/lib/dkms/mok.key",
)
_DROPIN_STAYS = (
    "it is not as a driver container of ours wrote it; the runtime handler in it needs a program of the container toolkit: remove both "
    "together, then restart containerd"
)


@dataclass(frozen=True)
class Ours:
    """What was found. ``active`` are the captured layers in place, ``problems`` what is wrong with damaged documents, ``images`` the names
    of our driver images in containerd, ``fetched`` our list of those that we brought there, ``contents`` what is in our store and log
    folder, ``blacklists`` the bake's files about nouveau and Nova. ``interrupted``: an earlier removal or activation did not end, or only
    the manifests say what is in place.
    """

    root: Path
    arch: str
    layers: tuple[Manifest, ...] = ()
    node: Record | None = None
    placed: InstalledFiles | None = None
    active: tuple[Activation, ...] = ()
    problems: tuple[str, ...] = ()
    marker: Marker | None = None
    images: tuple[str, ...] = ()
    fetched: DriverImages = field(default_factory=DriverImages)
    foreign: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()
    contents: Mapping[str, Contents] = field(default_factory=dict)
    blacklists: tuple[str, ...] = ()
    changed_blacklists: tuple[str, ...] = ()
    interrupted: bool = False

    def is_anything(self, everything: bool) -> bool:
        """Whether there is something to remove."""
        baked = everything and ((bool(self.history) and not self.problems) or bool(self.blacklists))
        return bool(self.in_place or self.node or self.placed or self.active or baked or self.interrupted)

    @property
    def history(self) -> tuple[str, ...]:
        """Our store and log folder, if something of ours is in them."""
        return tuple(top for top, contents in self.contents.items() if contents.is_ours)

    @property
    def in_place(self) -> tuple[Manifest, ...]:
        """Layers that version 0.1.0 baked in place."""
        return tuple(layer for layer in self.layers if not layer.stored)

    @property
    def captured(self) -> tuple[Manifest, ...]:
        """Captured layers in the store, including the active one."""
        return tuple(layer for layer in self.layers if layer.stored)

    @property
    def versions(self) -> set[str]:
        mine = [layer.identity for layer in self.layers] + [one.identity for one in self.active]
        return {identity.version for identity in (*mine, *((self.node.identity,) if self.node else ()))}

    def accounted(self, marker_path: str) -> Accounted:
        """What may be removed. A marker of another version was not written for us."""
        mine = self.marker is not None and self.marker.version in self.versions
        active = self.active[0].identity.version if self.active else ""
        path = marker_path if mine else None
        return Accounted(self.arch, self.in_place, self.node, self.placed, None, path, self.captured, active)

    def own_modules(self) -> tuple[str, ...]:
        """Loaded modules that are ours: none if a GPU operator or a distribution's package has a driver here too."""
        if self.operator or driver_packages(self.root):
            return ()
        return tuple(m.name for m in modules.of_version(kmod.loaded(self.root, modules.DRIVER_MODULES), self.versions))

    def left(self, stays: Iterable[Stays], without_images: bool, everything: bool) -> list[Left]:
        """What stays, and why; ``stays`` are files of ours that are not removed or not restored."""
        kept = {one.path: _DROPIN_STAYS if one.path == leftovers.DROPIN else one.why for one in stays}
        found = [Left(f"/{path}", why) for path, why in kept.items()]
        for layer in self.in_place:
            found += [Left(f"/{path}", "the build replaced it, and the original was not kept") for path in layer.replaced]
            found += [Left(f"/{path}", "the build deleted it, and it cannot be restored") for path in layer.deleted]
        found += [Left("a damaged document", f"{problem}; look at it, then delete it") for problem in self.problems]
        others = self.placed.others if self.placed else ()
        found += leftovers.left_by_others(self.root, others)
        found += self._fixed({*kept, *others})
        found += packages_left(self.root, self.placed.packages if self.placed else ())
        found += [Left(f"/{path}", "changed since a bake wrote it: it is no longer ours") for path in self.changed_blacklists]
        if not without_images:
            why = "kept for a later boot or bake, and no longer pinned" if everything else "kept for a later boot or bake"
            found += [Left(f"driver image {name}", f"{why} (gpu_remove_images removes it)") for name in self.images]
        found += [Left(sign, "a foreign driver") for sign in self.foreign]
        found += [Left(path, "a GPU operator owns the driver of this node; its modules are left alone") for path in self.operator]
        if self.marker and self.marker.version not in self.versions and not self.foreign:
            found.append(Left("a driver container's marker", f"it is of version {self.marker.version}, which none of our documents names"))
        if not everything:
            found += [
                Left(f"layer {m.layer}", "inert in the store, for a later boot (gpu_remove_scope: everything removes it)")
                for m in self.captured
            ]
            why = "the image's choice about the kernel's own drivers (gpu_remove_scope: everything removes it)"
            found += [Left(f"/{path}", why) for path in self.blacklists]
            found += [Left(f"/{path}", "history of bakes and boots (gpu_remove_scope: everything removes it)") for path in self.history]
        return found + self._other_modules()

    def _other_modules(self) -> list[Left]:
        mine = self.own_modules()
        others = [m for m in kmod.loaded(self.root, modules.DRIVER_MODULES) if m.name not in mine]
        return [Left(f"module {m.name}", f"version {m.version or 'unknown'} is loaded, and is not ours") for m in others]

    def _fixed(self, named: Collection[str]) -> list[Left]:
        """Files under fixed names that no document lists. Reported only if something of ours was here."""
        if not self.versions:
            return []
        known = self.placed.paths if self.placed else set()
        known |= {entry.path for layer in self.in_place for entry in layer.files}
        known |= installed_files.unfinished(self.root, self.placed)
        why = "none of our documents says that a driver container wrote it"
        found = [path for path in leftovers.unpackaged(self.root, _FIXED) if path not in known and path not in named]
        named_here = [Left(f"/{path}", _DROPIN_STAYS if path == leftovers.DROPIN else why) for path in found]
        return [*named_here, *leftovers.installers_logs(self.root)]


def look(root: Path, containerd: Containerd, marker_path: str) -> Ours:
    """Looks at the system at ``root``. Raises PreflightError if a bake in place of version 0.1.0 was killed, because no manifest lists
    what it left; DataError if a newer version of this program has activated a layer."""
    reports.require_no_killed_bake(root)
    layers, problems = read_all(root)
    known, more = _documents(root, marker_path)
    found = replace(
        known,
        layers=layers,
        problems=(*problems, *more),
        operator=operator_signs(root),
        blacklists=nouveau_blacklist.ours(root),
        changed_blacklists=nouveau_blacklist.changed(root),
        contents={STORE: contents.of_store(root), LOGS: contents.of_logs(root)},
        interrupted=known.interrupted
        or any(trust.below(root, path).exists() for path in (REMOVAL_JOURNAL, BOOT_REMOVAL_JOURNAL, ACTIVATION_JOURNAL)),
    )
    if found.versions:
        found = replace(found, arch=host.require_supported(root, os.uname().machine))
    references = {layer.image for layer in layers} | ({found.node.image} if found.node else set()) | {*found.fetched.pulled}
    paths = Accounted(found.arch, layers, found.node, found.placed).paths
    return replace(found, images=_images(containerd, references), foreign=signs(root, found.arch, found.versions, paths))


def _documents(root: Path, marker_path: str) -> tuple[Ours, tuple[str, ...]]:
    """Our documents and the marker, and what is wrong with documents that cannot be read."""
    problems: list[str] = []
    found = Ours(root, host.normal_arch(os.uname().machine) or "x86_64")
    with contextlib.suppress(DataError):  # a driver container's document, not ours
        found = replace(found, marker=container_marker.read(root, marker_path))
    try:
        found = replace(found, node=node_record.read(root))
    except DataError as error:
        problems.append(str(error))
    try:
        found = replace(found, placed=installed_files.read(root))
    except DataError as error:
        problems.append(str(error))
    try:
        found = replace(found, fetched=driver_images.read(root))
    except DataError as error:
        problems.append(str(error))
    errors = activation_record.problems(root)
    for newer in filter(activation_record.is_newer, errors):
        raise newer
    if errors:
        return replace(found, active=recovery.found(root), interrupted=True), (*problems, *(str(one) for one in errors))
    active = activation_record.read(root)
    return replace(found, active=(active,) if active else ()), tuple(problems)


def _images(containerd: Containerd, references: set[str]) -> tuple[str, ...]:
    """All names that containerd has for the driver images of our documents; none if containerd does not answer."""
    try:
        return containerd.names_of(references) if references and containerd.is_ready() else ()
    except CommandError:
        return ()
