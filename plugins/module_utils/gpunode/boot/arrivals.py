"""Finds what came to this node while a driver container ran: by names in the folders in which device initialisation writes, which takes
milliseconds, or by a listing of all folders of a driver, for a run that compiles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..container.leftovers import INITIALISATION
from ..driver import footprint
from ..system import dpkg, tree
from ..system.host import TRIPLETS
from ..system.tree import Listing
from ..util.files import relative
from ..util.folders import names_in

# Folders in which device initialisation writes (docs/contract.md, step 4). New folders in these are looked into.
_FOLDERS = (
    *("etc", "etc/cdi", "etc/containerd", "etc/containerd/config.d", "opt", "usr/bin", "usr/include", "usr/lib", "usr/sbin"),
    *("usr/share", "usr/share/doc", "usr/share/nvidia", "var/lib/nvidia", *(f"usr/lib/{triplet}" for triplet in TRIPLETS.values())),
    *("lib/systemd/system", "lib/udev/rules.d"),
)
_UNITS = "etc/systemd/system"  # links of enabled units are in folders of its folders
_MOST = 20_000  # paths in new folders that are looked at


@dataclass(frozen=True)
class Names:
    """The names in the folders in which device initialisation writes, those of its own files and folders that are ``absent``, with folders
    of theirs, and stamps of ``known`` paths and of dpkg's file lists."""

    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    known: Listing = field(default_factory=dict)
    lists: Listing = field(default_factory=dict)


def names(root: Path, known: Iterable[str]) -> Names:
    """What is there now. Raises OSError: of a folder that cannot be listed all would seem to have come later."""
    return Names(
        names={path: frozenset(names_in(root / path)) for path in _folders(root)},
        absent=frozenset(path for path in _own(root) if not os.path.lexists(root / path)),
        known=_stamps(root, known),
        lists=dpkg.list_stamps(root),
    )


def added(root: Path, before: Names) -> set[str]:
    """The paths that came since, with all that is in new folders."""
    found: set[str] = set()
    for folder in _folders(root):
        fresh = {*names_in(root / folder)} - before.names.get(folder, frozenset())
        found |= {f"{folder}/{name}" for name in fresh}
    inside = [path for top in footprint.topmost(found) for path in _inside(root, top)]
    return {path for path in {*found, *inside[:_MOST]} if not footprint.is_ignored(path)}


def rewritten(root: Path, before: Names) -> set[str]:
    """The known paths that exist and have changed since."""
    return {path for path, stamp in _stamps(root, before.known).items() if stamp != before.known[path]}


def packaged(root: Path, before: Names) -> set[str]:
    """The paths of the packages that were installed or changed since."""
    now = dpkg.list_stamps(root)
    return dpkg.owned_by_dpkg(root, [name for name, stamp in now.items() if before.lists.get(name) != stamp])


def packages(root: Path, before: Names) -> set[str]:
    """The names of the packages that were installed since."""
    return {name.removesuffix(".list").partition(":")[0] for name in dpkg.list_stamps(root).keys() - before.lists.keys()}


def _folders(root: Path) -> list[str]:
    units = [f"{_UNITS}/{name}" for name in names_in(root / _UNITS) if (root / _UNITS / name).is_dir()]
    there = (path for path in (*_FOLDERS, _UNITS, *units) if (root / path).is_dir())
    return list(dict.fromkeys(_real(root, path) for path in there))


def _own(root: Path) -> set[str]:
    """The contract's own files and folders, and folders above them that only the contract makes."""
    own = {_real(root, path) for path in INITIALISATION}
    return own | {_real(root, path) for path in ("etc/containerd/config.d", "lib/udev/rules.d", "usr/share/nvidia")}


def _real(root: Path, path: str) -> str:
    return relative(root, root / path)


def _inside(root: Path, path: str) -> list[str]:
    top = root / path
    if top.is_symlink() or not top.is_dir():
        return []
    return [os.path.relpath(inside, root) for inside, _status in tree.walk(str(top))]


def _stamps(root: Path, paths: Iterable[str]) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in paths:
        try:
            found[path] = tree.signature(os.lstat(root / path))
        except OSError:
            continue
    return found
