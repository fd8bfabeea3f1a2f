"""What driver containers placed on this node, by path and content: a document of its own, read only when a driver is taken away.

A manifest tells what a bake added. A node on which a driver container compiled has no such list, and on every node device initialisation
adds some files more: without this document they could not be told from anybody else's (R3).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import document, inventory
from .errors import DataError
from .files import make_private, write_atomic
from .foreign import relative
from .inventory import ROOTS, Listing
from .manifest import STORE
from .takeback import owned_by_dpkg

SCHEMA = 1
PATH = f"{STORE}/placed.json"
DROPIN = "etc/containerd/config.d/10-nvidia-runtime.toml"
# What device initialisation writes besides packages and the libraries' second copies (CONTRACT.md, step 4).
INITIALISATION = (DROPIN, "lib/udev/rules.d/71-nvidia-dev-char.rules")
# The links of enabled services belong to their packages; DKMS's own key may sign other modules on this node.
_NOT_OURS = ("etc/systemd/", "var/lib/dkms/mok.", "var/lib/shim-signed/")
_CODE = "placed_invalid"


@dataclass(frozen=True)
class Placed:
    """``files`` maps path to SHA-256, ``links`` path to target. ``absent`` are those of device initialisation's own files that were not
    there before the first driver container, so that they are this node's also when a run was interrupted."""

    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def paths(self) -> set[str]:
        return {*self.files, *self.links, *self.folders}


def write(root: Path, placed: Placed) -> None:
    """Writes the document so that it lasts."""
    make_private(root / STORE)
    data = {
        "schema": SCHEMA,
        "files": dict(placed.files),
        "links": dict(placed.links),
        "folders": list(placed.folders),
        "absent": list(placed.absent),
    }
    write_atomic(root / PATH, document.dump(data), 0o600)


def read(root: Path) -> Placed | None:
    """The document of the system at ``root``; None where there is none. Raises DataError."""
    where = f"/{PATH}"
    try:
        text = (root / PATH).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read ({error}); it is not used", code=_CODE) from error
    data = document.load(text, SCHEMA, where, _CODE)
    lists = {name: document.get(data, name, list, where, _CODE) for name in ("folders", "absent")}
    if not all(isinstance(path, str) for paths in lists.values() for path in paths):
        raise DataError(f"{where}: holds a path that is not text; it is not used", code=_CODE)
    placed = Placed(
        document.texts(data, "files", where, _CODE),
        document.texts(data, "links", where, _CODE),
        tuple(lists["folders"]),
        tuple(lists["absent"]),
    )
    for path in (*placed.paths, *placed.absent):
        document.check_path(path, ROOTS, where, _CODE)
    return placed


def read_if_valid(root: Path) -> Placed | None:
    """The same for those who can go on without it."""
    try:
        return read(root)
    except DataError:
        return None


def read_or_empty(root: Path) -> Placed:
    """The same, empty where there is none."""
    return read_if_valid(root) or Placed()


class Placing:
    """Notes what the driver containers of one run place. ``own`` are paths that our layers account for; ``interrupted`` says that an
    earlier run did not end, so that a file which is written anew now was probably placed by that one."""

    def __init__(self, root: Path, own: Collection[str], interrupted: bool) -> None:
        self.root = root
        self._old = read_or_empty(root)
        self._own = {*own, *self._old.paths}
        self._interrupted = interrupted
        self._before: Listing | None = None

    def begin(self) -> None:
        """Before the first container: notes which of device initialisation's files are not here yet."""
        paths = [relative(self.root, self.root / path) for path in INITIALISATION]
        missing = {path for path in paths if not (self.root / path).exists()}
        self._old = replace(self._old, absent=tuple(sorted({*self._old.absent, *missing})))
        write(self.root, self._old)

    def before_build(self) -> None:
        """Before a container that compiles: lists what is here, once."""
        if self._before is None:
            self._before = inventory.listing(self.root)

    def end(self, compiled: bool) -> None:
        """After the last container: describes what came, and writes it down."""
        paths = {path for path in self._old.absent if (self.root / path).is_file()}
        if self._before is not None:
            paths |= self._came(self._before)
        elif compiled:  # asked to skip, it compiled over what was baked
            paths |= {path for path in self._own if _is_there(self.root / path)}
        entries = inventory.describe(self.root, sorted(paths))
        old = self._old
        write(
            self.root,
            Placed(
                {**_still(self.root, old.files), **{e.path: e.sha256 for e in entries if e.type == "file"}},
                {**_still(self.root, old.links), **{e.path: e.target for e in entries if e.type == "link"}},
                tuple(sorted({*old.folders, *(e.path for e in entries if e.type == "folder")})),
                old.absent,
            ),
        )

    def _came(self, before: Listing) -> set[str]:
        change = inventory.difference(before, inventory.listing(self.root))
        anew = {path for path in change.replaced if self._interrupted or path in self._own}
        # A folder is not written anew: those that the interrupted run made are known by their place only.
        anew |= {str(parent) for path in anew for parent in Path(path).parents if inventory.is_drivers_place(str(parent))}
        owned = owned_by_dpkg(self.root)
        return {path for path in inventory.drivers_part([*change.added, *anew]) if path not in owned and not path.startswith(_NOT_OURS)}


def _still(root: Path, known: Mapping[str, str]) -> dict[str, str]:
    return {path: value for path, value in known.items() if _is_there(root / path)}


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
