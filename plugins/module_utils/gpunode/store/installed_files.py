"""Reads and writes the list of installed files (``placed.json``): what driver containers put on this node, by path and content.

A manifest lists what a bake added. It does not list what a full install or device initialisation puts on a node; without this document
a removal could not tell these files from other people's. It is read only when a driver is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..driver.footprint import ROOTS
from ..errors import DataError
from ..paths import INSTALLED_FILES, STORE
from ..util import jsondoc
from ..util.files import make_private, write_atomic

SCHEMA = 1
_CODE = "placed_invalid"


@dataclass(frozen=True)
class InstalledFiles:
    """``files`` maps path to SHA-256, ``links`` path to target. ``absent`` are the files of device initialisation that did not exist before
    the first driver container ran: if they exist after an interrupted run, the driver container wrote them."""

    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def paths(self) -> set[str]:
        return {*self.files, *self.links, *self.folders}


def write(root: Path, placed: InstalledFiles) -> None:
    """Writes the document durably."""
    make_private(root / STORE)
    data = {
        "schema": SCHEMA,
        "files": dict(placed.files),
        "links": dict(placed.links),
        "folders": list(placed.folders),
        "absent": list(placed.absent),
    }
    write_atomic(root / INSTALLED_FILES, jsondoc.dump(data), 0o600)


def read(root: Path) -> InstalledFiles | None:
    """The document of the system at ``root``; None if there is none. Raises DataError."""
    where = f"/{INSTALLED_FILES}"
    try:
        text = (root / INSTALLED_FILES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); it is not used", code=_CODE) from error
    data = jsondoc.load(text, SCHEMA, where, _CODE)
    lists = {name: jsondoc.get(data, name, list, where, _CODE) for name in ("folders", "absent")}
    if not all(isinstance(path, str) for paths in lists.values() for path in paths):
        raise DataError(f"{where}: contains a path that is not text; it is not used", code=_CODE)
    placed = InstalledFiles(
        jsondoc.texts(data, "files", where, _CODE),
        jsondoc.texts(data, "links", where, _CODE),
        tuple(lists["folders"]),
        tuple(lists["absent"]),
    )
    for path in (*placed.paths, *placed.absent):
        jsondoc.check_path(path, ROOTS, where, _CODE)
    return placed


def read_if_valid(root: Path) -> InstalledFiles | None:
    """The document; None if there is none or it is invalid."""
    try:
        return read(root)
    except DataError:
        return None


def read_or_empty(root: Path) -> InstalledFiles:
    """The document; an empty one if there is none or it is invalid."""
    return read_if_valid(root) or InstalledFiles()
