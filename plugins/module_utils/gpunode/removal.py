"""Taking a driver of ours out, kernel and user space together: only what was put there, only what is unchanged since (R3, I1, I2).

The layers' manifests and the node record go last: an interrupted removal is simply done again (R4).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import dkms, inventory, kernels, manifest, marker, record, userspace
from .files import read_text, remove_durably, sha256
from .host import TRIPLETS
from .kmod import is_driver_file, parse_modinfo
from .manifest import Manifest
from .record import Record
from .runner import Runner

_LOADER_CONFIG = "etc/ld.so.conf.d/nvidia.conf"
_TOOL_S = 120.0


@dataclass
class Removal:
    """Paths that went, and paths that stay because somebody changed them."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def remove_driver(
    root: Path,
    runner: Runner,
    arch: str,
    layers: Collection[Manifest],
    node: Record | None,
    marker_version: str | None = None,
    marker_path: str = marker.DEFAULT_PATH,
    say: Callable[[str], None] = lambda _: None,
) -> Removal:
    """Removes every driver that ``layers``, the node record and the marker account for. Raises OSError, CommandError."""
    done = Removal()
    versions = {m.identity.version for m in layers} | ({node.identity.version} if node else set())
    versions |= {marker_version} if marker_version else set()
    _second_copies(root, arch, done)
    for layer in layers:
        say(f"removing the baked layer {layer.layer}")
        _entries(root, layer.files, done)
    if node:
        for path, digest in [*node.libraries.items(), *(i for m in node.modules.values() for i in m.items())]:
            _file(root, path, digest, done)
    for version in sorted(versions):
        _by_version(root, runner, arch, version, done)
    if (read_text(root / _LOADER_CONFIG) or "").strip() == "/" + userspace.CONTRACT_LIBRARIES:
        _unlink(root, _LOADER_CONFIG, done)
    accounted = [e.path for layer in layers for e in layer.files] + (list(node.libraries) if node else [])
    _dangling_links(root, arch, done, accounted)
    _unlink(root, marker_path.lstrip("/"), done)
    make_indexes_anew(root, runner)
    for layer in layers:
        remove_durably(manifest.path_of(root, layer.layer))
        shutil.rmtree(root / manifest.LAYERS / layer.layer, ignore_errors=True)
    remove_durably(root / record.PATH)
    return done


def _entries(root: Path, entries: Iterable[inventory.Entry], done: Removal) -> None:
    folders = []
    for entry in entries:
        if entry.type == "folder":
            folders.append(entry.path)
        elif (root / entry.path).is_symlink() or (root / entry.path).exists():
            if inventory.problems(root, [entry]):
                done.kept.append(entry.path)
            else:
                _unlink(root, entry.path, done)
    for path in sorted(folders, reverse=True):
        _rmdir(root / path)


def _file(root: Path, path: str, digest: str, done: Removal) -> None:
    file = root / path
    if not file.is_file():
        return
    if sha256(file) == digest:
        _unlink(root, path, done)
    elif path not in done.kept:
        done.kept.append(path)


def _second_copies(root: Path, arch: str, done: Removal) -> None:
    """The contract copies its libraries on to the loader's folder on a node: found there by name and content."""
    first = root / userspace.CONTRACT_LIBRARIES
    second = f"usr/lib/{TRIPLETS[arch]}"
    for path in sorted(first.rglob("*")) if first.is_dir() else []:
        copy = root / second / path.relative_to(first)
        if path.is_file() and not path.is_symlink() and copy.is_file() and not copy.is_symlink() and sha256(copy) == sha256(path):
            _unlink(root, f"{second}/{path.relative_to(first)}", done)


def _by_version(root: Path, runner: Runner, arch: str, version: str, done: Removal) -> None:
    """What DKMS and the contract's fixed folders hold of one version of ours, with or without a list."""
    for kver in kernels.installed(root):
        for path in userspace.module_files(root, kver):
            shown = runner.run(["modinfo", str(root / path)], ok=None, timeout_s=_TOOL_S)
            info = parse_modinfo(shown.stdout)
            if info and (info.version == version or (not info.version and is_driver_file(Path(path).name))):
                _unlink(root, path, done)
    top = root / dkms.TREE / dkms.MODULE
    for link in top.glob("kernel-*"):
        if link.is_symlink() and str(link.readlink()).startswith(version + "/"):
            _unlink(root, str(link.relative_to(root)), done)
    for folder in (top / version, root / "usr/src" / f"nvidia-{version}"):
        inside = [path for path in done.kept if (root / path).is_relative_to(folder)]
        if not folder.is_dir() or folder.is_symlink() or (inside and folder.parent.name == "src"):
            continue  # sources that somebody has edited stay; DKMS's tree goes as a whole, or it would count as registered
        shutil.rmtree(folder)
        done.removed.append(str(folder.relative_to(root)))
        done.kept = [path for path in done.kept if path not in inside]
    _rmdir(top)
    for path, found in list(userspace.driver_libraries(root, arch)):
        # In the contract's own folder, nobody else's: what carries the version is ours. Elsewhere only hashes count.
        if found == version and path.startswith(userspace.CONTRACT_LIBRARIES):
            _unlink(root, path, done)


def _dangling_links(root: Path, arch: str, done: Removal, accounted: Iterable[str]) -> None:
    """Links to libraries that have gone, now or in a run that was interrupted, such as libcuda.so.1."""
    gone = {Path(path).name for path in [*done.removed, *accounted]}
    for folder in userspace.library_folders(arch):
        for _link in range(3):  # libcuda.so → libcuda.so.1 → libcuda.so.535.…
            for link in sorted((root / folder).glob("lib*")):
                if link.is_symlink() and not link.exists() and link.readlink().name in gone:
                    gone.add(link.name)
                    _unlink(root, str(link.relative_to(root)), done)
        _rmdir(root / folder)
    _rmdir(root / Path(userspace.CONTRACT_LIBRARIES).parent)


def make_indexes_anew(root: Path, runner: Runner) -> None:
    """Runs depmod for every kernel and ldconfig, after files came or went. Raises CommandError."""
    base = [] if root == Path("/") else ["-b", str(root)]
    for kver in kernels.installed(root):
        runner.run(["depmod", *base, kver], timeout_s=_TOOL_S)
    runner.run(["ldconfig", *(["-r", str(root)] if base else [])], timeout_s=_TOOL_S)


def _unlink(root: Path, path: str, done: Removal) -> None:
    try:
        (root / path).unlink()
    except FileNotFoundError:
        return
    done.removed.append(path)


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # not there, or somebody else's files are in it
