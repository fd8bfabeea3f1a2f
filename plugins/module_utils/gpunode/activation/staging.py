"""Stages files beside their places and renames them, so that a name appears with its whole content or not at all.

There are two phases, with a flush of the filesystem between them: first everything is made under a temporary name beside its place
(*staged*), then it gets its own name. Not even a power cut leaves a name without its contents, and one flush serves all files.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..driver import dkms
from ..errors import CommandError, LayerError
from ..store.activation_record import COPY, LINK, MADE, REFLINK, Kept
from ..store.linking import is_linkable
from ..store.objects import Store
from ..system import tree
from ..system.tree import Entry
from ..util import files
from ..util.run import Runner

_FICLONE = 0x40049409  # ioctl_ficlone(2)
CLONE_FROM = 1 << 16  # bytes; a smaller file is copied faster than cloned
_NO_CLONE = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # ELOOP if a folder above has become a loop of links
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
_SELINUX = "sys/fs/selinux/enforce"
_AT_ONCE = 200  # paths on one command line
_TOOL_S = 120.0


class Staging:
    """Stages and places the contents of ``store`` below ``root``."""

    def __init__(self, root: Path, store: Store) -> None:
        self.store = store
        self.selinux = (root / _SELINUX).exists()
        self._prefix = str(root).rstrip("/") + "/"
        self._store_device = os.stat(store.objects if store.objects.exists() else root).st_dev
        self._clones: dict[int, bool] = {}
        self._links: dict[str, bool] = {}
        self._devices: dict[str, int] = {}
        self._tops: dict[int, str] = {}
        self._staged: dict[str, str] = {}

    def staged(self, path: str) -> str:
        """The temporary name beside ``path``. It is always the same, so the next run finds it."""
        if path not in self._staged:
            folder = path.rpartition("/")[0]
            self._staged[path] = f"{self._prefix}{folder}/.gpu-prebake.{hashlib.sha256(os.fsencode(path)).hexdigest()[:20]}"
        return self._staged[path]

    def device(self, folder: str) -> int:
        """The device number of a folder's filesystem. The next ``flush`` includes that filesystem."""
        if folder not in self._devices:
            path = self._prefix + folder
            self._devices[folder] = device = os.stat(path).st_dev
            self._tops.setdefault(device, _top_of_filesystem(path, device))
        return self._devices[folder]

    def flush(self) -> None:
        """Flushes the filesystems that were used, and the store's, to the disk."""
        store = self.store.objects.parent
        tops = {**self._tops, self._store_device: str(store)} if store.is_dir() else self._tops
        for path in tops.values():
            files.sync_filesystem(Path(path))

    def label(self, runner: Runner, paths: Sequence[str], say: Callable[[str], None]) -> None:
        """With SELinux on, labels ``paths`` by the node's policy. Without restorecon, they keep the labels that the kernel gave them."""
        if not self.selinux or self._prefix != "/":
            return
        for start in range(0, len(paths), _AT_ONCE):
            try:
                runner.run(["restorecon", "-F", *(f"/{path}" for path in paths[start : start + _AT_ONCE])], timeout_s=_TOOL_S)
            except CommandError as error:
                say(f"SELinux labels are not set by the policy: {error}")
                return

    # --- staging ----------------------------------------------------------------------------------------------------

    def stage(self, entry: Entry, replaces: bool) -> str:
        """Makes a file or link under its temporary name; returns how: ``MADE``, ``LINK``, ``REFLINK`` or ``COPY``.

        A hard link that replaces nothing needs no staging. Raises OSError; LayerError if the object's content is not the entry's.
        """
        temporary = self.staged(entry.path)
        folder = entry.path.rpartition("/")[0]
        if entry.type == "link":
            self.device(folder)
            os.symlink(entry.target, temporary)
            os.lchown(temporary, entry.uid, entry.gid)
            _set_attributes(temporary, entry)
            return MADE
        if self._may_link(entry, folder):
            if replaces:
                os.link(self.store.file(entry), temporary)
            return LINK
        return self._copy(entry, temporary, folder)

    def stage_kept(self, kept: Kept) -> None:
        """Makes a backup under its temporary name; never as a hard link, because the file belongs to the node."""
        entry = kept.entry
        temporary = self.staged(entry.path)
        if entry.type == "link":
            self.stage(entry, True)
        else:
            self._copy(entry, temporary, entry.path.rpartition("/")[0])
        os.utime(temporary, ns=(kept.mtime_ns, kept.mtime_ns), follow_symlinks=False)

    def _may_link(self, entry: Entry, folder: str) -> bool:
        if self.selinux or not is_linkable(entry) or self.device(folder) != self._store_device or self._can_clone(self._store_device):
            return False
        if folder not in self._links:  # a bind mount has the same device, but no hard link may cross it
            self._links[folder] = self._try_link(entry)
        return self._links[folder]

    def _try_link(self, entry: Entry) -> bool:
        temporary = self.staged(entry.path)
        try:
            os.link(self.store.file(entry), temporary)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        os.unlink(temporary)
        return True

    def _can_clone(self, device: int) -> bool:
        """Whether the store's filesystem can make reflinks; tried once, in the store itself."""
        if device not in self._clones:
            self._clones[device] = device == self._store_device and _clones(self.store.objects)
        return self._clones[device]

    def _copy(self, entry: Entry, temporary: str, folder: str) -> str:
        device = self.device(folder)
        how = COPY
        reading = os.open(self.store.file(entry), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            writing = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if entry.size >= CLONE_FROM and self._can_clone(device) and _clone(reading, writing):
                    how = REFLINK
                elif files.copy_hashed(reading, writing) != (entry.sha256, entry.size):
                    raise LayerError(
                        f"the object of /{entry.path} in the store does not have the recorded content: bake again",
                        code="layer_damaged",
                    )
                os.fchown(writing, entry.uid, entry.gid)
                _set_attributes(writing, entry)
                os.fchmod(writing, entry.mode)  # last, because a change of owner clears the setuid bit
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        return how

    # --- names ------------------------------------------------------------------------------------------------------

    def make_folder(self, path: str, entry: Entry | None) -> None:
        """Makes a folder as ``entry`` says, or with mode 0755: under a temporary name first, so that it is never there half made.

        If the name has come into use meanwhile, rename(2) refuses it with OSError, unless it is an empty folder.
        """
        temporary = self.staged(path)
        os.mkdir(temporary, 0o700)
        if entry:
            _set_folder(temporary, entry)
        else:
            os.chmod(temporary, 0o755)
        os.rename(temporary, self._prefix + path)
        self.device(path)

    def set_folder(self, entry: Entry) -> None:
        """Gives a folder its owner, attributes and mode. An interruption leaves a mixture of the old and the new."""
        _set_folder(self._prefix + entry.path, entry)

    def place(self, entry: Entry, how: str, replaces: bool) -> None:
        """Gives what was staged its name. If it is to replace nothing, link(2) refuses a name that is in use meanwhile (rule R6)."""
        target, temporary = self._prefix + entry.path, self.staged(entry.path)
        if replaces:
            os.replace(temporary, target)
        elif how == LINK:
            os.link(self.store.file(entry), target)
        else:
            os.link(temporary, target, follow_symlinks=False)
            os.unlink(temporary)

    def remove(self, path: str) -> None:
        """Removes a file or link; one that is gone already is no error."""
        try:
            os.unlink(self._prefix + path)
        except FileNotFoundError:
            return
        self.device(path.rpartition("/")[0])

    def remove_folder(self, path: str) -> bool:
        """Removes a folder, if it is there. Returns False if it cannot be removed, because it is not empty or a mount point."""
        try:
            os.rmdir(self._prefix + path)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return True
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):  # EBUSY for a mount point
                return False
            raise
        self.device(path.rpartition("/")[0])
        return True

    def sweep(self, paths: Iterable[str]) -> None:
        """Removes what an interrupted run had staged for ``paths``."""
        for path in paths:
            try:
                os.unlink(self.staged(path))
            except IsADirectoryError:
                os.rmdir(self.staged(path))
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise


def _top_of_filesystem(path: str, device: int) -> str:
    """The uppermost folder of the filesystem that holds ``path``. It is none of the folders that we make or remove, so it stays."""
    while True:
        above = os.path.dirname(path.rstrip("/")) or "/"
        if above == path or os.stat(above).st_dev != device:
            return path
        path = above


def _set_folder(target: str, entry: Entry) -> None:
    os.chown(target, entry.uid, entry.gid)
    _set_attributes(target, entry)
    os.chmod(target, entry.mode)


def _set_attributes(target: str | int, entry: Entry) -> None:
    """Sets exactly the entry's attributes, and removes others: a new file gets some from its folder's default access control list."""
    follow = isinstance(target, int)  # for a descriptor, os accepts the argument only with its default value
    wanted = dict(entry.attributes)
    for name in tree.attribute_names(target, follow):
        if name not in wanted:
            os.removexattr(target, name, follow_symlinks=follow)
    for name, value in wanted.items():
        os.setxattr(target, name, base64.b64decode(value), follow_symlinks=follow)


def _clone(reading: int, writing: int) -> bool:
    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _clones(folder: Path) -> bool:
    """Whether a folder's filesystem can make reflinks: tries one between two files without names."""
    try:
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        source = os.open(folder, flags, 0o600)
    except OSError:
        return False  # no O_TMPFILE: such a filesystem cannot make reflinks either
    try:
        target = os.open(folder, flags, 0o600)
        try:
            os.write(source, b"x" * 4096)
            return _clone(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Sorts by the order of placing: DKMS's tree last, and in it the links that make a version count as installed last of all."""

    def rank(entry: Entry) -> tuple[int, str]:
        is_dkms = entry.path.startswith(f"{dkms.TREE}/")
        return (0 if not is_dkms else 2 if entry.type == "link" and "/kernel-" in entry.path else 1), entry.path

    return tuple(sorted(entries, key=rank))
