"""What driver containers placed on this node, by path and content: a document of its own, read only when a driver is taken away.

A manifest tells what a bake added. A node on which a driver container compiled has no such list, and on every node device initialisation
adds some files more: without this document they could not be told from anybody else's (R3).
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
    """``files`` maps path to SHA-256, ``links`` path to target. ``absent`` are those of device initialisation's own files that were not
    there before the first driver container, so that they are this node's also when a run was interrupted."""

    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def paths(self) -> set[str]:
        return {*self.files, *self.links, *self.folders}


def write(root: Path, placed: InstalledFiles) -> None:
    """Writes the document so that it lasts."""
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
    """The document of the system at ``root``; None where there is none. Raises DataError."""
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
        raise DataError(f"{where}: holds a path that is not text; it is not used", code=_CODE)
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
    """The same for those who can go on without it."""
    try:
        return read(root)
    except DataError:
        return None


def read_or_empty(root: Path) -> InstalledFiles:
    """The same, empty where there is none."""
    return read_if_valid(root) or InstalledFiles()
