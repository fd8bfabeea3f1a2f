"""Taking a driver of ours out, kernel and user space together: only what was put there, only what is unchanged since (R3, I1, I2).

The records that say what is ours go last: an interrupted removal is simply done again (R4).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..activation import untracked
from ..activation.generated_files import regenerate
from ..container import marker
from ..driver import dkms, foreign, libraries
from ..driver.dkms import Made
from ..driver.footprint import CONTRACT_LIBRARIES
from ..paths import BOOT_REMOVAL_JOURNAL, INSTALLED_FILES, LAYERS, NODE_RECORD, STORE
from ..store import node_record
from ..store.installed_files import InstalledFiles
from ..store.layers import path_of
from ..store.manifest import Manifest
from ..store.node_record import Record
from ..system import tree
from ..system.dpkg import as_packaged, owned_by_dpkg
from ..util import jsondoc
from ..util.files import make_private, read_text, relative, remove_durably, sha256, write_atomic
from ..util.run import Runner

_LOADER_CONFIG = "etc/ld.so.conf.d/nvidia.conf"
_TOOL_S = 120.0
WHY_KEPT = "changed since it was placed, or a package's by now"


@dataclass
class Removal:
    """Paths that went, and paths that stay because somebody changed them, or a package has them. Where it does not ``touch``, those that
    would. ``spared`` is never touched."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    touch: bool = True
    spared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Accounted:
    """What our documents say is ours. ``layers`` lie in place; of a ``captured`` one, only its own deactivation takes files away, and what
    that ``kept`` stays. ``placed`` None: there is no such list. ``marker_path`` None: the marker is somebody else's."""

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
        """Those of which nothing lists the files: only they may be taken by their version."""
        listed = {layer.identity.version for layer in self.layers} | {self.active_version}
        if self.node and self.node.state == node_record.INITIALISED and self.placed is not None:
            listed.add(self.node.identity.version)
        return sorted(self.versions - listed)

    @property
    def recorded(self) -> dict[str, str]:
        """Path → SHA-256 by the node's record, which knows no modes: without a captured layer's, whose deactivation does."""
        if not self.node:
            return {}
        found = {**self.node.libraries, **{path: digest for paths in self.node.modules.values() for path, digest in paths.items()}}
        others = {entry.path for layer in self.captured for entry in layer.files}
        return {path: digest for path, digest in found.items() if path not in others}

    @property
    def paths(self) -> set[str]:
        found = {entry.path for layer in self.layers for entry in layer.files} | {*self.recorded}
        return found | (self.placed.paths if self.placed else set())


def begin(root: Path, why: str) -> None:
    """Writes down, so that it lasts, that a driver of ours is being taken away. ``remove_driver`` takes that back."""
    make_private(root / STORE)
    write_atomic(root / BOOT_REMOVAL_JOURNAL, jsondoc.dump({"schema": 1, "why": why}), 0o600)


def remove_driver(root: Path, runner: Runner, ours: Accounted, say: Callable[[str], None] = lambda _: None) -> Removal:
    """Removes every driver that ``ours`` accounts for, then the documents that do so. Raises OSError, CommandError."""
    done = Removal()
    take_files(root, runner, ours, done, say)
    regenerate(root, runner)
    forget(root, ours.layers)
    return done


def take_files(root: Path, runner: Runner, ours: Accounted, done: Removal, say: Callable[[str], None] = lambda _: None) -> None:
    """Removes the files, or only says which would go. Raises OSError, CommandError."""
    owned = owned_by_dpkg(root)
    done.spared = ours.kept | owned
    for version in sorted(ours.versions):
        _made_by_dkms(root, dkms.made_of_ours(root, version, owned), done)
    _second_copies(root, ours.arch, done)
    for layer in ours.layers:
        say(f"removing the baked layer {layer.layer}")
        _entries(root, layer.files, done)
    _placed(root, ours.placed or InstalledFiles(), done)
    for path, digest in ours.recorded.items():
        _file(root, path, digest, done)
    for version in ours.unlisted_versions if not foreign.driver_packages(root) else ():
        _by_version(root, runner, ours.arch, version, done)
    if (read_text(root / _LOADER_CONFIG) or "").strip() == "/" + CONTRACT_LIBRARIES:
        _unlink(root, _LOADER_CONFIG, done)
    _dangling_links(root, ours.arch, done, ours.paths)
    if ours.marker_path:
        _unlink(root, ours.marker_path.lstrip("/"), done)


def _made_by_dkms(root: Path, made: Made, done: Removal) -> None:
    """What DKMS has made of a registration of ours is in no list. Its modules' indexes are made anew with all others."""
    for path in [*made.links, *(path for paths in made.modules.values() for path in paths), *made.files]:
        _unlink(root, path, done)
    for folder in made.module_folders if done.touch else ():
        _rmdir(root / folder)
    _folders(root, made.folders, done)


def forget(root: Path, layers: Collection[Manifest], documents: Collection[str] = (NODE_RECORD, INSTALLED_FILES)) -> None:
    """Removes the documents that say what is ours, last of all; and the one that says that a boot was at it."""
    for layer in layers:
        remove_durably(path_of(root, layer.layer))
        shutil.rmtree(root / LAYERS / layer.layer, ignore_errors=True)
    for path in (*documents, BOOT_REMOVAL_JOURNAL):
        if (root / path).parent.is_dir():
            remove_durably(root / path)


def _entries(root: Path, entries: Iterable[tree.Entry], done: Removal) -> None:
    folders = []
    for entry in entries:
        if entry.type == "folder":
            folders.append(entry.path)
        elif (root / entry.path).is_symlink() or (root / entry.path).exists():
            if tree.problems(root, [entry]):
                done.kept.append(entry.path)
            else:
                _unlink(root, entry.path, done)
    _folders(root, folders, done)


def _placed(root: Path, found: InstalledFiles, done: Removal) -> None:
    """What was placed later than a layer: where it is unchanged since then, the layer's list need not know it."""
    for path, digest in found.files.items():
        _file(root, path, digest, done)
    for path, target in found.links.items():
        link = root / path
        if link.is_symlink() and str(link.readlink()) == target:
            _unlink(root, path, done)
        elif (link.is_symlink() or link.exists()) and path not in done.kept:
            done.kept.append(path)
    _folders(root, found.folders, done)


def _folders(root: Path, folders: Iterable[str], done: Removal) -> None:
    for path in sorted(folders, reverse=True) if done.touch else ():
        _rmdir(root / path)


def _file(root: Path, path: str, digest: str, done: Removal) -> None:
    file = root / path
    if not file.is_file() or file.is_symlink():
        return
    if sha256(file) == digest:
        _unlink(root, path, done)
    elif path not in done.kept:
        done.kept.append(path)


def _second_copies(root: Path, arch: str, done: Removal) -> None:
    first = root / CONTRACT_LIBRARIES
    found = [path for path in sorted(first.rglob("*")) if path.is_file() and not path.is_symlink()] if first.is_dir() else []
    listed = {entry.path: entry for entry in tree.describe(root, [str(path.relative_to(root)) for path in found])}
    for path in untracked.second_copies(root, arch, listed):
        if path not in done.spared or not as_packaged(root, path):
            _unlink(root, path, done)


def _by_version(root: Path, runner: Runner, arch: str, version: str, done: Removal) -> None:
    """What DKMS and the contract's fixed folders hold of one version of ours, with or without a list."""
    top = root / dkms.TREE / dkms.MODULE
    for path in [*untracked.modules_of_version(root, runner, version), *untracked.dkms_links_of_version(root, version)]:
        _unlink(root, path, done)
    for folder in (top / version, root / "usr/src" / f"nvidia-{version}"):
        inside = [path for path in done.kept if (root / path).is_relative_to(folder)]
        if not folder.is_dir() or folder.is_symlink() or (inside and folder.parent.name == "src"):
            continue  # sources that somebody has edited stay; DKMS's tree goes as a whole, or it would count as registered
        if any((root / path).is_relative_to(folder) for path in done.spared):
            continue
        if done.touch:
            shutil.rmtree(folder)
        elif not _holds_more(root, folder, done):
            continue  # its files go one by one, and it with them
        done.removed.append(str(folder.relative_to(root)))
        done.kept = [path for path in done.kept if path not in inside]
    _folders(root, [str(top.relative_to(root))], done)
    for path in untracked.libraries_of_version(root, arch, version):
        _unlink(root, path, done)


def _holds_more(root: Path, folder: Path, done: Removal) -> bool:
    gone = set(done.removed)
    return any(str(p.relative_to(root)) not in gone for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())


def _dangling_links(root: Path, arch: str, done: Removal, accounted: Iterable[str]) -> None:
    """Links to libraries that have gone, now or in a run that was interrupted, such as libcuda.so.1."""
    gone = {Path(path).name for path in [*done.removed, *accounted]}
    for _link in range(3):  # libcuda.so → libcuda.so.1 → libcuda.so.535.…
        for path in untracked.links_to(root, libraries.library_folders(arch), {*gone}):
            if _leads_nowhere(root, root / path, done):
                gone.add(Path(path).name)
                _unlink(root, path, done)
    _folders(root, [*libraries.library_folders(arch), str(Path(CONTRACT_LIBRARIES).parent)], done)


def _leads_nowhere(root: Path, link: Path, done: Removal) -> bool:
    if done.touch or not link.exists():
        return not link.exists()
    return relative(root, link.parent / link.readlink()) in done.removed


def _unlink(root: Path, path: str, done: Removal) -> None:
    if path in done.spared:
        if path not in done.kept and ((root / path).is_symlink() or (root / path).exists()):
            done.kept.append(path)
        return
    if done.touch:
        try:
            (root / path).unlink()
        except FileNotFoundError:
            return
    elif not ((root / path).is_symlink() or (root / path).exists()):
        return
    if path not in done.removed:
        done.removed.append(path)
    if path in done.kept:
        done.kept.remove(path)  # one list did not know it as it is, another did


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # not there, or somebody else's files are in it
