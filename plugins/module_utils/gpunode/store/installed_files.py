"""Reads and writes the list of installed files (``placed.json``): what driver containers put on this node.

A manifest lists what a bake added. It does not list what a full install or device initialisation puts on a node; without this document
a removal could not tell these files from other people's. It is read only when a driver is removed. Layout version 2, see
docs/manifest.md; version 1, which 0.1.0 wrote, has hashes and targets only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..driver.footprint import ALL_ROOTS, is_containers
from ..errors import DataError
from ..paths import INSTALLED_FILES, STORE
from ..system import tree
from ..system.dpkg import owned_by_dpkg
from ..system.tree import Entry
from ..util import jsondoc, trust
from ..util.files import make_private, read_document, write_atomic
from .manifest import plain_entry, read_entry

SCHEMA = 2
_CODE = "placed_invalid"


@dataclass(frozen=True)
class InstalledFiles:
    """``entries`` are the files, links and folders that only a driver container can have written; those from version 1 have only their
    contents until ``completed``. ``others`` are paths that came while a driver container ran, and that no package owns: nothing says whose
    they are. ``packages`` are names of packages that it installed. ``absent`` are the files and folders of device initialisation that did
    not exist before the driver container ran. While a run is ``unfinished``, those of them that exist now were written by the driver
    container."""

    entries: tuple[Entry, ...] = ()
    absent: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    unfinished: bool = False

    @property
    def paths(self) -> set[str]:
        return {entry.path for entry in self.entries}


def write(root: Path, installed: InstalledFiles) -> None:
    """Writes the document durably."""
    make_private(trust.below(root, STORE))
    plain = [plain_entry(entry) for entry in installed.entries]
    names = {name: list(getattr(installed, name)) for name in ("absent", "others", "packages")}
    data = {"schema": SCHEMA, "entries": plain, **names, "unfinished": installed.unfinished}
    write_atomic(trust.below(root, INSTALLED_FILES), jsondoc.dump(data), 0o600)


def read(root: Path) -> InstalledFiles | None:
    """The document of the system at ``root``; None if there is none. Raises DataError."""
    where = f"/{INSTALLED_FILES}"
    try:
        text = read_document(trust.document(root, INSTALLED_FILES))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); it is not used", code=_CODE) from error
    data = jsondoc.load(text, SCHEMA, where, _CODE, older=(1,))
    try:
        data = {
            "others": [],
            "packages": [],
            "unfinished": False,
            **data,
        }  # not in a document of version 1, nor in an early one of version 2
        entries = _version_1(data, where) if data["schema"] == 1 else _entries(data, where)
    except TypeError as error:
        raise DataError(f"{where}: incomplete or of the wrong shape ({error}); it is not used", code=_CODE) from error
    unfinished = jsondoc.get(data, "unfinished", bool, where, _CODE)
    packages = tuple(_texts(data, "packages", where))
    return InstalledFiles(entries, _paths(data, "absent", where), _paths(data, "others", where), packages, unfinished)


def _entries(data: dict[str, Any], where: str) -> tuple[Entry, ...]:
    return tuple(read_entry(item, where, _CODE, roots=ALL_ROOTS) for item in jsondoc.get(data, "entries", list, where, _CODE))


def _version_1(data: dict[str, Any], where: str) -> tuple[Entry, ...]:
    contents = {kind: jsondoc.texts(data, kind, where, _CODE) for kind in ("files", "links")}
    for path in (*contents["files"], *contents["links"]):
        jsondoc.check_path(path, ALL_ROOTS, where, _CODE)
    return (
        *(tree.by_content(path, "file", digest) for path, digest in contents["files"].items()),
        *(tree.by_content(path, "link", target) for path, target in contents["links"].items()),
        *(tree.by_content(path, "folder") for path in _paths(data, "folders", where)),
    )


def _paths(data: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(jsondoc.check_path(path, ALL_ROOTS, where, _CODE) for path in _texts(data, key, where))


def _texts(data: dict[str, Any], key: str, where: str) -> list[str]:
    found = jsondoc.get(data, key, list, where, _CODE)
    if not all(isinstance(text, str) for text in found):
        raise DataError(f"{where}: contains a path that is not text; it is not used", code=_CODE)
    return found


def completed(root: Path, installed: InstalledFiles) -> InstalledFiles:
    """The list with whole entries, without what is no longer there. Raises OSError."""
    partial = {entry.path: entry for entry in installed.entries if not entry.is_whole}
    present = tree.describe_present(root, partial)
    whole = {path: tree.completed(entry, present[path]) for path, entry in partial.items()}
    entries = (whole.get(entry.path, entry) for entry in installed.entries)
    return replace(installed, entries=tuple(entry for entry in entries if entry.is_whole))


def written_now(root: Path, paths: Iterable[str]) -> set[str]:
    """Those of ``paths`` that exist, and all that is in them."""
    there = {path for path in paths if os.path.lexists(root / path)}
    inside = (tree.walk(str(root / path)) for path in there if (root / path).is_dir() and not (root / path).is_symlink())
    return there | {os.path.relpath(path, root) for found in inside for path, _status in found}


def unfinished(root: Path, installed: InstalledFiles | None) -> set[str]:
    """What a driver container wrote whose run was killed before it was listed: files, links and folders."""
    if not installed or not installed.unfinished:
        return set()
    unlisted = written_now(root, installed.absent) - installed.paths - owned_by_dpkg(root)
    return {path for path in unlisted if path in installed.absent or is_containers(path)}


def read_if_valid(root: Path) -> InstalledFiles | None:
    """The document; None if there is none or it is invalid."""
    try:
        return read(root)
    except DataError:
        return None


def read_or_empty(root: Path) -> InstalledFiles:
    """The document; an empty one if there is none or it is invalid."""
    return read_if_valid(root) or InstalledFiles()
