"""Removes what our documents account for and no activation lists: kernel modules and libraries together (rule I1), only what we placed.

The documents that say what is ours are removed last, so an interrupted removal is simply repeated (rule R4).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..activation import take_away, take_away_plan, untracked
from ..activation.staging import in_order
from ..activation.take_away import TakenAway
from ..activation.take_away_plan import Listed, TakeAwayPlan
from ..container import marker
from ..driver import dkms, foreign, libraries
from ..driver.footprint import CONTRACT_LIBRARIES
from ..paths import BOOT_REMOVAL_JOURNAL, INSTALLED_FILES, NODE_RECORD, STORE
from ..store import installed_files, node_record
from ..store.activation_record import DEPMOD, LDCONFIG, Derived
from ..store.installed_files import InstalledFiles
from ..store.layers import drop_layer_folder, path_of
from ..store.manifest import Manifest
from ..store.node_record import Record
from ..system import kernels, tree
from ..system.dpkg import owned_by_dpkg
from ..system.tree import Entry
from ..util import jsondoc, trust
from ..util.files import make_private, read_text, remove_durably, write_atomic
from ..util.folders import matching
from ..util.run import Runner

_LOADER_CONFIG = "etc/ld.so.conf.d/nvidia.conf"


@dataclass(frozen=True)
class Accounted:
    """What our documents say is ours. ``layers`` were baked in place. Files of ``captured`` layers are removed only by a deactivation, and
    what that ``kept`` stays. ``placed`` is the list of installed files, None if there is none. ``marker_path`` is None if the marker is not
    ours."""

    arch: str
    layers: tuple[Manifest, ...] = ()
    node: Record | None = None
    placed: InstalledFiles | None = None
    marker_version: str | None = None
    marker_path: str | None = marker.DEFAULT_PATH
    captured: tuple[Manifest, ...] = ()
    active_version: str = ""
    kept: frozenset[str] = frozenset()

    @property
    def versions(self) -> set[str]:
        found = {layer.identity.version for layer in self.layers} | ({self.node.identity.version} if self.node else set())
        return found | {version for version in (self.marker_version, self.active_version) if version}

    @property
    def unlisted_versions(self) -> list[str]:
        """The versions whose files are in no list: only their files are found by version."""
        listed = {layer.identity.version for layer in self.layers} | {self.active_version}
        if self.node and self.node.state == node_record.INITIALISED and self.placed is not None:
            listed.add(self.node.identity.version)
        return sorted(self.versions - listed)

    @property
    def recorded(self) -> tuple[Entry, ...]:
        """The files of the node record, by content only. Those of captured layers are left out: their deactivation compares modes."""
        if not self.node:
            return ()
        found = {**self.node.libraries, **{path: digest for paths in self.node.modules.values() for path, digest in paths.items()}}
        others = {entry.path for layer in self.captured for entry in layer.files}
        return tuple(tree.by_content(path, "file", digest) for path, digest in found.items() if path not in others)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Everything that a list of ours has. A path may be in several lists."""
        layers = (entry for layer in self.layers for entry in layer.files)
        return (*layers, *(self.placed.entries if self.placed else ()), *self.recorded)

    @property
    def paths(self) -> set[str]:
        return {entry.path for entry in self.entries}


def begin(root: Path, why: str) -> None:
    """Records durably that a driver of ours is being removed, and ``why``. ``remove_driver`` deletes that record at its end."""
    make_private(trust.below(root, STORE))
    write_atomic(trust.below(root, BOOT_REMOVAL_JOURNAL), jsondoc.dump({"schema": 1, "why": why}), 0o600)


def remove_driver(root: Path, runner: Runner, ours: Accounted, say: Callable[[str], None] = lambda _: None) -> TakenAway:
    """Removes every driver that ``ours`` accounts for, then the documents that list it. Raises OSError, CommandError."""
    done = take_away.carry_out(root, runner, plan(root, runner, ours), say, interrupted=True)
    forget(root, ours.layers)
    return done


def forget(root: Path, layers: Collection[Manifest], documents: Collection[str] = (NODE_RECORD, INSTALLED_FILES)) -> None:
    """Removes the documents that say what is ours, and at the end the one that says that a boot was removing a driver."""
    for layer in layers:
        remove_durably(path_of(root, layer.layer))
        drop_layer_folder(path_of(root, layer.layer).parent)
    for path in (*documents, BOOT_REMOVAL_JOURNAL):
        if trust.below(root, path).parent.is_dir():
            remove_durably(trust.below(root, path))


def plan(root: Path, runner: Runner, ours: Accounted, gone: Collection[str] = ()) -> TakeAwayPlan:
    """What of ``ours`` is removed, and what stays. ``gone`` is what an earlier plan removes. Raises OSError, CommandError."""
    return take_away_plan.plan(root, _listed(root, runner, ours, gone), spared=ours.kept, gone=gone)


def _listed(root: Path, runner: Runner, ours: Accounted, gone: Collection[str]) -> Listed:
    """Our lists as one. Of a path in several lists, the entry counts that is there now."""
    present = tree.describe_present(root, dict.fromkeys(entry.path for entry in ours.entries if entry.path not in gone))
    files: dict[str, Entry] = {}
    folders = {*libraries.library_folders(ours.arch), str(Path(CONTRACT_LIBRARIES).parent), f"{dkms.TREE}/{dkms.MODULE}"}
    for entry in ours.entries:
        now = present.get(entry.path)
        whole = tree.completed(entry, now)
        if entry.type == "folder":
            folders.add(entry.path)
        elif entry.path not in files or now == whole:
            files[entry.path] = whole
    unlisted = _Unlisted(root, ours, {path for path, entry in files.items() if present.get(path) not in (None, entry)})
    found, more = unlisted.find(runner)
    found |= installed_files.unfinished(root, ours.placed)
    there = [e for e in tree.describe_present(root, [path for path in found if path not in gone]).values() if e]
    files |= {e.path: e for e in there if e.type != "folder"}
    folders |= {e.path for e in there if e.type == "folder"}
    return Listed(
        layer="",
        arch=ours.arch,
        versions=tuple(sorted(ours.versions)),
        kvers=kernels.installed(root),
        placed=in_order(files.values()),
        shared_folders=tuple(folders | more),
        derived=(Derived(DEPMOD, ()), Derived(LDCONFIG, ())) if files else (),  # a deactivation has already made those of its layer
    )


@dataclass(frozen=True)
class _Unlisted:
    """Finds what is ours without a list. ``changed`` are listed files that somebody has changed."""

    root: Path
    ours: Accounted
    changed: Collection[str]

    def find(self, runner: Runner) -> tuple[set[str], set[str]]:
        """Files and folders. Raises OSError, CommandError."""
        files: set[str] = set()
        folders: set[str] = set()
        for version in self.ours.unlisted_versions if not foreign.driver_packages(self.root) else ():
            files |= {*untracked.modules_of_version(self.root, runner, version), *untracked.dkms_links_of_version(self.root, version)}
            files |= {*untracked.libraries_of_version(self.root, self.ours.arch, version)}
            for folder in self._folders(version):
                inside = [folder, *matching(folder, "**/*")]
                names = {str(path.relative_to(self.root)) for path in inside if path.is_dir() and not path.is_symlink()}
                folders |= names
                files |= {str(path.relative_to(self.root)) for path in inside} - names
        if (read_text(self.root / _LOADER_CONFIG) or "").strip() == "/" + CONTRACT_LIBRARIES:
            files.add(_LOADER_CONFIG)
        if self.ours.marker_path and marker.is_there(self.root, self.ours.marker_path):
            files.add(str(trust.below(self.root, self.ours.marker_path).relative_to(self.root)))
        return files, folders

    def _folders(self, version: str) -> Iterator[Path]:
        """The folders of a version in which everything is ours. Edited sources stay; DKMS's tree is removed as a whole, or the version
        would count as registered."""
        tree_folder, sources = self.root / dkms.TREE / dkms.MODULE / version, self.root / dkms.sources(version)
        spared = self.ours.kept | owned_by_dpkg(self.root)
        for folder, stay in ((tree_folder, spared), (sources, spared.union(self.changed))):
            if folder.is_dir() and not folder.is_symlink() and not any(self._is_below(path, folder) for path in stay):
                yield folder

    def _is_below(self, path: str, folder: Path) -> bool:
        return f"{path}/".startswith(f"{folder.relative_to(self.root)}/")
