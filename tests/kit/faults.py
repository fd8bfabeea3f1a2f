"""Faults at any effect: a killed process, a filesystem that breaks, a power cut.

An effect is one change of the filesystem, or one flush.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.gpu.prebake.plugins.module_utils.gpunode.util import files

CHANGES = (  # functions of os that change the filesystem
    *("link", "symlink", "unlink", "replace", "rename", "mkdir", "rmdir", "utime", "write"),
    *("chmod", "fchmod", "chown", "fchown", "lchown", "setxattr", "removexattr"),
)
GROWING = ("link", "symlink", "mkdir", "write")  # those of CHANGES that a full filesystem refuses
MOST_EFFECTS = 2000  # more than anything under test has
# A fault at every 19th effect, and with the marker at every one.
SOME = [pytest.param(19, id="some"), pytest.param(1, id="all", marks=pytest.mark.faults)]


def clone(source: Path, target: Path) -> None:
    """A copy with hard links, modes, owners and times."""
    seen: dict[int, str] = {}

    def copy(one: str, other: str) -> str:
        status = os.lstat(one)
        if status.st_ino in seen:
            os.link(seen[status.st_ino], other)
        elif stat.S_ISCHR(status.st_mode):  # a whiteout
            os.mknod(other, status.st_mode, status.st_rdev)
        else:
            shutil.copy2(one, other, follow_symlinks=False)
            os.chown(other, status.st_uid, status.st_gid, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                Path(other).chmod(stat.S_IMODE(status.st_mode))
            seen[status.st_ino] = other
        return other

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
    for folder, _folders, _names in os.walk(source):
        status = os.lstat(folder)
        copied = target / Path(folder).relative_to(source)
        os.chown(copied, status.st_uid, status.st_gid)
        copied.chmod(stat.S_IMODE(status.st_mode))


def watched(before: Callable[[str, tuple[Any, ...]], None]) -> Iterator[Any]:
    """Patches that call ``before`` with the name and arguments of each effect before it happens; a flush is not done."""
    for name in CHANGES:
        original = getattr(os, name)

        def effect(*args: Any, original: Callable[..., Any] = original, name: str = name, **options: Any) -> Any:
            before(name, args)
            return original(*args, **options)

        yield mock.patch.object(os, name, effect)
    for owner, name in ((files, "sync_file"), (files, "sync_folder"), (files, "sync_filesystem"), (os, "sync")):

        def flush(*args: Any, name: str = name) -> None:
            before("sync_filesystem" if name == "sync" else name, args or ("/",))

        yield mock.patch.object(owner, name, flush)


class Counter:
    """Calls ``at`` at effect number ``last``."""

    def __init__(self, last: int, at: Callable[[], None]) -> None:
        self.last = last
        self.at = at
        self.count = 0

    def __call__(self, name: str, args: tuple[Any, ...]) -> None:
        self.count += 1
        if self.count == self.last:
            self.at()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_child(work: Callable[[], object]) -> bool:
    """Runs ``work`` in a process of its own; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


class Broken:
    """From effect number ``first`` on, each of the effects ``names`` fails with the errno ``number``; others are not counted."""

    def __init__(self, first: int, number: int, names: Iterable[str]) -> None:
        self.first = first
        self.number = number
        self.names = set(names)
        self.count = 0

    def __call__(self, name: str, args: tuple[Any, ...]) -> None:
        if name not in self.names:
            return
        self.count += 1
        if self.count >= self.first:
            raise OSError(self.number, os.strerror(self.number), str(args[0]))


def opens(broken: Broken) -> Any:
    """A patch that counts creating a file as the effect ``open`` of ``broken``."""
    real = os.open

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            broken("open", (path,))
        return real(path, flags, *args, **options)

    return mock.patch.object(os, "open", opened)


class PowerCut(BaseException):
    """The machine has lost its power: what this process still does is done to a tree that nobody looks at."""


class Disk:
    """The trees that a power cut at effect number ``last`` may leave, below ``folder``.

    Of what was done since the last flush, ``durable`` has nothing, ``gone`` has the removals only, and ``empty`` has all names but no
    contents: the extremes of what a filesystem may do.
    """

    def __init__(self, root: Path, folder: Path, last: int) -> None:
        self.root = root
        self.durable, self.gone, self.empty = folder / "durable", folder / "gone", folder / "empty"
        for path in self.trees:
            shutil.rmtree(path, ignore_errors=True)
        clone(root, self.durable)
        self.synced = {path.lstat().st_ino for path in root.rglob("*")}
        self.contents: dict[int, bytes] = {}
        self.last = last
        self.count = 0
        self.is_cut = self.is_looking = False

    @property
    def trees(self) -> tuple[Path, ...]:
        return self.durable, self.gone, self.empty

    def __call__(self, name: str, args: tuple[Any, ...]) -> None:
        if self.is_looking:
            return  # an effect of this class's own copying
        if self.is_cut:
            raise PowerCut
        self.count += 1
        self.is_looking = True
        try:
            self._see(name, args)
        finally:
            self.is_looking = False
        if self.count == self.last:
            self.is_cut = True
            raise PowerCut

    def _see(self, name: str, args: tuple[Any, ...]) -> None:
        if self.count == self.last:
            self._leave()
        elif name == "sync_filesystem":
            shutil.rmtree(self.durable)
            clone(self.root, self.durable)
            self.synced = {path.lstat().st_ino for path in self.root.rglob("*")}
        elif name == "sync_file":
            status = os.fstat(args[0])
            self.contents[status.st_ino] = Path(f"/proc/self/fd/{args[0]}").read_bytes()
            self.synced.add(status.st_ino)
        elif name == "sync_folder":
            self._sync_folder(Path(args[0]))

    def _sync_folder(self, folder: Path) -> None:
        there = self.durable / folder.relative_to(self.root)
        there.mkdir(parents=True, exist_ok=True)
        for path in there.iterdir():
            if not (folder / path.name).is_symlink() and not (folder / path.name).exists():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in folder.iterdir():
            status = path.lstat()
            if path.is_symlink() or path.is_dir() or ((there / path.name).exists() and status.st_ino not in self.contents):
                continue
            (there / path.name).write_bytes(self.contents.get(status.st_ino, b""))
            (there / path.name).chmod(stat.S_IMODE(status.st_mode))

    def _leave(self) -> None:
        clone(self.durable, self.gone)
        for path in sorted(self.gone.rglob("*"), reverse=True):
            if not os.path.lexists(self.root / path.relative_to(self.gone)):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        clone(self.root, self.empty)
        for path in self.root.rglob("*"):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_ino not in self.synced:
                os.truncate(self.empty / path.relative_to(self.root), 0)
