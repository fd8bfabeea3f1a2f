"""Says what in the store and in the log folder is ours. A removal deletes what is listed here, and names the rest."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import paths
from ..container.leftovers import Left
from ..paths import LAYERS, LOGS, OBJECTS, ORIGINALS, STORE
from ..system import mounts
from ..util import files, logs, trust
from ..util.expressions import expression
from .layers import BESIDE
from .objects import OBJECT, TEMPORARY

CAPTURES = f"{STORE}/captures"
CAPTURE = expression(r"\d+-[0-9a-f]+")
NOTE = "nvidia-prebake: "  # the beginning of our lines in release notes
_DOCUMENTS = frozenset(
    Path(path).name
    for path in (
        *(paths.NODE_RECORD, paths.ACTIVATION, paths.INSTALLED_FILES, paths.BAKE_REPORT, paths.SEAL_REPORT, paths.RELEASE_NOTES),
        *(paths.ACTIVATION_JOURNAL, paths.BAKE_JOURNAL_OF_0_1, paths.REMOVAL_JOURNAL, paths.BOOT_REMOVAL_JOURNAL, paths.SCRATCH_NOTE),
        paths.DRIVER_IMAGES,
    )
)
_DAMAGED = expression(r"activation(-journal)?\.json\.damaged(-\d+)?")
_TWO_DIGITS = expression(r"[0-9a-f]{2}")
_NOT_OURS = "it is not ours: move it elsewhere, or delete it"
_ORIGINAL = "what a layer had replaced or deleted, and what could not be put back: move it elsewhere, or delete it"
_MOUNTED = "a filesystem is mounted there: unmount it, and run this again"


@dataclass(frozen=True)
class Contents:
    """What is in a folder of ours. ``whole`` are the paths at its top that are ours with all that is in them, ``files`` every file of ours,
    ``folders`` those of ours that go if they are empty, the inner ones first, ``captures`` the sandboxes that killed bakes left, and
    ``others`` what stays. Paths are relative to the root."""

    whole: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    captures: tuple[str, ...] = ()
    others: tuple[Left, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.files or self.folders or self.captures)


def of_logs(root: Path) -> Contents:
    """What is in the log folder of the system at ``root``."""
    folder = trust.below(root, LOGS)
    if folder.is_symlink():
        return Contents(others=(Left(f"/{LOGS}", "it is a link, and what it leads to is not ours"),))
    if not folder.is_dir():
        return Contents()
    mine, others = logs.ours(root)
    found = tuple(f"{LOGS}/{name}" for name in mine)
    return Contents(found, found, () if others else (LOGS,), (), tuple(Left(f"/{LOGS}/{name}", _NOT_OURS) for name in others))


def of_store(root: Path) -> Contents:
    """What is in the store of the system at ``root``."""
    if not _is_folder(trust.below(root, STORE)):
        return Contents()
    found = _Found(root)
    found.look()
    return Contents(tuple(found.whole), tuple(found.files), tuple(found.folders), tuple(found.captures), tuple(found.others))


class _Found:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.whole: list[str] = []
        self.files: list[str] = []
        self.folders: list[str] = []
        self.captures: list[str] = []
        self.others: list[Left] = []

    def look(self) -> None:
        known: dict[str, Callable[[str], None]] = {
            LAYERS: lambda path: self._in_each(path, None, _is_of_layer),
            OBJECTS: lambda path: self._in_each(path, _TWO_DIGITS.fullmatch, OBJECT.fullmatch),
            ORIGINALS: self._originals,
            CAPTURES: self._captures,
        }
        for path in self._inside(STORE):
            before = len(self.others)
            if path in known and self._is_folder(path):
                known[path](path)
                self.folders += [] if self.others[before:] else [path]
            elif self._is_document(path):
                self.files.append(path)
            else:
                self._stays(path)
            self.whole += [] if self.others[before:] else [path]
        self.folders += [] if self.others else [STORE]

    def _in_each(self, top: str, is_folder: Callable[[str], object] | None, is_file: Callable[[str], object]) -> None:
        """Looks at the files in each folder in ``top``."""
        for folder in self._inside(top):
            if not self._is_folder(folder) or (is_folder and not is_folder(_name(folder))):
                self._stays(folder)
                continue
            before = len(self.others)
            for path in self._inside(folder):
                if is_file(_name(path)) and self._is_file(path):
                    self.files.append(path)
                else:
                    self._stays(path)
            self.folders += [] if self.others[before:] else [folder]

    def _originals(self, top: str) -> None:
        for path in self._inside(top):
            self._stays(path, _ORIGINAL)

    def _captures(self, top: str) -> None:
        points = [mount.point for mount in mounts.current(self.root)]
        for path in self._inside(top):
            if not self._is_folder(path) or not CAPTURE.fullmatch(_name(path)):
                self._stays(path)
            elif any(point.startswith(f"{trust.point(self.root, path)}/") for point in points):
                self._stays(path, _MOUNTED)
            else:
                self.captures.append(path)

    def _is_document(self, path: str) -> bool:
        name = _name(path)
        if not self._is_file(path):
            return False
        if path == paths.RELEASE_NOTES:
            lines = (files.read_text(trust.below(self.root, path)) or "").splitlines()
            return all(line.startswith(NOTE) for line in lines)
        return name in _DOCUMENTS or bool(_DAMAGED.fullmatch(name) or TEMPORARY.fullmatch(name))

    def _stays(self, path: str, why: str = _NOT_OURS) -> None:
        self.others.append(Left(f"/{path}", why))

    def _inside(self, folder: str) -> Iterator[str]:
        return (f"{folder}/{path.name}" for path in sorted(trust.below(self.root, folder).iterdir()))

    def _is_folder(self, path: str) -> bool:
        return _is_folder(trust.below(self.root, path))

    def _is_file(self, path: str) -> bool:
        return stat.S_ISREG(trust.below(self.root, path).lstat().st_mode)


def _is_of_layer(name: str) -> bool:
    return name in ("manifest.json", *BESIDE) or bool(TEMPORARY.fullmatch(name))


def remove(root: Path, found: Contents, but: str = "") -> None:
    """Removes what is ours of ``found``, the file ``but`` excepted, and the folders that are empty then. Raises OSError."""
    for path in found.files:
        if path != but:
            trust.below(root, path).unlink(missing_ok=True)
    for path in found.captures:
        files.remove_tree(trust.below(root, path))
    for path in found.folders:
        if path != STORE:
            files.remove_empty_folder(trust.below(root, path))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
