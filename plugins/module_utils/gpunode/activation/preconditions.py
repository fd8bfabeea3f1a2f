"""Checks whether a layer can be activated. Nothing is changed until every check has passed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..driver.modules import is_driver_file
from ..errors import LayerError
from ..store.linking import is_linkable
from ..store.manifest import Manifest
from ..store.objects import Store, objects_of
from ..system import tree
from ..system.tree import Entry
from .staging import CLONE_FROM, Staging

_NAMED = 5
_PROGRAMS = ("bin", "sbin")
_SPECIAL = stat.S_ISUID | stat.S_ISGID
_SPARE_BYTES = 8 << 20
_SPARE_INODES = 64


def check(root: Path, store: Store, layer: Manifest, is_mounted: bool = False) -> tuple[str, ...]:
    """Returns the folders that must be made, outer ones first. Raises LayerError, with a code for each cause.

    An image that is only mounted (``is_mounted``) may be mounted read-only: its nodes will not be.
    """
    if not layer.stored:
        raise LayerError(
            f"layer {layer.layer} was baked in place by version 0.1.0: its files are live already, so it cannot be activated",
            code="layer_in_place",
        )
    _refuse("layer_damaged", "bake again", store.status_problems(objects_of(layer)))
    _refuse(
        "original_changed",
        "the layer replaces or deletes these files, and was baked in an image in which they were different; bake again for this image",
        tree.problems(root, layer.originals),
    )
    missing, problems = _places(root, layer)
    _refuse("path_taken", "move it away, or find out who put it there", problems)
    _check_space(root, Staging(root, store), layer, missing, is_mounted)
    return missing


def check_contents(store: Store, layer: Manifest) -> None:
    """Reads and hashes the files that must be right before anything is changed. Raises LayerError."""
    _refuse("layer_damaged", "bake again", store.problems(urgent(layer.files)))


def _refuse(code: str, advice: str, problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise LayerError(f"{'; '.join(found[:_NAMED])}{more}: {advice}", code=code, details={"problems": found})


def urgent(entries: Iterable[Entry]) -> list[Entry]:
    """The files whose contents are hashed before anything is changed: modules, setuid and setgid files, programs."""

    def is_urgent(entry: Entry) -> bool:
        folder, _slash, name = entry.path.rpartition("/")
        is_program = folder.rpartition("/")[2] in _PROGRAMS
        return entry.type == "file" and (is_driver_file(name) or bool(entry.mode & _SPECIAL) or is_program)

    return [entry for entry in entries if is_urgent(entry)]


def unread(entries: Iterable[Entry]) -> list[Entry]:
    """The other files whose contents are not read when they are put in place, because they are linked or cloned."""
    found = list(entries)
    hashed = {entry.path for entry in urgent(found)}
    return [e for e in found if e.type == "file" and e.path not in hashed and (is_linkable(e) or e.size >= CLONE_FROM)]


def _places(root: Path, layer: Manifest) -> tuple[tuple[str, ...], list[str]]:
    """The folders that are missing, and what is in the way, in words."""
    replaced, folders = set(layer.replaced), {entry.path for entry in layer.files if entry.type == "folder"}
    problems = []
    missing = []
    above = _folders_above([*(entry.path for entry in layer.files), *layer.deleted])
    top = f"{root}/"  # joined as text: pathlib takes longer than the system call that follows
    for path in sorted(above | folders):
        status = _lstat(top + path)
        if status is None:
            missing.append(path)
        elif not stat.S_ISDIR(status.st_mode):
            problems.append(f"/{path}: {_what(root / path, status)} is where a folder of the layer belongs")
    for entry in layer.files:
        if entry.path in replaced or entry.type == "folder":
            continue
        status = _lstat(top + entry.path)
        if status is not None:
            problems.append(f"/{entry.path}: {_what(root / entry.path, status)} is there already")
    return tuple(missing), problems


def _folders_above(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _what(path: Path, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        dangling = "" if path.exists() else " (dangling)"
        return f"a link to {path.readlink()}{dangling}"
    return "a folder" if stat.S_ISDIR(status.st_mode) else "a file" if stat.S_ISREG(status.st_mode) else "a special file"


@dataclass
class _Need:
    """What must be free on the filesystem of ``folder``; ``size`` in bytes."""

    folder: str
    size: int = _SPARE_BYTES
    inodes: int = _SPARE_INODES


def _check_space(root: Path, placing: Staging, layer: Manifest, missing: tuple[str, ...], is_mounted: bool) -> None:
    """Checks that each filesystem is writable and has room for what is made, copied and backed up on it. Raises LayerError."""
    store_folder = str(placing.store.objects.parent.relative_to(root))
    store_device = placing.device(store_folder)
    kept = [*layer.originals, *(index.after for index in layer.indexes)]
    needs = {store_device: _Need(store_folder, _SPARE_BYTES + sum(entry.size for entry in kept), _SPARE_INODES + len(kept))}
    absent = set(missing)
    devices: dict[str, int] = {}
    made: list[tuple[str, Entry | None]] = [(path, None) for path in missing]
    made += [(entry.path, entry) for entry in layer.files if entry.type != "folder"]
    for path, entry in made:
        folder = path.rpartition("/")[0]
        while folder in absent:
            folder = folder.rpartition("/")[0]
        if folder not in devices:
            devices[folder] = placing.device(folder)
        device = devices[folder]
        need = needs.setdefault(device, _Need(folder))
        shares = entry is not None and device == store_device and is_linkable(entry) and not placing.selinux
        if not shares:
            need.size += entry.size if entry else 0
            need.inodes += 1
    for need in needs.values():
        _check_filesystem(root, need, is_mounted)


def _check_filesystem(root: Path, need: _Need, is_mounted: bool) -> None:
    found = os.statvfs(root / need.folder)
    if found.f_flag & os.ST_RDONLY and not is_mounted:
        raise LayerError(f"/{need.folder} is on a read-only filesystem: mount it writable", code="read_only")
    free = found.f_bfree * found.f_frsize
    lacking = f"{free >> 20} MB free, but {need.size >> 20} MB" if free < need.size else ""
    # btrfs and other filesystems without a fixed number of inodes report 0 of 0.
    if not lacking and found.f_files and found.f_ffree < need.inodes:
        lacking = f"{found.f_ffree} inodes free, but {need.inodes} inodes"
    if lacking:
        raise LayerError(f"the filesystem of /{need.folder} has {lacking} are needed: make room there", code="no_space")
