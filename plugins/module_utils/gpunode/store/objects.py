"""Stores, checks and drops the objects: the contents of captured files, each kept once under a key of content, mode, owner and attributes.

An object is durable only when the store's filesystem has been flushed. Whoever writes the document that names the object does that first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import DataError
from ..paths import LAYERS, OBJECTS, ORIGINALS, STORE
from ..system import tree
from ..system.tree import Entry
from ..util import files, trust
from ..util.expressions import expression
from ..util.files import remove_empty_folder
from ..util.folders import matching
from ..util.parallel import each
from . import activation_record
from .layers import drop_layer_folder, read_all
from .linking import is_linkable
from .manifest import Manifest

_CODE = "manifest_invalid"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
OBJECT = expression(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.\d+\.tmp")
TEMPORARY = expression(r"\.[a-z-]+\.(json|txt)\.\d+\.tmp")  # the names that files.write_atomic uses


def key(entry: Entry) -> str:
    """The key of a file's object: a hash of content, mode, owner, attributes and whether it may be linked. It is the object's file name."""
    text = f"{entry.sha256}\0{entry.mode:o}\0{entry.uid}\0{entry.gid}\0{'link' if is_linkable(entry) else 'copy'}"
    attributes = "".join(f"\0{name}\0{value}" for name, value in entry.attributes) if entry.attributes else ""
    return hashlib.sha256((text + attributes).encode()).hexdigest()


class Store:
    """The objects of the system at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = trust.below(root, OBJECTS)
        # Joined as text: pathlib takes longer than the system call that follows, and a layer has thousands of files.
        self._prefix = f"{self.objects}/"
        self._faults: dict[str, str] = {}

    def file(self, entry: Entry) -> str:
        """The path of an entry's object."""
        name = key(entry)
        return f"{self._prefix}{name[:2]}/{name}"

    def path(self, name: str) -> Path:
        """The path of the object with this key."""
        return self.objects / name[:2] / name

    def put(self, source: Path, entry: Entry) -> str:
        """Copies the content of ``source`` into the store, unless a good object is already there. Returns its key.

        Raises DataError if ``source`` is not what ``entry`` says; OSError.
        """
        name = key(entry)
        path = self.path(name)
        if not self._problem(entry):
            return name
        for folder in (self.objects.parent, self.objects, path.parent):
            files.make_private(folder)
        temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            with files.named(path):
                self._copy(source, temporary, entry)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return name

    def _copy(self, source: Path, temporary: Path, entry: Entry) -> None:
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            writing = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                found = files.copy_hashed(reading, writing)
                for name in tree.attribute_names(writing, True):  # from a default access control list of a folder above
                    os.removexattr(writing, name)
                os.fchown(writing, *((entry.uid, entry.gid) if is_linkable(entry) else (os.geteuid(), os.getegid())))
                os.fchmod(writing, entry.mode if is_linkable(entry) else 0o600)
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        if found != (entry.sha256, entry.size):
            raise DataError(f"{source}: it changed while it was put into the store", code="bad_data")

    # --- checks -----------------------------------------------------------------------------------------------------

    def problems(self, entries: Iterable[Entry]) -> tuple[str, ...]:
        """What is wrong with the objects of ``entries``, in words. Reads and hashes every content, in parallel."""
        unique: dict[str, Entry] = {}
        for entry in entries:
            if entry.type == "file":
                unique.setdefault(key(entry), entry)
        return tuple(filter(None, each(self._problem, unique.values())))

    def status_problems(self, entries: Iterable[Entry]) -> tuple[str, ...]:
        """What is wrong by status alone, in words: an object that is missing, truncated or changed through a link. No content is read."""
        return tuple(filter(None, (self._status_problem(entry) for entry in entries if entry.type == "file")))

    def _folder_fault(self, path: str) -> str:
        """Why the folder of an object is not used, in words; "" if it is root's alone. Asked once for each folder."""
        folder = path.rpartition("/")[0]
        if folder not in self._faults:
            self._faults[folder] = trust.folder_fault(self.objects) or trust.folder_fault(folder)
        return self._faults[folder]

    def _status_problem(self, entry: Entry) -> str:
        path = self.file(entry)
        fault = self._folder_fault(path)
        if fault:
            return f"the folder {path.rpartition('/')[0]} of the object of /{entry.path} in the store: {fault}"
        is_shared = is_linkable(entry)
        try:
            status = os.lstat(path)
            extra = is_shared and tree.attribute_names(path, False)
        except OSError as error:
            return f"the object of /{entry.path} in the store: {error.strerror}"
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return f"the object of /{entry.path} in the store does not have the recorded size"
        found = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        wanted = (entry.mode, entry.uid, entry.gid) if is_shared else (0o600, os.geteuid(), os.getegid())
        if found != wanted or extra:
            return f"the object of /{entry.path} in the store does not have the mode, owner and attributes with which it was stored"
        return ""

    def _problem(self, entry: Entry) -> str:
        problem = self._status_problem(entry)
        if problem:
            return problem
        try:
            same = files.sha256(Path(self.file(entry))) == entry.sha256
        except OSError as error:
            return f"the object of /{entry.path} in the store: {error.strerror}"
        return "" if same else f"the object of /{entry.path} in the store does not have the recorded content"

    def holds(self, entry: Entry) -> bool:
        """Whether the object of ``entry`` has the right content, whatever its own mode and owner are now."""
        if entry.type != "file":
            return True
        path = self.file(entry)
        try:
            status = os.lstat(path)
            is_meant = stat.S_ISREG(status.st_mode) and status.st_size == entry.size and not self._folder_fault(path)
            return is_meant and files.sha256(Path(path)) == entry.sha256
        except OSError:
            return False

    def set_aside(self, entry: Entry) -> str:
        """Also keeps the object of ``entry`` in ``ORIGINALS``, for whoever wants the file back: as a hard link, which needs no space, named
        after the key and the file. Returns its path, relative to the root, or "" if there is no such object. Raises OSError."""
        if entry.type != "file":
            return ""
        name = f"{ORIGINALS}/{key(entry)[:16]}-{entry.path.rpartition('/')[2][:50]}"
        try:
            kept = trust.below(self.root, name)
            files.make_private(kept.parent)
            os.link(self.file(entry), kept, follow_symlinks=False)
        except FileExistsError:
            return name if kept.is_file() else ""
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise
            return ""  # there is no object, or something else is in its place
        return name

    # --- garbage collection -----------------------------------------------------------------------------------------

    def referenced(self) -> set[str]:
        """Keys of all objects that a manifest, the activation record or its journal names. Raises DataError if one of these is invalid."""
        layers, unreadable = read_all(self.root)
        if unreadable:
            raise DataError(f"it is not known which objects of the store are needed: {unreadable[0]}", code=_CODE)
        names = {key(entry) for layer in layers for entry in objects_of(layer)}
        under_way = activation_record.read_journal(self.root)
        for active in (activation_record.read(self.root), under_way and under_way.activation):
            names |= {key(kept.entry) for kept in active.all_kept if kept.entry.type == "file"} if active else set()
        return names

    def collect(self) -> int:
        """Drops objects that no document names, temporary files, and folders of layers without a manifest. Returns how many it dropped.

        Files whose names are not ours are kept. Raises DataError, and drops nothing, if a document of the store cannot be read.
        """
        needed = self.referenced()
        dropped = self.sweep()
        for folder in _folders(self.objects):
            for path in folder.iterdir():
                if OBJECT.fullmatch(path.name) and path.name not in needed and not path.is_dir():
                    path.unlink()
                    dropped += 1
            remove_empty_folder(folder)
        for folder in _folders(trust.below(self.root, LAYERS)):
            if not (folder / "manifest.json").exists():
                dropped += drop_layer_folder(folder)
        return dropped

    def sweep(self) -> int:
        """Drops the temporary files of documents whose writing was interrupted. Returns how many it dropped."""
        store = trust.below(self.root, STORE)
        folders = (store, *_folders(trust.below(self.root, LAYERS)))
        left = [path for folder in folders for path in matching(folder, ".*.tmp") if TEMPORARY.fullmatch(path.name) and not path.is_dir()]
        for path in left:
            path.unlink()
        return len(left)

    def drop(self, entries: Iterable[Entry]) -> None:
        """Drops the objects of ``entries`` that no document names any more. Drops nothing if a document of the store cannot be read."""
        try:
            needed = self.referenced()
        except DataError:
            return
        for entry in entries:
            path = self.path(key(entry))
            if entry.type == "file" and key(entry) not in needed and not path.is_dir():
                path.unlink(missing_ok=True)


def objects_of(layer: Manifest) -> Iterator[Entry]:
    """The entries of a layer whose contents are objects in the store; none for a layer without objects."""
    if layer.stored:
        yield from (entry for entry in layer.files if entry.type == "file")
        yield from (index.after for index in layer.indexes)


def _folders(top: Path) -> list[Path]:
    try:
        return [path for path in sorted(top.iterdir()) if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []
